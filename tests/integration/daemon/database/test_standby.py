"""Replay on a real hot standby: the primary learns from it, and replaying waits while it is not ready."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
from pgvector.psycopg import register_vector
from psycopg.conninfo import make_conninfo
from tests.integration.embedded_helpers import eventually
from tests.integration.standby_helpers import HotStandby, fresh_database, primary_and_standby
from tests.integration.table_helpers import (
    Connection,
    build,
    clustered,
    enable,
    make,
    one,
    search,
    search_filtered,
)

from vectuned.config.errors import DatabaseUnavailableError
from vectuned.config.settings import Settings, load_settings
from vectuned.daemon.database.standby import Standby
from vectuned.daemon.server.embedded import EmbeddedServer
from vectuned.daemon.service.requests import run_next_request
from vectuned.daemon.work.worker import Worker
from vectuned.sql.files import queries

DIMENSIONS = 16

Servers = tuple[EmbeddedServer, HotStandby]


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with primary_and_standby() as both:
        yield both


@pytest.fixture
def conn(servers: Servers) -> Iterator[Connection]:
    """A connection to the primary, in a database of its own with a tuned table."""
    primary, _ = servers
    with (
        fresh_database(primary) as name,
        psycopg.connect(make_conninfo(primary.dsn, dbname=name), autocommit=True) as connection,
    ):
        register_vector(connection)
        make(connection, clustered(800, DIMENSIONS, seed=1), index=False)
        connection.execute("ALTER TABLE items ADD COLUMN kind int; UPDATE items SET kind = id % 4")
        build(connection)
        connection.execute("CREATE INDEX ON items (kind); ANALYZE items")
        enable(connection, sample_rate=1.0, min_samples=20)
        assert eventually(lambda: _is_there(servers[1], name))
        yield connection


def _is_there(standby: HotStandby, database: str) -> bool:
    """Return whether a database exists on the standby yet."""
    try:
        psycopg.connect(standby.dsn(database)).close()
    except psycopg.OperationalError:
        return False
    return True


def settings(dsn: str, **budget: Any) -> Settings:
    chosen = {f"budget.{key}": value for key, value in budget.items()}
    return load_settings(None, {"database.replay_dsn": dsn, "database.connect_timeout": 5, **chosen}, {})


@pytest.fixture
def worker(servers: Servers, conn: Connection) -> Iterator[Worker]:
    """A worker that replays on the standby."""
    _, standby = servers
    chosen = settings(standby.dsn(conn.info.dbname), lag_seconds=30)
    with closing(Standby(chosen)) as reader:
        yield Worker(conn, chosen, standby=reader)


def with_lag(worker: Worker, seconds: float = 0.5) -> Worker:
    """Return the worker with another limit of the standby's lag."""
    assert worker.standby is not None
    worker.standby.lag_seconds = seconds
    return worker


def ask(conn: Connection, count: int, seed: int) -> None:
    for query in clustered(count, DIMENSIONS, seed=seed):
        search(conn, query)


def replica(servers: Servers, conn: Connection) -> Connection:
    return psycopg.connect(servers[1].dsn(conn.info.dbname), autocommit=True)


def scanned(conn: Connection) -> int:
    """Count the scans of the vector index, from the statistics of all sessions."""
    conn.execute("SELECT pg_stat_force_next_flush()")
    statement = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'items_embedding_idx'"
    return int(one(conn, statement))


def events(conn: Connection) -> list[str]:
    rows = conn.execute("SELECT action FROM vectuned.event WHERE column_id IS NULL ORDER BY id").fetchall()
    return [row[0] for row in rows]


def test_apply_on_the_standby_follows_what_the_primary_publishes(servers: Servers, conn: Connection) -> None:
    query = "[" + ",".join(["1"] * DIMENSIONS) + "]"

    def served(reader: Connection) -> str:
        with reader.transaction():
            reader.execute("SELECT vectuned.apply('items', %s)", (query,))
            return str(one(reader, "SHOW hnsw.ef_search"))

    with replica(servers, conn) as reader:
        assert eventually(lambda: one(reader, "SELECT count(*) FROM vectuned.tuned_column") == 1)
        for effort in (50, 60):
            conn.execute("UPDATE vectuned.tuned_column SET default_ef = %s", (effort,))
            assert eventually(lambda: served(reader) == str(effort))  # noqa: B023 (called in this turn)
            assert served(reader) == str(effort)
            kept = "SELECT current_setting(vectuned._effort_setting('items'::regclass, NULL, 10, NULL), true)"
            assert one(reader, kept).endswith(f"|{effort}|-2147483648|1")


def test_a_replay_on_the_standby_teaches_the_primary(
    servers: Servers, conn: Connection, worker: Worker
) -> None:
    ask(conn, 40, seed=2)
    for query in clustered(10, DIMENSIONS, seed=3):
        search_filtered(conn, query, 10, {"kind": 1})
    worker.drain()
    before = scanned(conn)
    assert worker.replay_all() == 50
    assert scanned(conn) == before
    with replica(servers, conn) as reader:
        assert eventually(lambda: scanned(reader) >= 100)
    assert one(conn, "SELECT count(*) FROM vectuned.replay") == 50
    assert one(conn, "SELECT count(*) FROM vectuned.replay WHERE shape IS NOT NULL") == 10
    assert one(conn, "SELECT count(*) FROM vectuned.recall_check WHERE recall IS NOT NULL") == 50
    assert one(conn, "SELECT count(*) FROM vectuned.trajectory WHERE recall IS NOT NULL") == 50
    assert worker.learn_all() == 1
    ask(conn, 5, seed=4)
    worker.drain()
    assert worker.replay_all() == 5
    assert one(conn, "SELECT count(*) FROM vectuned.recall_check WHERE version = 1") == 5
    assert worker.replay_all() == 0
    assert events(conn) == []


def test_a_request_replays_on_the_standby(servers: Servers, conn: Connection, worker: Worker) -> None:
    ask(conn, 40, seed=5)
    conn.execute("SELECT vectuned.auto_tune('items', apply => false)")
    before = scanned(conn)
    assert run_next_request(conn.info.dsn, worker.settings)
    row = conn.execute("SELECT state, error, result ->> 'replayed' FROM vectuned.requests").fetchone()
    assert row == ("done", None, "40")
    assert scanned(conn) == before


def test_run_next_request_fails_if_the_standby_cannot_be_used(servers: Servers, conn: Connection) -> None:
    ask(conn, 5, seed=6)
    conn.execute("SELECT vectuned.auto_tune('items', apply => false)")
    assert run_next_request(conn.info.dsn, settings(conn.info.dsn))
    row = conn.execute("SELECT state, error FROM vectuned.requests").fetchone()
    assert row is not None
    assert row[0] == "failed"
    assert "standby" in row[1]


def test_standby_serves_what_was_published(servers: Servers, conn: Connection, worker: Worker) -> None:
    ask(conn, 40, seed=2)
    worker.drain()
    worker.replay_all()
    worker.learn_all()
    assert worker.standby is not None
    worker.standby.ready(conn)
    (query,) = clustered(1, DIMENSIONS, seed=5)
    asked = (
        "SELECT access_path, ef_search, probes, reason FROM vectuned.params('items', %s::real[]::vector, 10)"
    )
    with replica(servers, conn) as reader:
        assert (
            reader.execute(asked, (query.tolist(),)).fetchone()
            == conn.execute(asked, (query.tolist(),)).fetchone()
        )
        assert one(reader, "SELECT state FROM vectuned.status LIMIT 1") == "serving"
        assert search(reader, query) == search(conn, query)
        assert len(search_filtered(reader, query, 10, {"kind": 1})) == 10
        row = reader.execute("SELECT trajectories, in_inbox, behind FROM vectuned.stats('items')").fetchone()
        assert row == (40, None, None)
        for name in ("system_identity", "column_identity"):
            assert reader.execute(queries()[name]).fetchone() == conn.execute(queries()[name]).fetchone()


def test_replay_all_waits_for_a_paused_standby(
    servers: Servers, conn: Connection, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    assert worker.standby is not None
    worker.standby.ready(conn)
    with replica(servers, conn) as reader:
        reader.execute("SELECT pg_wal_replay_pause()")
        try:
            ask(conn, 30, seed=2)
            worker.drain()
            with_lag(worker)
            with caplog.at_level(logging.WARNING, logger="vectuned"):
                assert [worker.replay_all() for _ in range(2)] == [0, 0]
            assert caplog.text.count("lags by more than 0.5 s") == 1
            assert "WAL replay is paused" in caplog.text
            assert events(conn) == ["standby_waits"]
            behind = one(conn, "SELECT behind FROM vectuned.stats('items')")
            assert behind.startswith("30 searches wait: The standby of database.replay_dsn lags")
            assert one(conn, "SELECT count(*) FROM vectuned.replay") == 0
            assert one(conn, "SELECT count(*) FROM vectuned.recall_check") == 0
        finally:
            reader.execute("SELECT pg_wal_replay_resume()")
    assert with_lag(worker, 30).replay_all() == 30
    assert events(conn) == ["standby_waits", "standby_ready"]
    assert one(conn, "SELECT behind FROM vectuned.stats('items')") is None


def test_replay_all_waits_for_a_standby_that_is_down(
    servers: Servers, conn: Connection, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    _, standby = servers
    ask(conn, 30, seed=2)
    worker.drain()
    assert worker.replay(worker.columns()[0], 10) == 10
    standby.stop()
    try:
        with caplog.at_level(logging.WARNING, logger="vectuned"):
            assert [worker.replay_all() for _ in range(2)] == [0, 0]
        assert caplog.text.count("standby of database.replay_dsn") == 1
        assert events(conn) == ["standby_waits"]
        # As a daemon started meanwhile, without a connection.
        assert worker.standby is not None
        worker.standby.close()
        with pytest.raises(DatabaseUnavailableError, match=r"standby of database\.replay_dsn is down"):
            worker.replay(worker.columns()[0], 10)
    finally:
        standby.start()
    assert worker.replay_all() == 20
    assert events(conn) == ["standby_waits", "standby_ready"]
    assert one(conn, "SELECT count(*) FROM vectuned.recall_check") == 30


def test_replay_all_on_a_standby_that_stops_during_a_pass_loses_nothing(
    servers: Servers, conn: Connection, worker: Worker
) -> None:
    _, standby = servers
    ask(conn, 20, seed=2)
    worker.drain()

    def stop(done: int) -> None:
        if done == 5:
            standby.stop()

    try:
        assert worker.replay_all(stop) == 0
        for table in ("replay", "recall_check"):
            assert one(conn, f"SELECT count(*) FROM vectuned.{table}") == 0
    finally:
        standby.start()
    assert worker.replay_all() == 20


def test_prepare_without_a_standby_ends_the_waiting_event(conn: Connection, worker: Worker) -> None:
    conn.execute("INSERT INTO vectuned.event (action) VALUES ('standby_waits')")
    worker.prepare()
    assert events(conn) == ["standby_waits"]
    Worker(conn, load_settings(None, {}, {})).prepare()
    assert events(conn) == ["standby_waits", "standby_ready"]


def test_ready_refuses_another_server_or_database(
    servers: Servers, conn: Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    primary, _ = servers
    for dsn, message in (
        (make_conninfo(primary.dsn, dbname=conn.info.dbname), "no standby"),
        (make_conninfo(primary.dsn, dbname="template_standby"), "names another database"),
        (make_conninfo(primary.dsn, dbname="postgres"), "vectuned is not installed"),
        (database, "names another database"),
        ("host=/nonexistent", "is down"),
    ):
        chosen = settings(dsn)
        with closing(Standby(chosen)) as reader, pytest.raises(DatabaseUnavailableError, match=message):
            reader.ready(conn)


def test_replay_all_cancelled_by_the_standby_is_repeated(
    servers: Servers, conn: Connection, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(conn, 10, seed=2)
    worker.drain()

    def conflict(*_: object) -> None:
        raise psycopg.errors.SerializationFailure("canceling statement due to conflict with recovery")

    with monkeypatch.context() as patch:
        patch.setattr("vectuned.learning.replay.recheck.fetch_value", conflict)
        assert worker.replay_all() == 0
    assert one(conn, "SELECT count(*) FROM vectuned.recall_check") == 0
    assert one(conn, "SELECT count(*) FROM vectuned.replay") == 0
    assert worker.replay_all() == 10
