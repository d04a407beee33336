"""Learning against a real server: from recorded searches to a published bank, and what it then serves."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import psycopg
import pytest
from pgvector.psycopg import register_vector
from tests.integration.table_helpers import (
    Connection,
    Singles,
    build,
    drawn,
    enable,
    make,
    one,
    only,
    search,
    text,
)

from vectuned.config.errors import UsageError, VectunedError
from vectuned.learning.model.ladder import PROBES, RUNGS
from vectuned.learning.model.trajectory import claim_pending, drain
from vectuned.learning.model.tuned_columns import TunedColumn, TunedIndex
from vectuned.learning.patterns.distillation import distil
from vectuned.learning.patterns.optimizer import SearchOptimizer
from vectuned.learning.patterns.reasoning_bank import Patterns, ReasoningBank
from vectuned.learning.policy.choice import Offer
from vectuned.learning.policy.learner import LearningOptions, LearningResult, build_offers, learn
from vectuned.learning.policy.limits import EffortCaps
from vectuned.learning.policy.publication import publish
from vectuned.learning.policy.replays import Replays, load_replays
from vectuned.learning.policy.savings import measure_saving
from vectuned.learning.policy.storage import read_bank
from vectuned.learning.replay.replay import replay
from vectuned.learning.truth.recall import recall_at_k
from vectuned.learning.truth.truth import exact_neighbors

ROWS = 4000
TARGET = 0.9
# The bank serves whatever the measurement says: tests must not depend on which of two plans is faster.
ALWAYS, NEVER = LearningOptions(step_aside=-0.99), LearningOptions(step_aside=1e9)


@pytest.fixture
def tuned(conn: Connection) -> TunedColumn:
    """Make a column of some thousand vectors, easy and hard, all of whose searches are recorded."""
    make(conn, drawn(ROWS, seed=1), index=False)
    build(conn, options="WITH (m = 5, ef_construction = 24)")
    enable(conn, sample_rate=1.0, target_recall=TARGET)
    return only(conn)


def practise(conn: Connection, tuned: TunedColumn, count: int, *, seed: int = 100, k: int = 10) -> None:
    """Search, record, drain and replay."""
    for query in drawn(count, seed):
        search(conn, query, k)
    assert drain(conn) == count
    assert replay(conn, tuned, claim_pending(conn, tuned.column, count)) == count


def replays(conn: Connection, tuned: TunedColumn) -> list[tuple[TunedIndex, Replays]]:
    """Read the replays through every index."""
    return [(index, load_replays(conn, tuned, index)) for index in tuned.indexes]


def served_recall(
    conn: Connection, tuned: TunedColumn, queries: Singles, k: int = 10
) -> np.ndarray[Any, Any]:
    """Search with vectuned and compare with the exact answers."""
    found = np.array([[distance for _, distance in search(conn, query, k)] for query in queries])
    with conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        truth = exact_neighbors(conn, tuned.column, queries, k)
    return recall_at_k(found, truth, k)


def proven_samples(lesson: LearningResult) -> dict[int, int]:
    """Return the number of replays behind the setting of each class of k."""
    return {k: served.policy.samples for k, served in sorted(lesson.served.items())}


def state(conn: Connection) -> list[tuple[Any, ...]]:
    """Read what a search would be served with, and the number of patterns."""
    return conn.execute(
        "SELECT b.k_class, b.version, b.access_path, b.ef_search, b.saving, b.reason, "
        "(SELECT count(*) FROM vectuned.pattern p WHERE (p.column_id, p.k_class) = (b.column_id, b.k_class)) "
        "FROM vectuned.bank b ORDER BY 1"
    ).fetchall()


def test_learn_reaches_the_target_on_other_queries(conn: Connection, tuned: TunedColumn) -> None:
    practise(conn, tuned, 900)
    heldout = drawn(500, seed=900)
    before = served_recall(conn, tuned, heldout).mean()
    lesson = learn(conn, tuned, ALWAYS)
    assert lesson.replays == 900
    assert lesson.version == 1
    assert lesson.served[10].policy.certified
    assert lesson.served[10].policy.access_path == "hnsw_adaptive"
    recall = served_recall(conn, tuned, heldout)
    # The target is a bound with 95 % confidence; 500 held-out searches err by 0.9 / sqrt(500) * 0.2 = 0.01.
    assert recall.mean() >= TARGET - 0.01, before
    assert before < TARGET
    # The promise of a class of k holds for smaller k in it too.
    assert served_recall(conn, tuned, heldout, k=7).mean() >= TARGET - 0.01
    learn(conn, tuned, NEVER)
    assert served_recall(conn, tuned, heldout).mean() >= TARGET - 0.01


def test_published_bank_decides_in_sql_as_in_python(conn: Connection, tuned: TunedColumn) -> None:
    practise(conn, tuned, 600)
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
    practise(conn, tuned, 600)
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
    practise(conn, tuned, 400)
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
    practise(conn, tuned, 600)
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


def test_learn_carries_age_and_usage_over(conn: Connection, tuned: TunedColumn) -> None:
    practise(conn, tuned, 600)
    learn(conn, tuned, ALWAYS)
    first = read_bank(conn, tuned)[10][1]
    assert not np.append(first.usage, first.chances).any()
    learn(conn, tuned, ALWAYS)  # no searches since: usage is unknown and does not change
    second = read_bank(conn, tuned)[10][1]
    assert len(second) == len(first)
    assert not second.usage.any()
    assert set(second.born) == set(first.born)
    practise(conn, tuned, 100, seed=300)
    served = one(conn, "SELECT count(*) FROM vectuned.trajectory WHERE signature IS NOT NULL")
    assert served > 90
    learn(conn, tuned, ALWAYS)
    third = read_bank(conn, tuned)[10][1]
    assert served * 0.5 < third.usage.sum() <= served + 1e-9  # rounding
    assert third.usage.max() < served / 4
    assert third.chances.max() == pytest.approx(served)
    assert (third.born == first.born[0]).mean() > 0.9
    assert one(conn, "SELECT count(*) FROM vectuned.pattern WHERE created_at < now()") == len(third)
    learn(conn, tuned, ALWAYS)  # those lookups were counted
    assert read_bank(conn, tuned)[10][1].usage.sum() <= third.usage.sum() + 1e-9  # rounding
    # A damaged bank does not stop the next publish.
    conn.execute("ALTER TABLE vectuned.pattern DROP CONSTRAINT pattern_effort_check")
    conn.execute("UPDATE vectuned.pattern SET effort = 'NaN'")
    learn(conn, tuned, ALWAYS)
    last = read_bank(conn, tuned)[10][1]
    assert np.isfinite(last.effort).all()
    assert last.born.min() > first.born[0]


def test_trim_replays_keeps_counter_examples_that_prove_nothing(conn: Connection, tuned: TunedColumn) -> None:
    practise(conn, tuned, 400)
    learn(conn, tuned, ALWAYS)
    conn.execute("UPDATE vectuned.bank SET access_path = 'hnsw', ef_search = 20")  # so that many fail
    practise(conn, tuned, 200, seed=500)
    failed = [
        row[0]
        for row in conn.execute(
            "SELECT query_id FROM vectuned.trajectory JOIN vectuned.replay USING (column_id, query_id) "
            "WHERE bank_version IS NOT NULL AND trajectory.recall < 0.8 ORDER BY replay_no DESC"
        )
    ]
    assert len(failed) > 40
    narrow = replace(tuned, trajectory_window=300)
    practise(conn, tuned, 300, seed=900)
    learn(conn, narrow, NEVER)
    (counter_examples,) = conn.execute(
        "SELECT array_agg(query_id ORDER BY replay_no DESC) FROM vectuned.replay WHERE is_counter_example"
    )
    assert counter_examples[0] == failed[:30]  # a tenth of the window, the oldest deleted first
    assert one(conn, "SELECT count(*) FROM vectuned.replay WHERE NOT is_counter_example") == 300
    index = tuned.indexes[0]
    sample, examples = (
        load_replays(conn, narrow, index),
        load_replays(conn, narrow, index, counter_examples=True),
    )
    assert (len(sample), len(examples)) == (300, 30)
    assert sample.weight is not None
    assert examples.weight is not None
    assert examples.weight.max() < sample.weight.min()
    lesson = learn(conn, narrow, ALWAYS)
    assert lesson.replays == 300
    found = build_offers([(index, sample)], narrow, ALWAYS, counter_examples=examples)[10]
    assert found.fixed[0].policy.samples == 300
    assert found.fixed[0].policy == build_offers([(index, sample)], narrow, ALWAYS)[10].fixed[0].policy
    # They stay while no newer ones come, and go with their index.
    assert one(conn, "SELECT count(*) FROM vectuned.replay WHERE is_counter_example") == 30
    conn.execute("REINDEX INDEX items_embedding_idx")
    again = replace(only(conn), min_samples=10)
    practise(conn, again, 20, seed=1500)
    learn(conn, again, NEVER)
    assert one(conn, "SELECT count(*) FROM vectuned.replay") == 20


def test_publish_steps_aside_for_the_fixed_setting_and_says_so(conn: Connection, tuned: TunedColumn) -> None:
    practise(conn, tuned, 600)
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


def test_publish_without_stored_queries_measures_nothing(conn: Connection, tuned: TunedColumn) -> None:
    practise(conn, replace(tuned, store_vectors=False), 600)
    lesson = learn(conn, tuned, ALWAYS)
    assert lesson.served[10].saving is None
    assert lesson.served[10].policy.access_path == "hnsw"
    assert "could not be measured" in lesson.served[10].policy.reason


def test_learn_with_too_few_replays_publishes_nothing(conn: Connection, tuned: TunedColumn) -> None:
    practise(conn, tuned, 30)
    lesson = learn(conn, tuned)
    assert (lesson.replays, lesson.version, lesson.served) == (30, None, {})
    assert state(conn) == []
    # A class with too few replays has no setting of its own; it is extrapolated from the others.
    lesson = learn(conn, replace(tuned, min_samples=30))
    assert proven_samples(lesson) == {1: 30, 3: 30, 10: 30, 30: 30, 100: 30, 300: 0, 1000: 0}
    practise(conn, tuned, 5, seed=50, k=1000)
    lesson = learn(conn, replace(tuned, min_samples=30))
    assert proven_samples(lesson) == {1: 35, 3: 35, 10: 35, 30: 35, 100: 35, 300: 0, 1000: 0}
    for k in (300, 1000):
        assert not lesson.served[k].policy.certified
        assert "no search for so many rows was replayed" in lesson.served[k].policy.reason
        assert lesson.served[k].policy.fixed_ef >= min(1.5 * k, 1000)


def test_learn_again_after_the_index_is_rebuilt(conn: Connection, tuned: TunedColumn) -> None:
    practise(conn, tuned, 250)
    assert learn(conn, tuned).replays == 250
    conn.execute("REINDEX INDEX items_embedding_idx")
    again = only(conn)
    assert again.generation != tuned.generation
    assert learn(conn, again).version is None
    practise(conn, again, 210, seed=300)
    lesson = learn(conn, again)
    assert (lesson.replays, lesson.version) == (210, 2)
    assert one(conn, "SELECT DISTINCT generation FROM vectuned.bank") == again.generation


def test_publish_notifies_listeners(conn: Connection, tuned: TunedColumn, database: str) -> None:
    practise(conn, tuned, 220)
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
    practise(conn, tuned, 600)
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
    practise(conn, tuned, 600)
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
    practise(conn, tuned, 250)
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
    practise(conn, tuned, 250)
    conn.execute("SELECT vectuned.disable('items', 'embedding')")
    with pytest.raises(VectunedError, match=r"public\.items\.embedding was disabled meanwhile"):
        learn(conn, tuned)
    assert state(conn) == []


def test_measure_saving_times_searches_end_to_end(conn: Connection, tuned: TunedColumn) -> None:
    practise(conn, tuned, 600)
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
    practise(conn, tuned, 600)
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
    practise(conn, tuned, 600)
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


def test_learn_before_a_proof_serves_what_the_replays_ask_for(conn: Connection, tuned: TunedColumn) -> None:
    enable(conn, sample_rate=1.0, target_recall=0.99)
    tuned = only(conn)
    practise(conn, tuned, 210)
    learn(conn, tuned, NEVER)  # 0.99 takes at least 337 replays
    rows = conn.execute("SELECT k_class, ef_search, certified, reason FROM vectuned.bank").fetchall()
    assert not any(certified for _, _, certified, _ in rows)
    first = {k: ef for k, ef, _, _ in rows}
    assert all(ef <= 2 * max(40, k) for k, ef in first.items())
    reason = next(reason for k, _, _, reason in rows if k == 10)
    assert "their mean with a margin of one standard error asks for" in reason
    practise(conn, tuned, 20, seed=101)
    learn(conn, tuned, NEVER)
    second = dict(conn.execute("SELECT k_class, ef_search FROM vectuned.bank").fetchall())
    assert all(ef <= 2 * first[k] for k, ef in second.items())


def test_learn_serves_nothing_above_the_caps(conn: Connection, tuned: TunedColumn) -> None:
    practise(conn, tuned, 400)
    free = learn(conn, tuned, NEVER).served[10].policy
    assert free.certified
    assert free.fixed_ef > 30
    enable(conn, max_effort=30)
    capped = learn(conn, only(conn), ALWAYS).served
    assert all(served.policy.fixed_ef <= max(30, k) for k, served in capped.items())
    assert not capped[10].policy.certified
    assert "within max_effort 30" in capped[10].policy.reason
    enable(conn, sample_rate=0.5)  # keeps the cap
    assert only(conn).max_effort == 30
    enable(conn, max_effort=0, max_ms=1e-6)
    assert (only(conn).max_effort, only(conn).max_ms) == (None, 1e-6)
    capped = learn(conn, only(conn), ALWAYS).served
    assert capped[10].policy.fixed_ef <= 40  # what nothing was proven of never falls below the default
    enable(conn, max_ms=0)
    everywhere = replace(NEVER, caps=EffortCaps(20))
    assert learn(conn, only(conn), everywhere).served[10].policy.fixed_ef == 20
    uncapped = learn(conn, only(conn), NEVER).served[10].policy
    assert (uncapped.fixed_ef, uncapped.certified) == (free.fixed_ef, True)
