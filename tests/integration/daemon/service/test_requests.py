"""The request queue: who may request what, and how requests run and end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql
from tests.integration.search_helpers import request, row, run_searches, settings, tuned
from tests.integration.table_helpers import Connection, clustered, enable, make, named, one, plain_role

from vectuned.config.errors import VectunedError
from vectuned.daemon.service.requests import run_next_request
from vectuned.daemon.service.service import Service
from vectuned.daemon.work.worker import Worker

Run = Callable[[Callable[[int], None]], dict[str, Any]]


class StubJob:
    """A job that runs a function of the test."""

    total = 5

    def __init__(self, worker: Worker, run: Run) -> None:
        self.worker = worker
        self.run = run


@pytest.fixture
def column(conn: Connection) -> int:
    """A small tuned column."""
    make(conn, clustered(100, 4, seed=1))
    return enable(conn)


def run_instead(
    database: str,
    run: Callable[[Worker, Callable[[int], None]], Any],
    stop: threading.Event | None = None,
) -> bool:
    """Run the next request by calling `run` in place of its job; progress is written 20 times a second."""
    return run_next_request(
        database,
        settings(),
        stop,
        prepare=lambda worker, *_: StubJob(worker, lambda progress: run(worker, progress)),
        progress_seconds=0.05,
    )


def eventually(conn: Connection, statement: str, *values: object) -> None:
    """Wait until a statement returns true."""
    deadline = time.monotonic() + 300
    while not one(conn, statement, *values):
        assert time.monotonic() < deadline, statement
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ("auto_tune('items', optimize_for => 'speed')", errors.InvalidParameterValue, "got speed"),
        ("auto_tune('items', optimize_for => NULL)", errors.InvalidParameterValue, "got NULL"),
        ("auto_tune('items', sample_queries => -1)", errors.InvalidParameterValue, "between 0 and 10000"),
        ("auto_tune('items', sample_queries => 10001)", errors.InvalidParameterValue, "between 0 and 10000"),
        ("auto_tune('items', apply => NULL)", errors.NullValueNotAllowed, "apply"),
        ("benchmark_recall('items', k => 0)", errors.InvalidParameterValue, "k must be between 1 and 1000"),
        ("benchmark_recall('items', k => 1001)", errors.InvalidParameterValue, "k must be between"),
        ("benchmark_recall('items', k => NULL)", errors.InvalidParameterValue, "got NULL"),
        ("benchmark_recall('items', sample_queries => 19)", errors.InvalidParameterValue, "between 20"),
        ("benchmark_recall('items', sample_queries => 10001)", errors.InvalidParameterValue, "got 10001"),
        ("benchmark_recall('items', perturbed => NULL)", errors.NullValueNotAllowed, "perturbed"),
        ("benchmark_latency('items', percentiles => '{1.5}')", errors.InvalidParameterValue, "percentiles"),
        ("benchmark_latency('items', percentiles => '{-0.1}')", errors.InvalidParameterValue, "got .-0.1"),
        ("benchmark_latency('items', percentiles => '{}')", errors.InvalidParameterValue, "1 to 20 numbers"),
        ("benchmark_latency('items', percentiles => '{NULL}')", errors.InvalidParameterValue, "null"),
        ("benchmark_latency('items', percentiles => '{NaN}')", errors.InvalidParameterValue, "NaN"),
        ("benchmark_latency('items', percentiles => '{{0.5},{0.9}}')", errors.InvalidParameterValue, "0.9"),
        ("benchmark_latency('items', percentiles => NULL)", errors.InvalidParameterValue, "null"),
        ("benchmark_recall('others')", errors.UndefinedObject, "has no column that vectuned tunes"),
        ("benchmark_recall('items', 'id')", errors.UndefinedObject, "has no column that vectuned tunes"),
        ("benchmark_recall('items', 'nothing')", errors.UndefinedColumn, "does not exist"),
        ("cancel_request(17)", errors.UndefinedObject, "there is no request 17"),
        ("request_result(17)", errors.UndefinedObject, "there is no request 17"),
        ("request_result(NULL)", errors.UndefinedObject, "there is no request NULL"),
    ],
)
@pytest.mark.usefixtures("column")
def test_request_with_invalid_arguments_is_refused(
    conn: Connection, call: str, error: type[psycopg.Error], message: str
) -> None:
    make(conn, clustered(20, 4, seed=2), table="others")
    with pytest.raises(error, match=message):
        request(conn, call)
    assert one(conn, "SELECT count(*) FROM vectuned.request") == 0


@pytest.mark.usefixtures("column")
def test_request_returns_at_once_with_a_notice_if_no_daemon_runs(conn: Connection) -> None:
    notices: list[str] = []
    conn.add_notice_handler(lambda notice: notices.append(str(notice.message_primary)))
    with psycopg.connect(conn.info.dsn, autocommit=True) as listener:
        listener.execute("LISTEN vectuned")
        number = request(conn, "benchmark_recall('items')")
        payload = next(listener.notifies(timeout=300, stop_after=1)).payload
    assert f'"request_id": {number}' in payload
    assert notices == [f"request {number} waits: no daemon is running in this database"]
    assert row(conn, number) == ("queued", None, None)
    assert "vectuned run" in one(conn, "SELECT note FROM vectuned.requests")
    arguments = one(conn, "SELECT arguments FROM vectuned.requests")
    assert arguments == {"k": 10, "sample_queries": 200, "filtered": False, "perturbed": False}
    assert one(conn, "SELECT state FROM vectuned.request_result(%s, '0.3 s')", number) == "queued"
    with psycopg.connect(conn.info.dsn, autocommit=True) as daemon:
        daemon.execute("SELECT pg_advisory_lock_shared(hashtextextended('vectuned.daemon', 0))")
        assert one(conn, "SELECT note FROM vectuned.requests") is None
        request(conn, "benchmark_recall('items')")
    assert len(notices) == 1


@pytest.mark.usefixtures("column")
def test_request_result_refuses_to_wait_where_the_result_cannot_appear(conn: Connection) -> None:
    with conn.transaction():
        number = request(conn, "benchmark_recall('items')")
        assert one(conn, "SELECT state FROM vectuned.request_result(%s)", number) == "queued"
        with pytest.raises(errors.ActiveSqlTransaction, match="once it is committed"), conn.transaction():
            conn.execute("SELECT vectuned.request_result(%s, '1 min')", (number,))
    with conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        with pytest.raises(errors.ActiveSqlTransaction, match="repeatable read"), conn.transaction():
            conn.execute("SELECT vectuned.request_result(%s, '1 min')", (number,))
    for wait in ("-1 s", "2 h"):
        with pytest.raises(errors.InvalidParameterValue, match="wait must be between"):
            conn.execute("SELECT vectuned.request_result(%s, %s::interval)", (number, wait))


@pytest.mark.usefixtures("column")
def test_request_beyond_ten_for_a_column_is_refused(conn: Connection) -> None:
    make(conn, clustered(20, 4, seed=2), table="others")
    enable(conn, "others")
    for _ in range(10):
        last = request(conn, "auto_tune('items')")
    with pytest.raises(
        errors.ProgramLimitExceeded, match=r"10 requests on public\.items.embedding are already waiting"
    ):
        request(conn, "benchmark_recall('items')")
    request(conn, "benchmark_recall('others')")
    assert one(conn, "SELECT vectuned.cancel_request(%s)", last) == "cancelled"
    request(conn, "benchmark_recall('items')")


def test_request_requires_ownership_of_the_table(conn: Connection, database: str) -> None:
    make(conn, clustered(100, 4, seed=1))
    make(conn, clustered(20, 4, seed=2), table="others")
    enable(conn)
    enable(conn, "others")
    foreign = request(conn, "benchmark_recall('others')")
    with plain_role(conn, database, "SELECT ON items") as reader:
        role = sql.Identifier(reader.info.user)
        for call in (
            "auto_tune('items')",
            "benchmark_recall('items')",
            "benchmark_latency('items')",
            f"cancel_request({foreign})",
            f"request_result({foreign})",
        ):
            with pytest.raises(errors.InsufficientPrivilege, match="permission denied for function"):
                reader.execute(f"SELECT vectuned.{call}".encode())
        with pytest.raises(errors.InsufficientPrivilege):
            reader.execute("SELECT * FROM vectuned.requests")

        functions = "auto_tune, vectuned.benchmark_recall, vectuned.cancel_request, vectuned.request_result"
        conn.execute(f"GRANT EXECUTE ON FUNCTION vectuned.{functions} TO ".encode() + role.as_bytes())
        conn.execute(sql.SQL("GRANT SELECT ON vectuned.requests TO {}").format(role))
        with pytest.raises(errors.InsufficientPrivilege, match=r"must be owner of public\.items"):
            request(reader, "auto_tune('items')")
        with pytest.raises(
            errors.InsufficientPrivilege, match=f"owner of public.others to see request {foreign}"
        ):
            reader.execute("SELECT vectuned.cancel_request(%s)", (foreign,))
        assert reader.execute("SELECT * FROM vectuned.requests").fetchall() == []

        conn.execute(sql.SQL("ALTER TABLE {} OWNER TO {}").format(named("items"), role))
        own = request(reader, "auto_tune('items')")
        assert one(reader, "SELECT state FROM vectuned.request_result(%s)", own) == "queued"
        visible = reader.execute("SELECT request_id, requested_by FROM vectuned.requests").fetchall()
        assert visible == [(own, reader.info.user)]
        assert one(reader, "SELECT vectuned.cancel_request(%s)", own) == "cancelled"
        assert one(conn, "SELECT count(*) FROM vectuned.requests") == 2
        # After SET ROLE, the rights are those of the other role.
        conn.execute(sql.SQL("ALTER TABLE {} OWNER TO CURRENT_USER").format(named("items")))
        conn.execute(sql.SQL("SET ROLE {}").format(role))
        with pytest.raises(errors.InsufficientPrivilege, match=r"must be owner of public\.items"):
            request(conn, "auto_tune('items')")
        conn.execute("RESET ROLE")


def test_request_for_a_disabled_column_may_measure_but_not_tune(conn: Connection, column: int) -> None:
    conn.execute("SELECT vectuned.disable('items', 'embedding')")
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="was disabled"):
        request(conn, "auto_tune('items')")
    request(conn, "benchmark_recall('items')")
    assert one(conn, "SELECT column_id FROM vectuned.request") == column
    conn.execute("SELECT vectuned.disable('items', 'embedding', forget => true)")
    assert one(conn, "SELECT count(*) FROM vectuned.request") == 0


@pytest.mark.usefixtures("column")
def test_run_next_request_shows_its_progress_and_result_to_others(conn: Connection, database: str) -> None:
    may_end = threading.Event()

    def run(worker: Worker, progress: Callable[[int], None]) -> dict[str, Any]:
        with worker.conn.transaction():
            progress(3)
            assert may_end.wait(600)
        return {"found": 1}

    first, second = (request(conn, "auto_tune('items')") for _ in range(2))
    daemon = threading.Thread(target=run_instead, args=(database, run), daemon=True)
    daemon.start()
    try:
        seen = "SELECT (state, done, total) = ('running', 3, 5) FROM vectuned.requests WHERE request_id = %s"
        eventually(conn, seen, first)
        assert row(conn, second)[0] == "queued"
        # Another daemon runs neither of them.
        assert not run_next_request(database, settings())
        with psycopg.connect(database, autocommit=True) as waiting:
            threading.Timer(0.5, may_end.set).start()
            found = waiting.execute(
                "SELECT * FROM vectuned.request_result(%s, '10 min')", (first,)
            ).fetchone()
    finally:
        may_end.set()
        daemon.join()
    assert found == ("done", 5, 5, {"found": 1}, None)
    times = conn.execute(
        "SELECT finished_at - started_at, started_at - requested_at FROM vectuned.requests "
        "WHERE request_id = %s",
        (first,),
    ).fetchone()
    assert times is not None
    assert all(timedelta(0) < each < timedelta(hours=1) for each in times)
    assert run_instead(database, run)
    assert row(conn, second)[0] == "done"
    assert not run_next_request(database, settings())


@pytest.mark.usefixtures("column")
@pytest.mark.parametrize("long_statement", [True, False])
def test_cancel_request_ends_a_running_request(conn: Connection, database: str, long_statement: bool) -> None:
    def run(worker: Worker, progress: Callable[[int], None]) -> dict[str, Any]:
        with worker.conn.transaction():
            worker.conn.execute("CREATE TABLE half_done ()")
            if long_statement:
                worker.conn.execute("SELECT pg_sleep(3600)")
            while True:
                time.sleep(0.1)
                progress(1)

    number = request(conn, "auto_tune('items')")
    daemon = threading.Thread(target=run_instead, args=(database, run), daemon=True)
    daemon.start()
    eventually(conn, "SELECT state = 'running' FROM vectuned.requests")
    assert one(conn, "SELECT vectuned.cancel_request(%s)", number) == "cancelling"
    daemon.join(60)  # without a cancel it would run for an hour
    assert not daemon.is_alive()
    assert row(conn, number) == ("cancelled", None, None)
    assert one(conn, "SELECT vectuned.cancel_request(%s)", number) == "cancelled"
    assert one(conn, "SELECT to_regclass('half_done')") is None


@pytest.mark.usefixtures("column")
def test_run_next_request_that_fails_records_the_error_and_the_next_one_runs(
    conn: Connection, database: str
) -> None:
    failures: list[Callable[[Worker], Any]] = [
        lambda worker: worker.conn.execute("SELECT 1 / 0"),
        lambda _: (_ for _ in ()).throw(VectunedError("The moon is not full.")),
        lambda _: dict[str, int]()["nothing"],
        lambda worker: worker.conn.close(),
        lambda _: None,
    ]
    waiting = iter(failures)

    def run(worker: Worker, _: Callable[[int], None]) -> dict[str, Any]:
        next(waiting)(worker)
        worker.conn.execute("SELECT 1")
        return {}

    numbers = [request(conn, "auto_tune('items')") for _ in failures]
    while run_instead(database, run):
        pass
    ends = [row(conn, number) for number in numbers]
    assert [state for state, _, _ in ends] == ["failed"] * 4 + ["done"]
    assert [error for _, _, error in ends] == [
        "division by zero",
        "The moon is not full.",
        "an unexpected error, see the daemon's log: KeyError('nothing')",
        "the connection is closed",
        None,
    ]
    assert one(conn, "SELECT vectuned.cancel_request(%s)", numbers[0]) == "failed"


@pytest.mark.usefixtures("column")
def test_run_next_request_retries_abandoned_requests_three_times(conn: Connection, database: str) -> None:
    class Died(BaseException):
        pass

    def die(*_: object) -> dict[str, Any]:
        raise Died

    number = request(conn, "auto_tune('items')")
    for attempt in (1, 2, 3):
        with pytest.raises(Died):
            run_instead(database, die)
        assert row(conn, number)[0] == "running"
        assert one(conn, "SELECT attempts FROM vectuned.request WHERE request_id = %s", number) == attempt
        if attempt == 2:
            # This one was being cancelled when the daemon died.
            other = request(conn, "auto_tune('items')")
            conn.execute("UPDATE vectuned.request SET state = 'running' WHERE request_id = %s", (other,))
            assert one(conn, "SELECT vectuned.cancel_request(%s)", other) == "cancelling"
    assert row(conn, other) == ("cancelled", None, None)
    assert not run_next_request(database, settings())
    assert row(conn, number) == ("failed", None, "the daemon ended 3 times while it worked on this request")


@pytest.mark.usefixtures("column")
def test_run_next_request_stopped_queues_the_request_again(conn: Connection, database: str) -> None:
    def run(worker: Worker, _: Callable[[int], None]) -> Any:
        return worker.conn.execute("SELECT pg_sleep(3600)")

    number, stop = request(conn, "auto_tune('items')"), threading.Event()
    daemon = threading.Thread(target=run_instead, args=(database, run, stop), daemon=True)
    daemon.start()
    eventually(conn, "SELECT state = 'running' FROM vectuned.requests")
    stop.set()
    daemon.join(60)  # without a stop it would run for an hour
    assert not daemon.is_alive()
    assert row(conn, number) == ("queued", None, None)
    assert one(conn, "SELECT attempts FROM vectuned.request") == 0


@pytest.mark.usefixtures("column")
def test_apply_retention_deletes_old_finished_requests(conn: Connection) -> None:
    old, new, waiting = (request(conn, "auto_tune('items')") for _ in range(3))
    for number in (old, new):
        conn.execute("SELECT vectuned.cancel_request(%s)", (number,))
    for number in (old, waiting):
        conn.execute(
            "UPDATE vectuned.request SET requested_at = now() - interval '40 days', "
            "finished_at = finished_at - interval '40 days' WHERE request_id = %s",
            (number,),
        )
    Worker(conn, settings()).maintain()
    left = conn.execute("SELECT request_id FROM vectuned.request ORDER BY 1").fetchall()
    assert left == [(new,), (waiting,)]


def test_service_runs_requests(conn: Connection, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned(conn)
    run_searches(conn, 40)
    chosen = settings(database__dsn=database, schedule__request_seconds=0.1)
    service = Service([("", chosen)], lambda: [])
    monkeypatch.setattr("signal.signal", lambda *_: None)  # which only the main thread may set
    daemon = threading.Thread(target=service.run)
    daemon.start()
    try:
        eventually(conn, "SELECT vectuned._daemon_runs()")
        number = request(conn, "benchmark_recall('items', sample_queries => 20)")
        found = conn.execute("SELECT state, result FROM vectuned.request_result(%s, '10 min')", (number,))
        end = found.fetchone()
        assert end is not None
        assert end[0] == "done"
        assert end[1]["queries"]["recorded"] == 20
    finally:
        service.stop()
        daemon.join()
    eventually(conn, "SELECT NOT vectuned._daemon_runs()")
