"""Several daemons, several databases, and servers that come and go."""

from __future__ import annotations

import os
import signal
import threading
import time

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
from vectuned.daemon.service.sd_notify import Notifier
from vectuned.daemon.service.service import Service
from vectuned.sql.install import migrate

DIMENSIONS = 8
SECONDS = 15


def table(conn: Connection) -> None:
    make(conn, clustered(200, DIMENSIONS, seed=1))
    enable(conn, sample_rate=1.0)


def drained(conn: Connection, seed: int) -> None:
    """Have a search recorded and wait until some daemon took it."""
    search(conn, clustered(1, DIMENSIONS, seed=seed)[0])
    assert eventually(lambda: one(conn, "SELECT count(*) = 0 FROM vectuned.inbox"), seconds=SECONDS)


def test_who_stands_by_takes_over(conn: Connection, database: str) -> None:
    table(conn)
    with (
        Daemon("--dsn", database, schedule__drain_seconds=0.2) as first,
        Daemon("--dsn", database, schedule__drain_seconds=0.2) as second,
    ):
        assert eventually(lambda: "standing by" in first.log + second.log, seconds=SECONDS)
        leads, waits = (first, second) if "standing by" in second.log else (second, first)
        leads.logs("watching 1 columns")
        drained(conn, seed=2)
        assert "watching" not in waits.log
        assert one(conn, "SELECT vectuned._daemon_runs()")
        killed = time.monotonic()
        leads.process.send_signal(signal.SIGKILL)
        waits.logs("watching 1 columns", seconds=SECONDS)
        drained(conn, seed=3)
        assert time.monotonic() - killed < SECONDS
        # It loses its own lock: all ends before anything begins again, and goes on.
        conn.execute(
            "SELECT pg_terminate_backend(l.pid) FROM pg_locks l WHERE l.locktype = 'advisory' "
            "AND (l.classid::bigint << 32) | l.objid::bigint = hashtextextended('vectuned.leader', 0)"
        )
        waits.logs("lock is lost: all jobs end")
        waits.logs("watching 1 columns", count=2, seconds=SECONDS)
        drained(conn, seed=4)
        waits.stop()
    assert not one(conn, "SELECT vectuned._daemon_runs()")


def test_nobody_begins_while_another_ones_session_works(
    conn: Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leader's lock may be free already while who held it is at its last statement."""
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
            assert engine.join(10)


def test_the_lock_is_asked_for_and_not_believed_in(database: str) -> None:
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
        # As behind a pooler that hands the session to somebody else.
        first.lock_session.execute("SELECT pg_advisory_unlock_all()")
        assert not first.holds()
        assert second.acquire()
        second.lock_session.close()
        assert not second.holds()
        assert eventually(first.acquire)
    finally:
        first.close()
        second.close()


def test_trouble_with_one_database_does_not_stop_another(
    server: EmbeddedServer, conn: Connection, database: str, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table(conn)
    late = f"{conn.info.dbname}_late"
    dsns = {"a": make_conninfo(server.dsn, dbname=late), "b": database}
    chosen = [(name, load_settings(None, {"database.dsn": dsn}, {})) for name, dsn in dsns.items()]
    monkeypatch.setattr("signal.signal", lambda *_: None)  # it is run beside the main thread here
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


def test_the_server_is_killed_and_started_again() -> None:
    with open_folder() as folder, EmbeddedServer(copy_home(folder), settings=FAST) as server:
        dsn, pid = server.dsn, server.pid
        assert pid is not None
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("CREATE EXTENSION vector")
            migrate(conn)
            table(conn)
        with Daemon("--dsn", dsn, schedule__drain_seconds=0.2) as daemon:
            daemon.logs("watching 1 columns")
            os.kill(pid, signal.SIGKILL)
            daemon.logs("Trying again in")
            server.start()
            with psycopg.connect(dsn, autocommit=True) as conn:
                daemon.logs("watching 1 columns", count=2)
                assert len(search(conn, clustered(1, DIMENSIONS, seed=5)[0])) == 10
                drained(conn, seed=6)
            daemon.stop()
