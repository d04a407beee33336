"""The daemon as a process: other jobs run while one waits for its budget, settings change, and it stops."""

from __future__ import annotations

import threading
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


def test_service_waiting_for_its_budget_runs_other_jobs_and_stops_at_once(
    conn: Connection, database: str
) -> None:
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
        assert eventually(lambda: one(conn, "SELECT count(*) > 0 FROM vectuned.replay"), seconds=120)
        replays = one(conn, "SELECT count(*) FROM vectuned.replay")
        assert replays < 100
        ask(conn, 10, seed=3)
        assert eventually(lambda: one(conn, "SELECT count(*) = 0 FROM vectuned.inbox"), seconds=120)
        assert eventually(lambda: one(conn, "SELECT count(*) = 110 FROM vectuned.trajectory"))
        # Meanwhile no session holds a snapshot or a lock.
        idle = (
            "SELECT bool_and(state = 'idle') AND count(*) >= 2 FROM pg_stat_activity "
            "WHERE application_name = 'vectuned' AND datname = current_database()"
        )
        assert eventually(lambda: one(conn, idle))
        assert one(conn, "SELECT count(*) FROM vectuned.replay") == replays
        daemon.stop()  # fails if the wait for the budget, which takes minutes, is not ended


def test_engine_adopts_settings_while_it_runs(
    conn: Connection, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    make(conn, clustered(100, DIMENSIONS, seed=1))
    enable(conn, sample_rate=1.0)
    ask(conn, 3, seed=2)
    runs: list[int] = []

    def fail(_: JobContext) -> None:
        runs.append(len(runs))
        raise ValueError("a bug")

    extra = Job("extra", lambda s: 0.05 if s.learning.enabled else None, fail)
    slow = {"schedule.drain_seconds": 1000, "learning.enabled": False}
    engine = Engine("", database, load_settings(None, slow, {}), (*JOBS, extra))
    engine.connect()
    engine.start()
    try:
        assert eventually(lambda: engine.describe().startswith("1 column"))
        assert one(conn, "SELECT count(*) = 3 FROM vectuned.inbox")
        engine.adopt(load_settings(None, {"schedule.drain_seconds": 0.1, "inbox.max_mb": 3}, {}))
        # A job with a bug stops no other, and the log has its traceback.
        assert eventually(lambda: one(conn, "SELECT count(*) = 0 FROM vectuned.inbox"))
        assert one(conn, "SELECT vectuned._inbox_bytes()") == 3 * 1024 * 1024
        assert eventually(
            lambda: one(conn, "SELECT count(*) = 1 FROM vectuned.job WHERE last_error = 'a bug'")
        )
        assert "in fail\n" in caplog.text
        engine.adopt(load_settings(None, slow, {}))
        assert eventually(lambda: engine.settings.learning.enabled is False)
        done = len(runs)
        time.sleep(0.3)
        assert len(runs) <= done + 1
    finally:
        engine.stop()
        assert engine.join(60)


def test_engine_drains_while_another_job_works(conn: Connection, database: str) -> None:
    make(conn, clustered(300, 4, seed=1))
    enable(conn, sample_rate=1.0)
    busy, released = threading.Event(), threading.Event()

    def work(context: JobContext) -> None:
        busy.set()
        while not released.wait(0.1):
            context.progress(0)

    long_pass = Job("long pass", lambda s: 1000, work, queue="paced")
    engine = Engine(
        "", database, load_settings(None, {"schedule.drain_seconds": 0.1}, {}), (*JOBS, long_pass)
    )
    engine.connect()
    engine.start()
    try:
        assert busy.wait(60)
        search(conn, [1, 2, 3, 4])
        assert eventually(lambda: one(conn, "SELECT count(*) = 1 FROM vectuned.trajectory"))
    finally:
        released.set()
        engine.stop()
        assert engine.join(60)
