"""The daemon as a process: waiting for its budget it does its other work, and stops at once."""

from __future__ import annotations

import time

import pytest
from tests.integration.daemon_helpers import Daemon
from tests.integration.embedded_helpers import eventually
from tests.integration.table_helpers import Connection, clustered, enable, make, one, search

from vectuned.config.settings import load_settings
from vectuned.daemon.service.engine import Engine
from vectuned.daemon.service.jobs import JOBS, Job, JobContext

DIMENSIONS = 16


def ask(conn: Connection, count: int, seed: int) -> None:
    for query in clustered(count, DIMENSIONS, seed=seed):
        search(conn, query)


def test_while_it_waits_for_its_budget(conn: Connection, database: str) -> None:
    make(conn, clustered(800, DIMENSIONS, seed=1))
    enable(conn, sample_rate=1.0, min_samples=1000)
    ask(conn, 100, seed=2)
    with Daemon(
        "--dsn",
        database,
        budget__core_share=0.01,
        schedule__drain_seconds=0.3,
        schedule__replay_seconds=0.3,
    ) as daemon:
        assert eventually(lambda: one(conn, "SELECT count(*) > 0 FROM vectuned.replay"), seconds=60)
        replays = one(conn, "SELECT count(*) FROM vectuned.replay")
        assert replays < 100
        ask(conn, 10, seed=3)
        assert eventually(lambda: one(conn, "SELECT count(*) = 0 FROM vectuned.inbox"), seconds=30)
        assert eventually(lambda: one(conn, "SELECT count(*) = 110 FROM vectuned.trajectory"))
        # Nothing is held meanwhile: neither a snapshot nor a lock.
        idle = (
            "SELECT bool_and(state = 'idle') AND count(*) >= 2 FROM pg_stat_activity "
            "WHERE application_name = 'vectuned' AND datname = current_database()"
        )
        assert eventually(lambda: one(conn, idle))
        assert one(conn, "SELECT count(*) FROM vectuned.replay") == replays
        began = time.monotonic()
        daemon.stop()
        assert time.monotonic() - began < 10


def test_other_settings_take_effect_while_jobs_come_and_go(
    conn: Connection, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    make(conn, clustered(100, DIMENSIONS, seed=1))
    enable(conn, sample_rate=1.0)
    ask(conn, 3, seed=2)
    runs: list[int] = []

    def wrong(_: JobContext) -> None:
        runs.append(len(runs))
        raise ValueError("ours")

    extra = Job("extra", lambda s: 0.05 if s.learning.enabled else None, wrong)
    slow = {"schedule.drain_seconds": 1000, "learning.enabled": False}
    working = Engine("", database, load_settings(None, slow, {}), (*JOBS, extra))
    working.connect()
    working.start()
    try:
        assert eventually(lambda: working.describe().startswith("1 column"))
        assert one(conn, "SELECT count(*) = 3 FROM vectuned.inbox")
        working.adopt(load_settings(None, {"schedule.drain_seconds": 0.1, "inbox.max_mb": 3}, {}))
        # A job that is wrong itself stops no other, and the log says where its fault is.
        assert eventually(lambda: one(conn, "SELECT count(*) = 0 FROM vectuned.inbox"))
        assert one(conn, "SELECT vectuned._inbox_bytes()") == 3 * 1024 * 1024
        assert eventually(
            lambda: one(conn, "SELECT count(*) = 1 FROM vectuned.job WHERE last_error = 'ours'")
        )
        assert "in wrong\n" in caplog.text
        working.adopt(load_settings(None, slow, {}))
        assert eventually(lambda: working.settings.learning.enabled is False)
        done = len(runs)
        time.sleep(0.3)
        assert len(runs) <= done + 1
    finally:
        working.stop()
        assert working.join(10)
