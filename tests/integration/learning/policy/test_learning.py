"""What is learned from recorded searches, and how well it then serves others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.integration.learning.policy.policy_helpers import (
    ALWAYS,
    NEVER,
    TARGET,
    make_tuned,
    practise,
    served_recall,
    state,
)
from tests.integration.table_helpers import Connection, drawn, enable, one, only

from vectuned.learning.model.tuned_columns import TunedColumn
from vectuned.learning.policy.learner import LearningResult, build_offers, learn
from vectuned.learning.policy.limits import EffortCaps
from vectuned.learning.policy.replays import load_replays
from vectuned.learning.policy.storage import read_bank


@pytest.fixture
def tuned(conn: Connection) -> TunedColumn:
    """Make a column without any learning."""
    return make_tuned(conn)


def proven_samples(lesson: LearningResult) -> dict[int, int]:
    """Return the number of replays behind the setting of each class of k."""
    return {k: served.policy.samples for k, served in sorted(lesson.served.items())}


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
