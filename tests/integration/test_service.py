"""The daemon as a process: waiting for its budget it does its other work, and stops at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
from apscheduler.schedulers.background import BackgroundScheduler

from vectuned.config.settings import Settings
from vectuned.daemon import engine
from vectuned.daemon.engine import Engine

from .embedded import PACKAGE, eventually
from .tables import Connection, clustered, enable, make, one, search

DIMENSIONS = 16


@contextmanager
def daemon(dsn: str, **settings: object) -> Iterator[subprocess.Popen[str]]:
    """Run the daemon; settings are section__key."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "VECTUNED"))}
    chosen = {f"VECTUNED_{name.upper()}": str(value) for name, value in settings.items()}
    process = subprocess.Popen(
        [sys.executable, "-m", "vectuned.daemon", "run", "--dsn", dsn],
        env={**kept, **chosen, "PYTHONPATH": str(PACKAGE.parent)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def ask(conn: Connection, count: int, seed: int) -> None:
    for query in clustered(count, DIMENSIONS, seed=seed):
        search(conn, query)


def test_while_it_waits_for_its_budget(conn: Connection, database: str) -> None:
    make(conn, clustered(800, DIMENSIONS, seed=1))
    enable(conn, sample_rate=1.0, min_samples=1000)
    ask(conn, 100, seed=2)
    with daemon(
        database, budget__core_share=0.01, schedule__drain_seconds=0.3, schedule__replay_seconds=0.3
    ) as process:
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
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
        assert process.returncode == 0, log
        assert time.monotonic() - began < 10
        assert "Traceback" not in log
        assert " stop: stopped" in log


@pytest.mark.parametrize("jump", [-86_400.0, 3600.0])
def test_when_the_clock_is_set_the_schedule_begins_anew(monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    clock = {"wall": 1000.0, "steady": 50.0}
    made: list[float] = []
    runs = SimpleNamespace(
        trigger=SimpleNamespace(interval=SimpleNamespace(total_seconds=lambda: 7.0)),
        reschedule=lambda _trigger, seconds: made.append(seconds),
    )
    scheduler = cast(BackgroundScheduler, SimpleNamespace(get_jobs=lambda: [runs]))
    fake: Any = SimpleNamespace(time=lambda: clock["wall"], monotonic=lambda: clock["steady"])
    monkeypatch.setattr(engine, "time", fake)
    watching = Engine("", "", Settings())
    watching._ahead = clock["wall"] - clock["steady"]
    for jumped in (0.0, jump, 0.0):
        clock["steady"] += 2
        clock["wall"] += 2 + jumped
        watching._watch_clock(scheduler)
    assert made == [7.0]
