"""Leader election: several daemons, several databases, and servers that stop and start."""

from __future__ import annotations

import os
import signal
import threading

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from tests.integration.daemon_helpers import Daemon, Manager
from tests.integration.embedded_helpers import FAST, copy_home, eventually, open_folder
from tests.integration.table_helpers import Connection, clustered, enable, make, one, search

from vectuned.config.settings import load_settings
from vectuned.daemon.server.embedded import EmbeddedServer
from vectuned.daemon.service.engine import Engine
from vectuned.daemon.service.leader import Leader
from vectuned.daemon.service.service import Service
from vectuned.daemon.service.systemd import Notifier
from vectuned.sql.install import migrate

DIMENSIONS = 8
SECONDS = 120  # generous: a takeover takes a few seconds on an idle machine


def table(conn: Connection) -> None:
    make(conn, clustered(200, DIMENSIONS, seed=1))
    enable(conn, sample_rate=1.0)


def wait_until_drained(conn: Connection, seed: int) -> None:
    """Record a search and wait until a daemon has drained it."""
    search(conn, clustered(1, DIMENSIONS, seed=seed)[0])
    assert eventually(lambda: one(conn, "SELECT count(*) = 0 FROM vectuned.inbox"), seconds=SECONDS)


def test_engine_standing_by_takes_over_when_the_leader_dies(conn: Connection, database: str) -> None:
    table(conn)
    with (
        Daemon("--dsn", database, schedule__drain_seconds=0.2) as first,
        Daemon("--dsn", database, schedule__drain_seconds=0.2) as second,
    ):
        assert eventually(lambda: "standing by" in first.log + second.log, seconds=SECONDS)
        leads, waits = (first, second) if "standing by" in second.log else (second, first)
        leads.logs("watching 1 column")
        wait_until_drained(conn, seed=2)
        assert "watching" not in waits.log
        assert one(conn, "SELECT vectuned._daemon_runs()")
        leads.process.send_signal(signal.SIGKILL)
        waits.logs("watching 1 column", seconds=SECONDS)
        wait_until_drained(conn, seed=3)
        # After losing its own lock, it ends all jobs before it leads again.
        conn.execute(
            "SELECT pg_terminate_backend(l.pid) FROM pg_locks l WHERE l.locktype = 'advisory' "
            "AND (l.classid::bigint << 32) | l.objid::bigint = hashtextextended('vectuned.leader', 0)"
        )
        waits.logs("lock is lost: all jobs end")
        waits.logs("watching 1 column", count=2, seconds=SECONDS)
        wait_until_drained(conn, seed=4)
        waits.stop()
    assert not one(conn, "SELECT vectuned._daemon_runs()")


def test_engine_waits_until_the_work_session_of_the_previous_leader_ends(
    conn: Connection, database: str
) -> None:
    """The leader's lock may be free while the previous leader still executes its last statement."""
    engine = Engine("", database, load_settings(None, {}, {}), handover_seconds=0.3)
    with psycopg.connect(database, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(hashtextextended('vectuned.daemon', 0))")
        engine.start()
        try:
            assert eventually(lambda: "has not left the database yet" in engine.describe())
            assert one(conn, "SELECT count(*) = 0 FROM vectuned.job")
            other.close()
            assert eventually(lambda: engine.describe() == "0 columns, nothing published yet")
        finally:
            engine.stop()
            assert engine.join(60)


def test_leader_holds_asks_the_server(database: str) -> None:
    settings = load_settings(None, {}, {})
    first, second = Leader(database, settings), Leader(database, settings)
    try:
        assert not first.holds()
        assert [first.acquire(), second.acquire(), first.holds(), second.holds()] == [
            True,
            False,
            True,
            False,
        ]
        # As behind a pooler that gives the session to another client.
        first.lock_session.execute("SELECT pg_advisory_unlock_all()")
        assert not first.holds()
        assert second.acquire()
        second.lock_session.close()
        assert not second.holds()
        assert eventually(first.acquire)
    finally:
        first.close()
        second.close()


def test_service_goes_on_with_one_database_while_another_is_missing(
    server: EmbeddedServer, conn: Connection, database: str, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table(conn)
    late = f"{conn.info.dbname}_late"
    dsns = {"a": make_conninfo(server.dsn, dbname=late), "b": database}
    chosen = [(name, load_settings(None, {"database.dsn": dsn}, {})) for name, dsn in dsns.items()]
    monkeypatch.setattr("signal.signal", lambda *_: None)  # which only the main thread may set
    with (
        open_folder() as folder,
        Manager(folder, abstract=True) as manager,
        psycopg.connect(server.dsn, autocommit=True) as admin,
    ):
        service = Service(chosen, lambda: chosen, Notifier({"NOTIFY_SOCKET": manager.address}))
        running = threading.Thread(target=service.run)
        running.start()
        try:
            manager.wait_for("READY=1")
            manager.wait_for(lambda s: s.startswith("STATUS=a: waiting: ") and "; b: 1 column" in s)
            names = sql.Identifier(late), sql.Identifier(template)
            admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(*names))
            manager.wait_for(lambda s: s.startswith("STATUS=a: 0 columns, nothing published yet; b: 1"))
        finally:
            service.stop()
            running.join()
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(late)))


def test_service_reconnects_after_the_server_was_killed() -> None:
    with open_folder() as folder, EmbeddedServer(copy_home(folder), settings=FAST) as server:
        dsn, pid = server.dsn, server.pid
        assert pid is not None
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("CREATE EXTENSION vector")
            migrate(conn)
            table(conn)
        with Daemon("--dsn", dsn, schedule__drain_seconds=0.2) as daemon:
            daemon.logs("watching 1 column")
            os.kill(pid, signal.SIGKILL)
            daemon.logs("Trying again in")
            server.start()
            with psycopg.connect(dsn, autocommit=True) as conn:
                daemon.logs("watching 1 column", count=2)
                assert len(search(conn, clustered(1, DIMENSIONS, seed=5)[0])) == 10
                wait_until_drained(conn, seed=6)
            daemon.stop()
