"""The replays that a class of k is judged by: its own if they suffice, otherwise all that they confirm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from tests.unit.samples_helpers import hnsw, tuned_column

from vectuned.learning.model.ladder import RUNGS
from vectuned.learning.policy.calibration import find_fixed_policy
from vectuned.learning.policy.filtering import other_paths
from vectuned.learning.policy.learner import LearningOptions, _meets_demand, build_offers
from vectuned.learning.policy.replays import AskedRecall, Replays
from vectuned.learning.statistics.demand import Demand

EFS = np.array(RUNGS)
DEMAND = Demand(0.95)


def replays(own: int, others: int, *, own_at: int = 448, others_at: int = 56) -> Replays:
    """Make replays at the classes 10 and 100: `own` asked for 100 rows, `others` for 10.

    Recall is 1 from the given ef_search on and 0.5 below; at k = 100 for the `own` later than for the others.
    """
    count = own + others
    search_classes = np.repeat([100, 10], [own, others])
    at = np.where(search_classes == 100, own_at, others_at)[:, None, None]
    recall = np.tile(np.where(at <= EFS, 1.0, 0.5), (1, 2, 1))
    recall[:, 0] = np.where(EFS >= 28, 1.0, 0.5)
    spent: npt.NDArray[np.float64] = np.tile(EFS / 10.0, (count, 1))
    nothing = np.full(count, np.nan)
    return Replays(
        search_classes,
        (10, 100),
        {},
        recall,
        spent,
        spent,
        nothing,
        np.full(recall.shape, np.nan),
        np.zeros((count, len(RUNGS)), dtype=np.int64),
        nothing,
        np.full((count, len(other_paths("hnsw"))), np.nan),
        np.full((count, len(other_paths("hnsw"))), np.nan),
        (None,) * count,
    )


def test_sample_with_enough_own_searches_is_not_pooled() -> None:
    seen = replays(300, 700)
    alone = seen.sample(100, 300)
    assert len(alone) == 300
    assert alone.own is not None
    assert alone.own.all()
    assert find_fixed_policy(alone, DEMAND).policy.fixed_ef > 400
    pooled = seen.sample(100, 301)
    assert len(pooled) == len(seen.sample(100)) == 1000
    assert pooled.own is not None
    assert np.count_nonzero(pooled.own) == 300
    # The 300 do not count for the class that the others belong to.
    assert len(seen.sample(10, 300)) == 700


def test_sample_with_few_own_searches_is_pooled_unless_they_contradict() -> None:
    few = replays(30, 970)
    candidate = find_fixed_policy(few.sample(100, 234), DEMAND)
    policy = candidate.policy
    assert candidate.pooled
    assert not policy.certified  # searches for 10 rows prove nothing about those for 100
    assert policy.recall_bound == 0
    assert "only 30 of 1,000 replayed searches were for up to 100 rows without a filter" in policy.reason
    assert policy.fixed_ef > 400  # 100 is enough for all together
    assert policy.samples == 1000
    alike = replays(30, 970, own_at=56)
    assert find_fixed_policy(alike.sample(100, 234), DEMAND).policy.fixed_ef == 100
    # Nineteen searches neither confirm nor contradict it.
    assert find_fixed_policy(replays(19, 981).sample(100, 234), DEMAND).policy.fixed_ef == 100


def test_sample_whose_own_searches_contradict_every_effort_proves_nothing() -> None:
    never = find_fixed_policy(replays(30, 970, own_at=2000).sample(100, 234), DEMAND).policy
    assert (never.certified, never.fixed_ef, never.samples) == (False, 100, 30)  # no effort brings more
    assert never.recall_bound == 0
    assert never.reason.endswith(
        "with 30 replays (it takes at least 66): their mean with a margin of one standard error asks for 100"
    )


def test_build_offers_gives_each_class_what_its_own_searches_prove() -> None:
    index = hnsw()
    tuned = tuned_column(index, min_samples=100)
    found = build_offers([(index, replays(300, 700))], tuned, LearningOptions())
    chosen = {k: found[k].fixed[0].policy for k in (10, 100)}
    assert {k: policy.samples for k, policy in chosen.items()} == {10: 700, 100: 300}
    assert chosen[10].fixed_ef <= 28
    assert chosen[100].fixed_ef > 400
    assert all(policy.certified for policy in chosen.values())
    found = build_offers([(index, replays(190, 810))], tuned, LearningOptions())
    assert (found[100].fixed[0].policy.samples, found[100].worth_measuring) == (190, True)
    assert found[100].fixed[0].policy.fixed_ef > 400


def test_sample_holds_only_what_is_evidence_about_the_class() -> None:
    seen = replace(
        replays(300, 700), numbers=np.arange(1000), first=100, starts={(100, ""): 250, (10, "kind ="): 900}
    )
    assert (seen.count_replays(100), seen.count_replays(10)) == (750, 900)
    assert (len(seen.sample(100)), len(seen.sample(10))) == (750, 900)
    assert (seen.count_searches(100), seen.count_searches(10)) == (200, 700)
    # What is no evidence any more is trained on.
    assert (len(seen.earlier_sample(100)), len(seen.earlier_sample(10))) == (250, 0)
    assert np.count_nonzero(seen.current) == 900


def test_filtered_sample_loses_the_evidence_of_the_alarmed_shape_only() -> None:
    seen = replays(0, 100)
    filtered = replace(
        seen,
        fraction=np.full(100, 0.1),
        filtered_recall=np.ones(seen.recall.shape),
        numbers=np.arange(100),
        shapes=("a =", "b =") * 50,
        first=10,
        starts={(10, "a ="): 60, (100, "b ="): 90, (10, ""): 95},
    )
    shapes = filtered.filtered_sample(10).shape.tolist()
    assert (shapes.count("a ="), shapes.count("b =")) == (20, 45)
    shapes = filtered.filtered_sample(100).shape.tolist()
    assert (shapes.count("a ="), shapes.count("b =")) == (45, 5)
    assert filtered.filtered_sample(10, 80).max_effort == 80


def test_meets_demand_of_a_policy_on_the_main_index_by_its_replays() -> None:
    main, other = hnsw(3), hnsw(4)
    seen = replays(0, 200)  # at k = 10 recall is 1 from ef_search 28 on, and 0.5 below
    policy = find_fixed_policy(seen.sample(10), DEMAND).policy
    for number in (None, 3):  # NULL in the bank is the main index
        lower, higher = (replace(policy, index_no=number, fixed_ef=ef) for ef in (20, 28))
        assert not _meets_demand(lower, 10, [(main, seen), (other, replays(0, 0))], DEMAND)
        assert _meets_demand(higher, 10, [(main, seen), (other, replays(0, 0))], DEMAND)
    assert _meets_demand(replace(policy, index_no=4, fixed_ef=20), 10, [(main, seen)], DEMAND)


def test_sample_of_unfiltered_searches_leaves_filtered_ones_out_of_the_proof() -> None:
    # 300 filtered searches for 10 rows need much more effort without their filter; 300 others need little.
    seen = replays(0, 600)
    filtered = np.arange(600) % 2 == 0
    recall = seen.recall.copy()
    recall[filtered] = np.where(EFS >= 640, 1.0, 0.5)
    mixed = replace(seen, recall=recall, fraction=np.where(filtered, 0.1, np.nan))
    own = mixed.sample(10, 234)
    assert len(own) == 300
    policy = find_fixed_policy(own, DEMAND).policy
    assert (policy.certified, policy.samples) == (True, 300)
    assert policy.fixed_ef <= 28
    pooled = mixed.sample(10, 301)
    assert (len(pooled), pooled.pooled) == (600, True)


def test_sample_scores_searches_at_the_k_that_they_asked_for() -> None:
    # A search for 4 rows of which one is missing has recall 0.75 and is in the tail; at 10 rows it has 0.9.
    seen = replays(0, 400)
    asked = np.where(EFS >= 320, 1.0, 0.75)
    fours = AskedRecall(np.full(400, 4), np.tile(asked, (400, 1)), seen.filtered_recall[:, 0])
    recall = seen.recall.copy()
    recall[:, 0] = 0.975
    demand = Demand(0.9, max_tail=0.05)
    by_class = find_fixed_policy(replace(seen, recall=recall).sample(10, 1), demand).policy
    as_asked = find_fixed_policy(replace(seen, recall=recall, asked=fours).sample(10, 1), demand).policy
    assert by_class.fixed_ef == 10
    assert (as_asked.certified, as_asked.fixed_ef > 224) == (True, True)


def test_filtered_sample_completes_short_answers_at_their_own_k() -> None:
    # Six matching rows are too few for 10, but not for the 4 that were asked for: these are not completed.
    seen = replays(0, 50)
    filtered_recall = np.full(seen.recall.shape, 0.6)
    fours = AskedRecall(np.full(50, 4), seen.recall[:, 0], np.full((50, len(EFS)), 0.9))
    filtered = replace(
        seen,
        fraction=np.full(50, 0.1),
        filtered_recall=filtered_recall,
        matches=np.full((50, len(EFS)), 6),
        shapes=("kind =",) * 50,
    )
    assert filtered.filtered_sample(10).short.all()
    asked = replace(filtered, asked=fours).filtered_sample(10)
    assert not asked.short.any()
    assert (asked.recall == 0.9).all()


def test_find_fixed_policy_counts_bursts_as_blocks_and_says_so() -> None:
    # 400 replays in 16 bursts of 25 like searches; all of them flawless from 56 on, none of the 16 hard.
    rng = np.random.default_rng(3)
    at = np.repeat(rng.choice(EFS[:6], 16), 25)[:, None, None]
    seen = replays(0, 400)
    bursts = replace(seen, recall=np.tile(np.where(at <= EFS, 1.0, 0.5), (1, 2, 1)))
    policy = find_fixed_policy(bursts.sample(10, 1), DEMAND).policy
    assert not policy.certified
    assert "because searches come in bursts (it takes at least 66)" in policy.reason
    mixed = replace(bursts, recall=bursts.recall[rng.permutation(400)])
    assert find_fixed_policy(mixed.sample(10, 1), DEMAND).policy.certified


def test_find_fixed_policy_says_within_which_time_its_evidence_was_recorded() -> None:
    seen = replays(0, 400)
    short = replace(seen, recorded_at=np.linspace(0.0, 40.0, 400))
    reason = find_fixed_policy(short.sample(10, 1), DEMAND).policy.reason
    assert reason.endswith(", by searches of 40 seconds: other times may ask for other things")
    long = replace(seen, recorded_at=np.linspace(0.0, 90_000.0, 400))
    assert "seconds" not in find_fixed_policy(long.sample(10, 1), DEMAND).policy.reason


def test_sample_is_in_order_of_time() -> None:
    seen = replays(0, 3)
    blocks = np.tile(np.arange(3.0)[:, None], (1, len(EFS)))
    shuffled = replace(seen, blocks=blocks, recorded_at=np.array([5.0, 1.0, 3.0]))
    assert shuffled.sample(10).cost[:, 0].tolist() == [1.0, 2.0, 0.0]
