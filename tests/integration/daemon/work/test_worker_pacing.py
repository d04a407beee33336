"""`Worker` with a pace: its budget, when it waits, what it skips, and how it reports a backlog."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from tests.integration.embedded_helpers import eventually
from tests.integration.table_helpers import Connection, clustered, enable, make, one, replace_search, search

from vectuned.config.settings import load_settings
from vectuned.daemon.pacing.pace import Pace
from vectuned.daemon.reports import metrics, status
from vectuned.daemon.work.worker import Worker
from vectuned.learning.replay.replay import replay
from vectuned.learning.replay.work_timer import WorkTimer

DIMENSIONS = 16
MB = 1024 * 1024  # bytes


def table(conn: Connection) -> None:
    make(conn, clustered(800, DIMENSIONS, seed=1))
    enable(conn, sample_rate=1.0, min_samples=20)


def ask(conn: Connection, count: int, seed: int) -> None:
    for query in clustered(count, DIMENSIONS, seed=seed):
        search(conn, query)


class SkippingClock:
    """A clock on which waiting takes no time but counts."""

    def __init__(self) -> None:
        self.skipped = 0.0

    def clock(self) -> float:
        return time.monotonic() + self.skipped

    def idle(self, seconds: float) -> None:
        self.skipped += seconds


def skipping_worker(conn: Connection, settings: dict[str, Any]) -> tuple[Worker, SkippingClock]:
    """Return a worker whose pace goes by a clock that skips."""
    skipping = SkippingClock()
    chosen = load_settings(None, settings, {})
    return Worker(conn, chosen, pace=Pace(chosen.budget, skipping.idle, skipping.clock)), skipping


def fall_behind(worker: Worker, skipping: SkippingClock) -> None:
    """Report the backlog four times within half an hour, with a single small pass after each."""
    for _ in range(4):
        worker.report_backlog()
        skipping.skipped += 400
        worker.replay_all()


def test_worker_replaying_and_learning_stays_within_its_share(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    table(conn)
    ask(conn, 120, seed=2)
    skipping = SkippingClock()
    chosen = load_settings(None, {"budget.core_share": 0.2, "learning.batch_min": 10}, {})
    pace = Pace(chosen.budget, skipping.idle, skipping.clock)
    spent: list[float] = []
    spend = pace.budget.spend

    def note(seconds: float) -> None:
        spent.append(seconds)
        spend(seconds)

    monkeypatch.setattr(pace.budget, "spend", note)
    worker = Worker(conn, chosen, pace=pace)
    worker.drain()
    began, busy = skipping.clock(), time.monotonic()
    while worker.replay_all():
        pass
    assert worker.learn_all() == 1
    pace.budget.spend(2.0)  # what a table of the tests is too small for
    pace.wait_for_budget()
    took, busy = skipping.clock() - began, time.monotonic() - busy
    assert one(conn, "SELECT count(*) FROM vectuned.replay") == 120
    assert sum(spent) <= 0.2 * took + 0.2 * 10 + 1e-3
    # Most of the work was measured. Waiting for a CPU counts as wall time on both sides.
    assert 0.5 * busy < sum(spent) - 2.0


def test_replay_adapts_the_size_of_a_pass(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    table(conn)
    ask(conn, 60, seed=2)
    sizes: list[int] = []

    def measured(*arguments: Any, timer: WorkTimer, **named: Any) -> int:
        sizes.append(len(arguments[2]))
        done = replay(*arguments, timer=timer, **named)
        timer.scanning = 0.4 * done
        return done

    monkeypatch.setattr("vectuned.daemon.work.worker.replay", measured)
    chosen = load_settings(None, {"budget.core_share": 1.0}, {})
    worker = Worker(conn, chosen, pace=Pace(chosen.budget, SkippingClock().idle))
    worker.drain()
    assert worker.replay_all() == 60
    assert sizes[0] == 20
    assert {*sizes[1:-1]} <= {*range(5, 11)}


def test_replaying_stays_within_the_bytes_of_an_hour(conn: Connection) -> None:
    table(conn)
    ask(conn, 60, seed=2)
    skipping = SkippingClock()
    chosen = load_settings(None, {"budget.mb_per_hour": 0.1, "learning.replay_batch": 10}, {})
    pace = Pace(chosen.budget, skipping.idle, skipping.clock)
    worker = Worker(conn, chosen, pace=pace)
    worker.drain()
    assert worker.replay_all() == 10
    one_pass = one(conn, "SELECT total_bytes FROM vectuned.table_read")
    assert 4 * 800 * DIMENSIONS < one_pass < 4 * 4 * 800 * DIMENSIONS
    # The pass read more than an hour may: others have to wait, and do not wait here.
    assert worker.replay_all() == 0
    assert pace.read_bound
    began, rounds = skipping.clock(), 0
    while worker.count_waiting(worker.columns()[0]):
        worker.replay_all()
        skipping.skipped += 600
        rounds += 1
    hours = (skipping.clock() - began) / 3600
    column = status.read(conn)[0]
    read = column["read_bytes"]
    assert rounds > 5
    assert read == one(conn, "SELECT total_bytes FROM vectuned.table_read") == 6 * one_pass
    # And no less than the budget allows, but for what is left of it and the looks every ten minutes.
    assert 0.5 * hours * 0.1 * MB <= read - one_pass <= hours * 0.1 * MB + one_pass
    assert column["read_bytes_this_hour"] + column["read_bytes_last_hour"] == read
    families = {family.name: family for family in metrics.column_families({"": [column]})}
    assert [sample.value for sample in families["vectuned_read_bytes"].samples] == [read]


def test_report_backlog_for_want_of_bytes_says_so(conn: Connection, caplog: pytest.LogCaptureFixture) -> None:
    table(conn)
    ask(conn, 40, seed=2)
    worker, skipping = skipping_worker(conn, {"learning.replay_batch": 5, "budget.mb_per_hour": 0.1})
    worker.drain()
    with caplog.at_level(logging.WARNING, logger="vectuned"):
        fall_behind(worker, skipping)
    assert "raise budget.mb_per_hour or lower sample_rate" in caplog.text


def sleep(conn: Connection) -> None:
    """Keep a session busy until it is terminated."""
    with suppress(psycopg.OperationalError):
        conn.execute("SELECT pg_sleep(3600)")


def test_replay_all_on_a_busy_server_replays_nothing(conn: Connection, database: str) -> None:
    table(conn)
    ask(conn, 30, seed=2)
    worker, skipping = skipping_worker(conn, {"budget.pause_above": 1})
    worker.drain()
    sleepers = [psycopg.connect(database, autocommit=True, application_name=f"app {n}") for n in range(2)]
    threads = [threading.Thread(target=sleep, args=(other,)) for other in sleepers]

    def running() -> bool:
        return bool(
            one(conn, "SELECT count(*) = 2 FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'")
        )

    try:
        for thread in threads:
            thread.start()
        assert eventually(running)
        assert worker.replay_all() == 0
        assert skipping.skipped == 55
    finally:
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'"
        )
        for thread, other in zip(threads, sleepers, strict=True):
            thread.join()
            other.close()
    assert worker.replay_all() == 30


def test_report_backlog_warns_once_and_records_the_events(
    conn: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    table(conn)
    ask(conn, 40, seed=2)
    worker, skipping = skipping_worker(conn, {"learning.replay_batch": 5})
    worker.drain()
    with caplog.at_level(logging.WARNING, logger="vectuned"):
        fall_behind(worker, skipping)
    assert caplog.text.count("is behind") == 1
    assert "raise budget.core_share or lower sample_rate" in caplog.text
    details = one(conn, "SELECT details FROM vectuned.event WHERE action = 'behind'")
    assert details["waiting"] == 35
    assert 0 < details["per_minute"] < 2
    behind = one(conn, "SELECT behind FROM vectuned.stats('items')")
    assert re.fullmatch(
        r"20 searches wait, \d+ minutes at the present rate; raise budget\.core_share or lower sample_rate",
        behind,
    )
    while worker.replay_all():
        pass
    assert one(conn, "SELECT behind FROM vectuned.stats('items')") is None
    worker.report_backlog()
    worker.report_backlog()
    actions = conn.execute("SELECT action FROM vectuned.event WHERE column_id = 1 ORDER BY id").fetchall()
    assert [row[0] for row in actions if row[0] in ("behind", "caught_up")] == ["behind", "caught_up"]


@pytest.mark.parametrize(
    ("per_minute", "message"),
    [
        (0, "5,230 searches wait and none was replayed lately; why not"),
        (127.6, "5,230 searches wait, 41 minutes at the present rate; why not"),
        (10, "5,230 searches wait, 9 hours at the present rate; why not"),
        (100_000, "5,230 searches wait, 1 minutes at the present rate; why not"),
    ],
)
def test_status_describes_the_backlog(conn: Connection, per_minute: float, message: str) -> None:
    table(conn)
    assert one(conn, "SELECT vectuned._behind(1, 5230)") is None
    details = json.dumps({"per_minute": per_minute, "advice": "why not"})
    conn.execute(
        "INSERT INTO vectuned.event (column_id, action, details) VALUES (1, 'behind', %s)", (details,)
    )
    assert one(conn, "SELECT vectuned._behind(1, 5230)") == message
    assert one(conn, "SELECT vectuned._behind(1, 0)") is None
    conn.execute("INSERT INTO vectuned.event (column_id, action) VALUES (1, 'caught_up')")
    assert one(conn, "SELECT vectuned._behind(1, 5230)") is None


@pytest.mark.parametrize("store_vectors", [True, False])
def test_replay_skips_searches_older_than_the_window(conn: Connection, store_vectors: bool) -> None:
    make(conn, clustered(800, DIMENSIONS, seed=1))
    enable(conn, sample_rate=1.0, min_samples=20, store_vectors=store_vectors)
    conn.execute("UPDATE vectuned.tuned_column SET trajectory_window = 30")
    worker = Worker(conn, load_settings(None, {}, {}))
    ask(conn, 50, seed=2)
    worker.drain()
    assert worker.replay_all() == 30
    assert one(conn, "SELECT count(*) FROM vectuned.replay") == 30
    newest = "recorded_at >= (SELECT recorded_at FROM vectuned.trajectory ORDER BY 1 DESC OFFSET 29 LIMIT 1)"
    assert one(conn, f"SELECT count(*) FROM vectuned.trajectory WHERE recall IS NOT NULL AND {newest}") == 30
    assert one(conn, "SELECT awaiting_replay FROM vectuned.stats('items')") == 0
    assert one(conn, "SELECT count(query) FROM vectuned.trajectory") == (30 if store_vectors else 0)
    worker.judge()
    assert one(conn, "SELECT count(*) FROM vectuned.trajectory WHERE verdict = 'unknown'") >= 20
    assert (
        one(conn, "SELECT count(*) FROM vectuned.trajectory WHERE verdict = 'success' AND recall IS NULL")
        == 0
    )


def test_replay_a_check_that_times_out_is_unknown(conn: Connection) -> None:
    table(conn)
    ask(conn, 3, seed=2)
    worker = Worker(conn, load_settings(None, {"budget.statement_timeout_seconds": 0.5}, {}))
    worker.drain()
    replace_search(conn, "PERFORM pg_sleep(3600)")
    assert worker.replay_all() == 3
    assert one(conn, "SELECT count(*) FROM vectuned.recall_check") == 3
    assert one(conn, "SELECT count(recall) FROM vectuned.recall_check") == 0
    assert one(conn, "SELECT count(*) FROM vectuned.replay") == 3
