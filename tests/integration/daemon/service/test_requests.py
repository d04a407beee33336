"""The queue of requests: who may ask for what, how it goes on, and how it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql
from tests.integration.search_helpers import ask, request, row, settings, tuned
from tests.integration.table_helpers import Connection, clustered, enable, make, named, one, plain_role

from vectuned.config.errors import VectunedError
from vectuned.daemon.service import requests
from vectuned.daemon.service.requests import run_next_request
from vectuned.daemon.service.service import Service
from vectuned.daemon.service.worker import Worker

Run = Callable[[Callable[[int], None]], dict[str, Any]]


class Made:
    """A job made for a test."""

    total = 5

    def __init__(self, worker: Worker, run: Run) -> None:
        self.worker = worker
        self.run = run


@pytest.fixture
def column(conn: Connection) -> int:
    """A small tuned column."""
    make(conn, clustered(100, 4, seed=1))
    return enable(conn)


def instead(monkeypatch: pytest.MonkeyPatch, run: Callable[[Worker, Callable[[int], None]], Any]) -> None:
    """Have every request do this."""
    monkeypatch.setattr(
        requests, "prepare", lambda worker, *_: Made(worker, lambda progress: run(worker, progress))
    )


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have progress told 20 times as often."""
    monkeypatch.setattr(requests, "_TELL_SECONDS", 0.05)


def eventually(conn: Connection, statement: str, *values: object) -> None:
    """Wait until a statement says true."""
    deadline = time.monotonic() + 20
    while not one(conn, statement, *values):
        assert time.monotonic() < deadline, statement
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("call", "error", "said"),
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
def test_what_nothing_can_be_done_with_is_refused(
    conn: Connection, call: str, error: type[psycopg.Error], said: str
) -> None:
    make(conn, clustered(20, 4, seed=2), table="others")
    with pytest.raises(error, match=said):
        request(conn, call)
    assert one(conn, "SELECT count(*) FROM vectuned.request") == 0


@pytest.mark.usefixtures("column")
def test_asking_returns_at_once_and_says_if_nobody_hears(conn: Connection) -> None:
    heard: list[str] = []
    conn.add_notice_handler(lambda notice: heard.append(str(notice.message_primary)))
    with psycopg.connect(conn.info.dsn, autocommit=True) as listener:
        listener.execute("LISTEN vectuned")
        number = request(conn, "benchmark_recall('items')")
        payload = next(listener.notifies(timeout=10, stop_after=1)).payload
    assert f'"request_id": {number}' in payload
    assert heard == [f"request {number} waits: no daemon is running in this database"]
    assert row(conn, number) == ("queued", None, None)
    assert "vectuned run" in one(conn, "SELECT note FROM vectuned.requests")
    arguments = one(conn, "SELECT arguments FROM vectuned.requests")
    assert arguments == {"k": 10, "sample_queries": 200, "filtered": False, "perturbed": False}
    assert one(conn, "SELECT state FROM vectuned.request_result(%s, '0.3 s')", number) == "queued"
    with psycopg.connect(conn.info.dsn, autocommit=True) as daemon:
        daemon.execute("SELECT pg_advisory_lock_shared(hashtextextended('vectuned.daemon', 0))")
        assert one(conn, "SELECT note FROM vectuned.requests") is None
        request(conn, "benchmark_recall('items')")
    assert len(heard) == 1


@pytest.mark.usefixtures("column")
def test_waiting_where_it_would_be_in_vain_is_refused(conn: Connection) -> None:
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
def test_so_many_may_wait_for_a_column(conn: Connection) -> None:
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


def test_only_who_may_change_the_table_may_ask(conn: Connection, database: str) -> None:
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
        seen = reader.execute("SELECT request_id, requested_by FROM vectuned.requests").fetchall()
        assert seen == [(own, reader.info.user)]
        assert one(reader, "SELECT vectuned.cancel_request(%s)", own) == "cancelled"
        assert one(conn, "SELECT count(*) FROM vectuned.requests") == 2
        # An owner that has taken another role has that one's rights.
        conn.execute(sql.SQL("ALTER TABLE {} OWNER TO CURRENT_USER").format(named("items")))
        conn.execute(sql.SQL("SET ROLE {}").format(role))
        with pytest.raises(errors.InsufficientPrivilege, match=r"must be owner of public\.items"):
            request(conn, "auto_tune('items')")
        conn.execute("RESET ROLE")


def test_a_disabled_column_is_measured_and_not_tuned(conn: Connection, column: int) -> None:
    conn.execute("SELECT vectuned.disable('items', 'embedding')")
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="was disabled"):
        request(conn, "auto_tune('items')")
    request(conn, "benchmark_recall('items')")
    assert one(conn, "SELECT column_id FROM vectuned.request") == column
    conn.execute("SELECT vectuned.disable('items', 'embedding', forget => true)")
    assert one(conn, "SELECT count(*) FROM vectuned.request") == 0


@pytest.mark.usefixtures("column", "quick")
def test_others_see_how_far_it_is_and_wait_for_the_end(
    conn: Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()

    def run(worker: Worker, progress: Callable[[int], None]) -> dict[str, Any]:
        with worker.conn.transaction():
            progress(3)
            assert goes_on.wait(20)
        return {"found": 1}

    instead(monkeypatch, run)
    first, second = (request(conn, "auto_tune('items')") for _ in range(2))
    daemon = threading.Thread(target=run_next_request, args=(database, settings()))
    daemon.start()
    try:
        seen = "SELECT (state, done, total) = ('running', 3, 5) FROM vectuned.requests WHERE request_id = %s"
        eventually(conn, seen, first)
        assert row(conn, second)[0] == "queued"
        # Another daemon leaves both alone.
        assert not run_next_request(database, settings())
        with psycopg.connect(database, autocommit=True) as waiting:
            threading.Timer(0.5, goes_on.set).start()
            found = waiting.execute("SELECT * FROM vectuned.request_result(%s, '20 s')", (first,)).fetchone()
    finally:
        goes_on.set()
        daemon.join()
    assert found == ("done", 5, 5, {"found": 1}, None)
    times = conn.execute(
        "SELECT finished_at - started_at, started_at - requested_at FROM vectuned.requests "
        "WHERE request_id = %s",
        (first,),
    ).fetchone()
    assert times is not None
    assert all(timedelta(0) < each < timedelta(minutes=1) for each in times)
    assert run_next_request(database, settings())
    assert row(conn, second)[0] == "done"
    assert not run_next_request(database, settings())


@pytest.mark.usefixtures("column", "quick")
@pytest.mark.parametrize("long_statement", [True, False])
def test_a_request_that_runs_is_cancelled(
    conn: Connection, database: str, monkeypatch: pytest.MonkeyPatch, long_statement: bool
) -> None:
    def run(worker: Worker, progress: Callable[[int], None]) -> dict[str, Any]:
        with worker.conn.transaction():
            worker.conn.execute("CREATE TABLE half_done ()")
            if long_statement:
                worker.conn.execute("SELECT pg_sleep(30)")
            for _ in range(300):
                time.sleep(0.1)
                progress(1)
        return {}

    instead(monkeypatch, run)
    number = request(conn, "auto_tune('items')")
    daemon = threading.Thread(target=run_next_request, args=(database, settings()))
    daemon.start()
    eventually(conn, "SELECT state = 'running' FROM vectuned.requests")
    began = time.monotonic()
    assert one(conn, "SELECT vectuned.cancel_request(%s)", number) == "cancelling"
    daemon.join()
    assert time.monotonic() - began < 10
    assert row(conn, number) == ("cancelled", None, None)
    assert one(conn, "SELECT vectuned.cancel_request(%s)", number) == "cancelled"
    assert one(conn, "SELECT to_regclass('half_done')") is None


@pytest.mark.usefixtures("column")
def test_one_that_fails_says_so_and_the_next_is_done(
    conn: Connection, database: str, monkeypatch: pytest.MonkeyPatch
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

    instead(monkeypatch, run)
    numbers = [request(conn, "auto_tune('items')") for _ in failures]
    while run_next_request(database, settings()):
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
def test_what_a_dead_daemon_left_is_done_again_but_not_for_ever(
    conn: Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Died(BaseException):
        pass

    def die(*_: object) -> dict[str, Any]:
        raise Died

    instead(monkeypatch, die)
    number = request(conn, "auto_tune('items')")
    for attempt in (1, 2, 3):
        with pytest.raises(Died):
            run_next_request(database, settings())
        assert row(conn, number)[0] == "running"
        assert one(conn, "SELECT attempts FROM vectuned.request WHERE request_id = %s", number) == attempt
        if attempt == 2:
            # It was asked to stop when it died.
            other = request(conn, "auto_tune('items')")
            conn.execute("UPDATE vectuned.request SET state = 'running' WHERE request_id = %s", (other,))
            assert one(conn, "SELECT vectuned.cancel_request(%s)", other) == "cancelling"
    assert row(conn, other) == ("cancelled", None, None)
    assert not run_next_request(database, settings())
    assert row(conn, number) == ("failed", None, "the daemon ended 3 times while it worked on this request")


@pytest.mark.usefixtures("column", "quick")
def test_a_daemon_that_stops_puts_it_back(
    conn: Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    instead(monkeypatch, lambda worker, _: worker.conn.execute("SELECT pg_sleep(30)"))
    number, stop = request(conn, "auto_tune('items')"), threading.Event()
    daemon = threading.Thread(target=run_next_request, args=(database, settings(), stop))
    daemon.start()
    eventually(conn, "SELECT state = 'running' FROM vectuned.requests")
    stop.set()
    daemon.join(10)
    assert not daemon.is_alive()
    assert row(conn, number) == ("queued", None, None)
    assert one(conn, "SELECT attempts FROM vectuned.request") == 0


@pytest.mark.usefixtures("column")
def test_finished_requests_go_when_they_are_old(conn: Connection) -> None:
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


def test_the_service_does_what_is_asked(
    conn: Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned(conn)
    ask(conn, 40)
    chosen = settings(database__dsn=database, schedule__request_seconds=0.1)
    service = Service([("", chosen)], lambda: [])
    monkeypatch.setattr("signal.signal", lambda *_: None)  # it is run beside the main thread here
    daemon = threading.Thread(target=service.run)
    daemon.start()
    try:
        eventually(conn, "SELECT vectuned._daemon_runs()")
        number = request(conn, "benchmark_recall('items', sample_queries => 20)")
        found = conn.execute("SELECT state, result FROM vectuned.request_result(%s, '1 min')", (number,))
        end = found.fetchone()
        assert end is not None
        assert end[0] == "done"
        assert end[1]["queries"]["recorded"] == 20
    finally:
        service.stop()
        daemon.join()
    eventually(conn, "SELECT NOT vectuned._daemon_runs()")
