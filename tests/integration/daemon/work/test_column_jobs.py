"""A column in trouble among three: every job goes on with the other two, and says what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import psycopg
import pytest
from prometheus_client.samples import Sample
from tests.integration.role_helpers import database_with_roles, member
from tests.integration.search_helpers import settings
from tests.integration.table_helpers import Connection, clustered, enable, make, one, raw, search

from vectuned.daemon.cli.main import main
from vectuned.daemon.reports import status
from vectuned.daemon.reports.metrics import STATEMENT_TIMEOUT_MS, StatusCollector
from vectuned.daemon.reports.sources import Sources
from vectuned.daemon.server.embedded import EmbeddedServer
from vectuned.daemon.work.column_jobs import ColumnJobs
from vectuned.daemon.work.worker import Worker
from vectuned.learning.model.tuned_columns import TunedColumn

DIMENSIONS = 8
HEALTHY = ("second", "third")


def table(conn: Connection, name: str, rows: int = 600) -> None:
    make(conn, clustered(rows, DIMENSIONS, seed=1) if rows else [None], table=name, dimensions=DIMENSIONS)
    if not rows:
        conn.execute(raw(f"DELETE FROM {name}"))
        conn.execute(raw(f"VACUUM ANALYZE {name}"))
    enable(conn, name, sample_rate=1.0, min_samples=20)


def run_searches(conn: Connection, name: str, seed: int, count: int = 25) -> None:
    for query in clustered(count, DIMENSIONS, seed=seed):
        search(conn, query, relation=name)


def work(worker: Worker) -> None:
    """Run every job of the daemon once."""
    worker.drain()
    worker.refresh_all()
    worker.replay_all()
    worker.report_backlog()
    worker.judge()
    worker.learn_all()
    worker.export()
    worker.import_new()
    worker.maintain()


def learned(conn: Connection) -> set[str]:
    """Return the tables about which something is published."""
    rows = conn.execute(
        "SELECT DISTINCT c.relation::text FROM vectuned.tuned_column c "
        "JOIN vectuned.bank b ON b.column_id = c.id"
    )
    return {name for (name,) in rows.fetchall()}


def scrape(dsn: str) -> list[Sample]:
    """Return the samples of all metrics."""
    collector = StatusCollector(
        Sources({"shop": lambda: psycopg.connect(dsn, autocommit=True)}, STATEMENT_TIMEOUT_MS, "metrics")
    )
    try:
        return [sample for metric in collector.collect() for sample in metric.samples]
    finally:
        collector.close()


def failing(conn: Connection, name: str = "first") -> set[str]:
    """Return the jobs that fail on a column."""
    rows = conn.execute(
        "SELECT job FROM vectuned.column_failure f JOIN vectuned.tuned_column c ON c.id = f.column_id "
        "WHERE c.relation = to_regclass(%s)",
        (name,),
    )
    return {job for (job,) in rows.fetchall()}


@contextmanager
def locked(conn: Connection) -> Iterator[None]:
    with psycopg.connect(conn.info.dsn) as other:
        other.execute("LOCK TABLE first IN ACCESS EXCLUSIVE MODE")
        conn.execute("SET lock_timeout = '50ms'")
        yield


TROUBLES = {
    "its index is gone": "DROP INDEX first_embedding_idx",
    "its type was changed": "DROP INDEX first_embedding_idx; ALTER TABLE first ALTER embedding TYPE text",
    "the type of its filter was dropped": "DROP TYPE mood CASCADE",
    "its key was dropped": "ALTER TABLE first DROP COLUMN id",
    "it was truncated": "TRUNCATE first",
    "it is locked": None,
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_jobs_go_on_with_the_other_columns(conn: Connection, tmp_path: Path, trouble: str) -> None:
    conn.execute("CREATE TYPE mood AS ENUM ('well', 'ill')")
    for name in ("first", *HEALTHY):
        table(conn, name)
    conn.execute("ALTER TABLE first ADD mood mood; UPDATE first SET mood = 'well'; ANALYZE first")
    for query in clustered(25, DIMENSIONS, seed=2):
        conn.execute("SELECT vectuned.search('first', %s, 10, '{\"mood\": \"well\"}')", (query,))
    for name in ("first", *HEALTHY):
        run_searches(conn, name, seed=3)
    folders = {"export__folder": str(tmp_path), "export__import_folder": str(tmp_path)}
    statement = TROUBLES[trouble]
    if statement is not None:
        conn.execute(raw(statement))
    with locked(conn) if statement is None else nullcontext():
        worker = Worker(conn, settings(learning__batch_min=5, **folders))
        work(worker)
        assert set(HEALTHY) <= learned(conn)
        assert {path.name.split(".")[1] for path in tmp_path.iterdir()} >= set(HEALTHY)
        verdicts = "SELECT count(*) FROM vectuned.trajectory WHERE verdict IS NOT NULL AND column_id = %s"
        assert [one(conn, verdicts, column_id) for column_id in (2, 3)] == [25, 25]
        assert not failing(conn, "second") | failing(conn, "third")
        columns = {column["relation"]: column for column in status.read(conn)}
        notes = " ".join(columns["first"]["notes"])
        for job in failing(conn):
            assert f"{job} fails since " in notes
        if trouble in ("its type was changed", "its key was dropped"):
            # The refresh finds that there is nothing to tune any more, so that no other job tries.
            assert failing(conn) == {"refresh"}
        elif trouble not in ("it was truncated", "the type of its filter was dropped"):
            assert "replay" in failing(conn)
        worker.settings = settings(learning__enabled=False)
        worker.maintain()


def test_jobs_go_on_after_a_bug_in_one_column(
    conn: Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("first", *HEALTHY):
        table(conn, name)
        run_searches(conn, name, seed=2)
    worker = Worker(conn, settings(learning__batch_min=5))
    worker.drain()
    check_rights = Worker.check_rights

    def fail(self: Worker, tuned: TunedColumn) -> None:
        if tuned.column.table == "first":
            raise TypeError("'<=' not supported between instances of 'NoneType' and 'float'")
        check_rights(self, tuned)

    monkeypatch.setattr(Worker, "check_rights", fail)
    conn.execute(
        "INSERT INTO vectuned.job (name, last_run, duration_ms, runs, failures) "
        "VALUES ('replay', now(), 1, 1, 0)"
    )
    for _ in range(3):
        worker.replay_all()
    worker.learn_all()
    assert learned(conn) == set(HEALTHY)
    assert failing(conn) == {"replay", "learn"}
    assert one(conn, "SELECT failures FROM vectuned.column_failure WHERE job = 'replay'") == 3
    assert one(conn, "SELECT columns_failing FROM vectuned.job WHERE name = 'replay'") == 1
    assert caplog.text.count("first.embedding is skipped: '<=' not supported") == 2  # once for each job
    assert "Traceback" in caplog.text
    (first, *_) = status.read(conn)
    assert [each["job"] for each in first["failing"]] == ["learn", "replay"]
    samples = scrape(conn.info.dsn)
    failures = {s.labels["daemon_job"]: s.value for s in samples if s.name == "vectuned_column_failures"}
    assert failures == {"replay": 3, "learn": 1}
    assert [s.value for s in samples if s.name == "vectuned_job_columns_failing"] == [1]

    monkeypatch.setattr(Worker, "check_rights", check_rights)
    worker.replay_all()
    worker.learn_all()
    assert learned(conn) == {"first", *HEALTHY}
    assert failing(conn) == set()
    assert one(conn, "SELECT columns_failing FROM vectuned.job WHERE name = 'replay'") == 0
    assert status.read(conn)[0]["notes"] == []


def test_an_empty_table_is_no_trouble_and_is_learned_once_it_has_rows(conn: Connection) -> None:
    table(conn, "first", rows=0)
    table(conn, "second")
    run_searches(conn, "second", seed=2)
    worker = Worker(conn, settings(learning__batch_min=5))
    work(worker)
    assert learned(conn) == {"second"}
    assert failing(conn) == set()
    for number, vector in enumerate(clustered(600, DIMENSIONS, seed=1), 1):
        conn.execute("INSERT INTO first VALUES (%s, %s)", (number, vector))
    conn.execute("ANALYZE first")
    worker.refresh_all()
    run_searches(conn, "first", seed=3)
    work(worker)
    assert learned(conn) == {"first", "second"}


def test_a_table_reloaded_after_truncate_is_learned_again(conn: Connection) -> None:
    table(conn, "first")
    run_searches(conn, "first", seed=2)
    worker = Worker(conn, settings(learning__batch_min=5))
    work(worker)
    assert learned(conn) == {"first"}
    conn.execute("CREATE TABLE copy AS TABLE first; TRUNCATE first; ANALYZE first")
    work(worker)
    assert failing(conn) == set()
    conn.execute("INSERT INTO first TABLE copy; ANALYZE first")
    run_searches(conn, "first", seed=3)
    work(worker)
    assert failing(conn) == set()
    actions = conn.execute("SELECT action FROM vectuned.event ORDER BY id").fetchall()
    assert [action for (action,) in actions if action in ("rebuilt", "deletes", "growth")] == [
        "rebuilt",
        "growth",
    ]
    assert one(conn, "SELECT count(*) FROM vectuned.replay WHERE column_id = 1") >= 25


def test_a_slow_failure_waits_ten_times_its_duration(conn: Connection) -> None:
    table(conn, "first")
    times = [0.0]
    jobs = ColumnJobs(conn, clock=lambda: times[0])
    columns = Worker(conn, settings()).columns()
    attempts: list[float] = []

    def fail(_: TunedColumn) -> None:
        attempts.append(times[0])
        times[0] += 2.0
        raise ValueError("no")

    for now in (0.0, 10.0, 21.9, 22.0, 100.0):
        times[0] = now
        list(jobs.run_each("replay", columns, fail))
    assert attempts == [0.0, 22.0, 100.0]


@pytest.fixture
def without_usage(server: EmbeddedServer, template: str) -> Iterator[tuple[Connection, Connection]]:
    """The owner's session, and one of a daemon's role that may not use the schema of one table of three."""
    with database_with_roles(server.dsn, template, "test_column_jobs") as owner:
        owner.execute("CREATE SCHEMA hidden")
        for name in ("first", *HEALTHY):
            table(owner, name)
            run_searches(owner, name, seed=2)
        owner.execute("ALTER TABLE first SET SCHEMA hidden")
        enable(owner, "hidden.first", sample_rate=1.0, min_samples=20)
        owner.execute("GRANT SELECT ON second, third TO vectuned_daemon")
        with member(owner, "vectuned_daemon", name="tuner") as session:
            yield owner, session


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(without_usage: tuple[Connection, Connection], capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command as the daemon's role; return the exit code, the output and the messages."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main([*arguments, "--dsn", without_usage[1].info.dsn])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_commands_go_on_without_usage_on_a_schema(
    without_usage: tuple[Connection, Connection], run: Run, tmp_path: Path
) -> None:
    owner, session = without_usage
    code, out, err = run("learn", "--once", "--json")
    assert code == 1
    columns = {each["column"]: each for each in json.loads(out)["columns"]}
    assert "GRANT USAGE ON SCHEMA hidden" in columns["hidden.first.embedding"]["error"]
    assert [columns[f"public.{name}.embedding"].get("version") for name in HEALTHY] == [1, 1], columns
    assert "1 of 3 columns could not be learned about: hidden.first.embedding: the role" in err
    assert learned(owner) == set(HEALTHY)

    code, out, err = run("status")
    assert code == 0, err
    assert "hidden.first.embedding: learning" in out
    assert "note: replay fails since " in out
    assert "GRANT USAGE ON SCHEMA hidden" in out
    assert "public.second.embedding: serving" in out or "second.embedding: serving" in out

    code, _, err = run("tune", "second", "--sample-queries", "0", "--dry-run")
    assert code == 0, err
    code, _, err = run("tune", "hidden.first", "--sample-queries", "0")
    assert (code, "permission denied for schema hidden" in err) == (1, True)
    code, _, err = run("recommend", "hidden.first")
    assert code == 1
    assert run("recommend", "second")[0] == 0

    code, _, err = run("report", "-o", str(tmp_path / "report.html"))
    assert code in (0, 1), err
    text = (tmp_path / "report.html").read_text()
    assert all(f"{name}.embedding</h2>" in text for name in ("first", *HEALTHY))

    code, out, err = run("export", "-o", str(tmp_path), "--json")
    assert code == 1
    assert len(json.loads(out)["files"]) == 2
    assert "1 of 3 columns could not be exported" in err

    samples = scrape(session.info.dsn)
    assert [s.value for s in samples if s.name == "vectuned_up"] == [1]
    assert len([s for s in samples if s.name == "vectuned_trajectories"]) == 3


def test_status_shows_the_other_columns_if_one_cannot_be_read(
    conn: Connection, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first", *HEALTHY):
        table(conn, name)
    conn.execute(
        "ALTER FUNCTION vectuned._check_may_see(regclass) RENAME TO _may_see; "
        "CREATE FUNCTION vectuned._check_may_see(r regclass) RETURNS void LANGUAGE plpgsql AS "
        "$$ BEGIN IF r = 'public.first'::regclass THEN RAISE 'broken'; END IF; END $$"
    )
    code = main(["status", "--dsn", conn.info.dsn])
    out, err = capsys.readouterr()
    assert code == 1
    assert "first.embedding: learning" in out
    assert "  not shown: broken\n" in out
    assert out.count("searches recorded") == 2
    assert "1 of 3 columns could not be shown: first.embedding: broken." in err
    samples = scrape(conn.info.dsn)
    unread = {s.labels["relation"]: s.value for s in samples if s.name == "vectuned_column_unread"}
    assert unread == {"first": 1, "second": 0, "third": 0}
    assert len([s for s in samples if s.name == "vectuned_trajectories"]) == 2
