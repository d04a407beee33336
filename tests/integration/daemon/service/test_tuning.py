"""Tune a column for an objective, requested in SQL and run on a real server."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from tests.integration.search_helpers import points, request, row, run_searches, serve, settings, tuned
from tests.integration.table_helpers import Connection, enable, one, search

from vectuned.daemon.service.requests import run_next_request
from vectuned.daemon.work.worker import Worker


@pytest.fixture
def column(conn: Connection) -> int:
    """A table with 300 recorded searches and nothing learned yet."""
    column = tuned(conn, target=0.9)
    run_searches(conn, 300)
    return column


def target(conn: Connection) -> float:
    return float(one(conn, "SELECT target_recall FROM vectuned.tuned_column"))


def served(conn: Connection) -> tuple[int, bool, float]:
    found = conn.execute(
        "SELECT ef_search, certified, target_recall FROM vectuned.bank WHERE k_class = 10"
    ).fetchone()
    assert found is not None
    return int(found[0]), bool(found[1]), float(found[2])


def measured(conn: Connection) -> dict[str, Any]:
    found = serve(conn, request(conn, "benchmark_recall('items', sample_queries => 300)"))["served"]
    assert isinstance(found, dict)
    return found


@pytest.mark.usefixtures("column")
def test_tuning_without_apply_changes_nothing(conn: Connection) -> None:
    result = serve(conn, request(conn, "auto_tune('items', optimize_for => 'recall', apply => false)"))
    assert (result["applied"], result["version"]) == (False, None)
    assert (result["replayed"], result["replays"]) == (300, 300)
    assert result["target"]["old"] == 0.9
    assert result["target"]["new"] > 0.9
    assert result["old"]["10"]["setting"] == "ef_search 40"
    assert not result["old"]["10"]["proven"]
    assert result["new"]["10"]["proven"]
    assert result["new"]["10"]["recall_at_least"] >= result["target"]["new"]
    assert "nothing changed, as requested" in result["summary"]
    assert target(conn) == 0.9
    assert one(conn, "SELECT count(*) FROM vectuned.bank") == 0
    assert one(conn, "SELECT count(*) FROM vectuned.event WHERE action IN ('auto_tune', 'publish')") == 0
    assert one(conn, "SELECT (done, total) = (300, 300) FROM vectuned.requests")


@pytest.mark.usefixtures("column")
def test_tuning_for_recall_raises_the_target_and_keeps_it(conn: Connection) -> None:
    result = serve(conn, request(conn, "auto_tune('items', optimize_for => 'recall')"))
    new = result["target"]["new"]
    by_target = {each["target"]: each for each in result["targets"]}
    within = [t for t, each in by_target.items() if each["proven"] and each["ms"] <= 2 * by_target[0.9]["ms"]]
    assert new == max(within) > 0.9
    assert target(conn) == new
    ef, certified, proven = served(conn)
    assert (certified, proven) == (True, new)
    assert result["new"]["10"]["setting"] == f"ef_search {ef}"
    assert (result["applied"], result["version"], result["confidence"]) == (True, 1, 0.95)
    assert result["proofs"] == 5
    assert result["confidence_of_all_proofs_together"] == 0.75
    assert f"target 0.9 -> {new:g}" in result["summary"]
    assert "version 1 published" in result["summary"]
    event = one(conn, "SELECT details FROM vectuned.event WHERE action = 'auto_tune'")
    assert event["target"] == {"old": 0.9, "new": new}
    assert (event["optimize_for"], event["version"]) == ("recall", 1)
    assert measured(conn)["recall"] >= new - 0.01
    # For the daemon, nothing is left to learn.
    worker = Worker(conn, settings())
    assert not worker.has_news(worker.columns()[0])
    # Tuning again finds nothing left to replay, and keeps the target.
    again = serve(conn, request(conn, "auto_tune('items', optimize_for => 'latency')"))
    assert (again["replayed"], again["target"]) == (0, {"old": new, "new": new})
    assert again["old"]["10"]["setting"] == f"ef_search {ef}"
    assert f"target {new:g} kept" in again["summary"]


@pytest.mark.usefixtures("column")
def test_tuning_for_latency_serves_the_fastest_proven_setting_of_the_target(conn: Connection) -> None:
    result = serve(conn, request(conn, "auto_tune('items', 'embedding', 'latency', 200)"))
    assert result["replayed"] == 200
    assert result["target"] == {"old": 0.9, "new": 0.9}
    ef, certified, _ = served(conn)
    assert certified
    assert ef < 40
    assert result["new"]["10"]["ms"] < result["old"]["10"]["ms"]
    assert measured(conn)["recall"] >= 0.89


def test_tuning_searches_served_for_the_old_target_raise_no_alarm(conn: Connection) -> None:
    tuned(conn, target=0.9)
    worker = Worker(conn, settings(learning__replay_batch=1000))
    for seed in (2, 3):
        run_searches(conn, 300, seed=seed)
        worker.drain()
        worker.replay_all()
        worker.learn_all()
    run_searches(conn, 100, seed=4)
    result = serve(conn, request(conn, "auto_tune('items', optimize_for => 'recall')"))
    assert result["replayed"] == 100
    assert result["target"]["new"] >= 0.98
    was = one(conn, "SELECT avg(recall) FROM vectuned.recall_check WHERE version IS NOT NULL")
    assert was < 0.97
    run_searches(conn, 50, seed=5)
    worker.drain()
    assert worker.replay_all() == 50
    assert one(conn, "SELECT checks FROM vectuned.promise WHERE k_class = 10") == 50
    assert one(conn, "SELECT count(*) FROM vectuned.event WHERE action = 'alarm'") == 0


@pytest.mark.usefixtures("column")
def test_tuning_balanced_chooses_no_higher_target_than_for_recall(conn: Connection) -> None:
    high = serve(conn, request(conn, "auto_tune('items', optimize_for => 'recall', apply => false)"))
    result = serve(conn, request(conn, "auto_tune('items')"))
    assert 0.9 <= result["target"]["new"] <= high["target"]["new"]
    assert target(conn) == result["target"]["new"] == served(conn)[2]


def test_tuning_with_too_few_replays_reports_how_many_it_takes(conn: Connection) -> None:
    tuned(conn, target=0.9)
    run_searches(conn, 30)
    result = serve(conn, request(conn, "auto_tune('items')"))
    assert (result["applied"], result["replays"]) == (False, 30)
    assert "nothing changed: there are 30 replays of public.items.embedding" in result["summary"]
    assert "takes 100" in result["summary"]
    assert target(conn) == 0.9


@pytest.mark.usefixtures("column")
def test_tuning_without_a_proof_keeps_the_target(conn: Connection) -> None:
    enable(conn, target_recall=0.999, sample_rate=1.0, min_samples=100)
    result = serve(conn, request(conn, "auto_tune('items', optimize_for => 'recall')"))
    assert result["target"] == {"old": 0.999, "new": 0.999}
    assert "not even the current target 0.999 is proven" in result["why"]
    assert not result["new"]["10"]["proven"]


@pytest.mark.usefixtures("column")
def test_tuning_refuses_to_apply_while_learning_is_off(conn: Connection) -> None:
    off = settings(learning__enabled=False)
    number = request(conn, "auto_tune('items')")
    assert run_next_request(conn.info.dsn, off)
    state, _, error = row(conn, number)
    assert (state, error is not None and "learning.enabled" in error) == ("failed", True)
    assert serve(conn, request(conn, "auto_tune('items', apply => false)"), off)["replayed"] == 300
    conn.execute("UPDATE vectuned.tuned_column SET enabled = false")
    conn.execute(
        "INSERT INTO vectuned.request (column_id, kind, arguments, requested_by) "
        "SELECT column_id, kind, arguments, requested_by FROM vectuned.request LIMIT 1"
    )
    assert run_next_request(conn.info.dsn, settings())
    newest = conn.execute("SELECT state, error FROM vectuned.requests LIMIT 1").fetchone()
    assert newest is not None
    assert newest[0] == "failed"
    assert "was disabled" in newest[1]


@pytest.mark.usefixtures("column")
def test_tuning_shows_progress_and_can_be_cancelled(conn: Connection, database: str) -> None:
    for query in points(1500, seed=3):
        search(conn, query)
    number = request(conn, "auto_tune('items', sample_queries => 1200)")
    daemon = threading.Thread(
        target=run_next_request,
        args=(database, settings()),
        kwargs={"progress_seconds": 0.02},
        daemon=True,
    )
    daemon.start()
    seen: set[tuple[str, int, int | None]] = set()
    deadline = time.monotonic() + 300
    while not any(done for _, done, _ in seen):
        assert time.monotonic() < deadline
        found = conn.execute("SELECT state, done, total FROM vectuned.requests").fetchone()
        assert found is not None
        seen.add((found[0], found[1], found[2]))
    state, done, total = max(seen, key=lambda each: each[1])
    assert (state, total) == ("running", 1200)
    assert 0 < done < 1200
    assert one(conn, "SELECT vectuned.cancel_request(%s)", number) == "cancelling"
    daemon.join(120)
    assert not daemon.is_alive()
    assert row(conn, number) == ("cancelled", None, None)
    assert one(conn, "SELECT count(*) FROM vectuned.bank") == 0
    # Unfinished searches still wait to be replayed.
    assert one(conn, "SELECT awaiting_replay FROM vectuned.stats('items')") >= 800
