"""Publishing what was learned: as a whole, one at a time, announced, and read back unchanged."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import psycopg
import pytest
from pgvector.psycopg import register_vector
from tests.integration.learning.policy.policy_helpers import (
    ALWAYS,
    NEVER,
    TARGET,
    make_tuned,
    practise,
    replays,
    served_recall,
    state,
)
from tests.integration.table_helpers import Connection, drawn, one, prepared, text

from vectuned.config.errors import UsageError, VectunedError
from vectuned.daemon.server.embedded import EmbeddedServer
from vectuned.learning.model.ladder import PROBES, RUNGS
from vectuned.learning.model.tuned_columns import TunedColumn
from vectuned.learning.patterns.distillation import distil
from vectuned.learning.patterns.optimizer import SearchOptimizer
from vectuned.learning.patterns.reasoning_bank import Patterns, ReasoningBank
from vectuned.learning.policy.choice import Offer
from vectuned.learning.policy.learner import LearningOptions, build_offers, learn
from vectuned.learning.policy.publication import publish
from vectuned.learning.policy.savings import measure_saving
from vectuned.learning.policy.storage import read_bank

SEARCHES = 600  # recorded searches that are replayed before each test


@pytest.fixture(scope="module")
def practised(server: EmbeddedServer, template: str) -> str:
    """A database with a column whose searches were replayed, and nothing learned yet."""
    name = "template_practised"
    with prepared(server.dsn, template, name) as conn:
        practise(conn, make_tuned(conn), SEARCHES)
    return name


@pytest.fixture
def initial_database(practised: str) -> str:
    """Begin each test with the replayed searches."""
    return practised


def test_published_bank_decides_in_sql_as_in_python(conn: Connection, tuned: TunedColumn) -> None:
    learn(conn, tuned, ALWAYS)
    policy, patterns = read_bank(conn, tuned)[10]
    assert policy.signature is not None
    optimizer = SearchOptimizer(ReasoningBank(patterns), policy)
    conn.execute("SET enable_seqscan = off")
    for k in (10, 6):
        for query in drawn(60, seed=700):
            statement = "SELECT vectuned._probe(c, %s, %s) FROM vectuned.tuned_column c"
            seen = np.array(one(conn, statement, text(query), policy.signature.probe_ef))
            decided = optimizer.optimize(seen, k)
            row = conn.execute(
                "SELECT access_path, ef_search, expected_recall, confidence "
                "FROM vectuned.params('items', %s, %s)",
                (text(query), k),
            ).fetchone()
            assert row == (
                decided.access_path,
                decided.ef_search,
                decided.expected_recall,
                decided.confidence,
            )


def test_read_bank_returns_what_was_published(conn: Connection, tuned: TunedColumn) -> None:
    found = build_offers(replays(conn, tuned), tuned, ALWAYS)
    adaptive = found[10].adaptive
    assert adaptive is not None
    _, served = publish(conn, tuned, found, drawn(24, seed=5), least_saving=-0.99)
    policy, patterns = read_bank(conn, tuned)[10]
    assert not adaptive.patterns.born.any()
    assert len(set(patterns.born)) == 1  # born with the publish
    for name in set(vars(patterns)) - {"born"}:
        written, back = getattr(adaptive.patterns, name), getattr(patterns, name)
        assert back.dtype == written.dtype, name
        np.testing.assert_array_equal(back, written, err_msg=name)
    signature, sent = policy.signature, adaptive.policy.signature
    assert signature is not None
    assert sent is not None
    np.testing.assert_array_equal(signature.center, sent.center)
    np.testing.assert_array_equal(signature.weights, sent.weights)
    sent_policy = replace(served[10].policy, signature=None, price=0.0)
    assert replace(policy, signature=None, price=0.0) == sent_policy
    for k in (1, 3, 30, 100):
        assert read_bank(conn, tuned)[k][0] == served[k].policy
        assert read_bank(conn, tuned)[k][0].index_no == tuned.indexes[0].number
        assert len(read_bank(conn, tuned)[k][1]) == 0
    for k in (300, 1000):  # no search requested so many rows: extrapolated, without an expected recall
        guess = read_bank(conn, tuned)[k][0]
        assert np.isnan(guess.expected_recall)
        assert np.isnan(served[k].policy.expected_recall)
        assert replace(guess, expected_recall=0.0) == replace(served[k].policy, expected_recall=0.0)
        assert (guess.certified, guess.recall_bound, guess.samples) == (False, 0, 0)
        assert (guess.tail, guess.tail_bound) == (None, None)
        assert one(conn, "SELECT expected_recall FROM vectuned.bank WHERE k_class = %s", k) is None


def test_publish_stores_the_tail_and_its_bound(conn: Connection, tuned: TunedColumn) -> None:
    lesson = learn(conn, tuned, NEVER)
    rows = conn.execute("SELECT k_class, tail, tail_bound, max_tail FROM vectuned.status").fetchall()
    assert rows == [
        (k, s.policy.tail, s.policy.tail_bound, tuned.max_tail) for k, s in sorted(lesson.served.items())
    ]
    assert tuned.max_tail == pytest.approx(2.5 * (1 - TARGET))
    for k, tail, bound, limit in rows[:5]:
        # Only the class that searches belong to is proven; the others are pooled with it.
        assert lesson.served[k].policy.certified == (k == 10)
        assert 0 <= tail <= bound <= (limit if k == 10 else 1.0)
    # A tail limit that the fixed setting exceeds takes more effort.
    strict = learn(conn, replace(tuned, max_tail=0.02), NEVER).served[10].policy
    served = lesson.served[10].policy
    assert strict.tail is not None
    assert served.tail is not None
    assert strict.fixed_ef > served.fixed_ef
    assert strict.tail < served.tail


def test_publish_stores_measured_paths(conn: Connection, tuned: TunedColumn) -> None:
    lesson = learn(conn, tuned, NEVER)
    rows = conn.execute(
        "SELECT k_class, shape, bucket, access_path, index_no, effort, requires, share, expected_recall, "
        "recall_bound, proven, samples, serves FROM vectuned.measured_path ORDER BY k_class"
    ).fetchall()
    assert rows == [
        (
            k,
            None,
            None,
            "hnsw",
            tuned.indexes[0].number,
            s.policy.fixed_ef,
            None,
            1.0,
            s.policy.expected_recall if k <= 100 else None,
            s.policy.recall_bound,
            s.policy.certified,
            s.policy.samples,
            True,
        )
        for k, s in sorted(lesson.served.items())
    ]
    spent = conn.execute("SELECT k_class, ms FROM vectuned.measured_path ORDER BY k_class").fetchall()
    assert [k for k, ms in spent if ms is None] == [300, 1000]
    assert all(ms > 0 for k, ms in spent if k <= 100)


def test_publish_steps_aside_for_the_fixed_setting_and_says_so(conn: Connection, tuned: TunedColumn) -> None:
    lesson = learn(conn, tuned, NEVER)
    served = lesson.served[10]
    assert served.policy.access_path == "hnsw"
    assert served.saving is not None
    (row,) = [row for row in state(conn) if row[0] == 10]
    assert row[2:4] == ("hnsw", served.policy.fixed_ef)
    assert row[4] == served.saving
    assert "stepped aside" in row[5]
    assert row[6] == 0
    assert read_bank(conn, tuned)[10][0] == served.policy
    assert one(conn, "SELECT count(*) FROM vectuned.inbox") == 0  # measuring is not recorded


def test_publish_notifies_listeners(conn: Connection, tuned: TunedColumn, database: str) -> None:
    with psycopg.connect(database, autocommit=True) as other:
        other.execute("LISTEN vectuned")
        lesson = learn(conn, tuned)
        (notification,) = list(other.notifies(timeout=300, stop_after=1))
    assert json.loads(notification.payload) == {
        "action": "publish",
        "column_id": tuned.column.id,
        "version": lesson.version,
    }
    event = one(conn, "SELECT details FROM vectuned.event ORDER BY id DESC LIMIT 1")
    assert event["version"] == lesson.version
    assert {int(k): path["ef_search"] for k, path in event["classes"].items()} == {
        k: served.policy.fixed_ef for k, served in lesson.served.items()
    }
    assert sorted(lesson.served) == [1, 3, 10, 30, 100, 300, 1000]
    for path in event["classes"].values():
        assert (path["index_no"], path["probes"]) == (tuned.indexes[0].number, None)


def test_publish_shows_other_sessions_a_whole_bank_at_any_time(
    conn: Connection, tuned: TunedColumn, database: str
) -> None:
    found = build_offers(replays(conn, tuned), tuned, ALWAYS)
    assert found[10].adaptive is not None
    sample = drawn(24, seed=5)
    publish(conn, tuned, found, sample, least_saving=-0.99)
    stop = threading.Event()
    seen: set[tuple[Any, ...]] = set()

    def watch() -> None:
        with psycopg.connect(database, autocommit=True) as other:
            while not stop.is_set():
                rows = state(other)
                seen.add((len(rows), len({row[1] for row in rows}), [row[6] for row in rows][2], rows[2][2]))
                seen.add(tuple(sorted((k, len(p)) for k, (_, p) in read_bank(other, tuned).items())))

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(4):
        publish(conn, tuned, found, sample, least_saving=-0.99)
    stop.set()
    watcher.join()
    patterns = len(found[10].adaptive.patterns)
    assert seen == {
        (7, 1, patterns, "hnsw_adaptive"),
        ((1, 0), (3, 0), (10, patterns), (30, 0), (100, 0), (300, 0), (1000, 0)),
    }


def test_publish_that_fails_leaves_the_old_bank(conn: Connection, tuned: TunedColumn) -> None:
    learn(conn, tuned, ALWAYS)
    before, bank = state(conn), read_bank(conn, tuned)
    found = build_offers(replays(conn, tuned), tuned, ALWAYS)
    adaptive = found[100].adaptive or found[10].adaptive
    assert adaptive is not None
    damaged = replace(adaptive.patterns, effort=adaptive.patterns.effort * np.nan)
    found[100] = Offer(found[100].fixed, replace(adaptive, patterns=damaged))
    with pytest.raises(UsageError, match="effort that is not a finite number"):
        publish(conn, tuned, found, drawn(24, seed=5), least_saving=-0.99)
    assert state(conn) == before
    assert sorted(read_bank(conn, tuned)) == sorted(bank)


def test_publish_waits_for_other_publishers(conn: Connection, tuned: TunedColumn, database: str) -> None:
    found = build_offers(replays(conn, tuned), tuned, LearningOptions())
    versions: list[int] = []

    def work() -> None:
        with psycopg.connect(database, autocommit=True) as other:
            register_vector(other)
            for _ in range(5):
                versions.append(publish(other, tuned, found, drawn(0, seed=0))[0])

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(versions) == list(range(1, 16))
    assert {row[1] for row in state(conn)} == {15}


def test_publish_refuses_a_disabled_column(conn: Connection, tuned: TunedColumn) -> None:
    conn.execute("SELECT vectuned.disable('items', 'embedding')")
    with pytest.raises(VectunedError, match=r"public\.items\.embedding was disabled meanwhile"):
        learn(conn, tuned)
    assert state(conn) == []


def test_measure_saving_times_searches_end_to_end(conn: Connection, tuned: TunedColumn) -> None:
    learn(conn, tuned, ALWAYS)
    with conn.transaction():
        saving = measure_saving(conn, tuned, 10, drawn(48, seed=5))
    assert saving is not None
    assert 0.05 < saving < 20
    assert [row[2] for row in state(conn) if row[0] == 10] == ["hnsw_adaptive"]
    assert one(conn, "SELECT coalesce(current_setting('vectuned.record', true), '')") == ""


def test_published_bank_unlike_all_probes_uses_the_fixed_setting(
    conn: Connection, tuned: TunedColumn
) -> None:
    found = build_offers(replays(conn, tuned), tuned, ALWAYS)
    adaptive = found[10].adaptive
    assert adaptive is not None
    far = replace(adaptive.policy, reach=0.0)
    found[10] = Offer(found[10].fixed, replace(adaptive, policy=far))
    publish(conn, tuned, found, drawn(24, seed=5), least_saving=-0.99)
    row = conn.execute(
        "SELECT access_path, ef_search, reason FROM vectuned.params('items', %s)",
        (text(drawn(1, seed=8)[0]),),
    ).fetchone()
    assert row is not None
    assert row[:2] == ("hnsw", max(far.fixed_ef, min(PROBES)))
    assert "unlike anything learned" in row[2]
    assert served_recall(conn, tuned, drawn(200, seed=9)).mean() >= TARGET - 0.015


def test_publish_stores_many_patterns(conn: Connection, tuned: TunedColumn) -> None:
    found = build_offers(replays(conn, tuned), tuned, ALWAYS)
    adaptive = found[10].adaptive
    assert adaptive is not None
    rng = np.random.default_rng(1)
    signatures = np.rint(rng.normal(0, 64, (2000, 4))).astype(np.float32)
    curves = np.sort(rng.random((2000, len(RUNGS))), axis=1)
    many: Patterns = distil(signatures, curves, np.cumsum(curves, axis=1), clusters=500)
    found[10] = Offer(found[10].fixed, replace(adaptive, patterns=many))
    publish(conn, tuned, found, drawn(24, seed=5), least_saving=-0.99)
    assert len(read_bank(conn, tuned)[10][1]) == len(many) == 500
