"""Access paths of filters with few replays of their own: what is pooled, and how often that errs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tests.unit.filtered_replays_helpers import MAIN, SHAPE, filtered_replays, joined, only_path, others
from tests.unit.samples_helpers import hnsw, partial

from vectuned.learning.model.ladder import RUNGS
from vectuned.learning.policy.filtering import choose_paths
from vectuned.learning.statistics.demand import Demand

# Shares of matching rows in the buckets 2, 3, 4 and 5.
BESIDE = (0.4, 0.3, 0.2, 0.15)


def test_choose_paths_pools_few_replays_with_neighbouring_buckets() -> None:
    # 0.98 takes 167 flawless replays: none of the buckets proves it by itself.
    alone = filtered_replays(40, fraction=BESIDE[1])
    assert only_path(choose_paths([(MAIN, alone)], Demand(0.98)), 1, "hnsw").proven is False
    beside = [filtered_replays(120, fraction=BESIDE[0]), filtered_replays(120, fraction=BESIDE[2])]
    choice = only_path(choose_paths([(MAIN, joined((alone, *beside)))], Demand(0.98)), 1, "hnsw")
    assert (choice.effort, choice.pooled, choice.serves, choice.samples) == (56, True, True, 40)
    assert (choice.proven, choice.bound) == (False, 0.0)  # neighbours prove nothing about these
    # Buckets farther away and other indexes are not pooled.
    far = [filtered_replays(240, fraction=BESIDE[3])]
    assert not only_path(choose_paths([(MAIN, joined((alone, *far)))], Demand(0.98)), 1, "hnsw").pooled
    half = (hnsw(2, form="halfvec"), joined(beside))
    assert not only_path(choose_paths([(MAIN, alone), half], Demand(0.98)), 1, "hnsw").pooled
    # Neighbours that need more effort raise the effort.
    harder = [beside[0], filtered_replays(120, fraction=BESIDE[2], at=160)]
    assert only_path(choose_paths([(MAIN, joined((alone, *harder)))], Demand(0.98)), 1, "hnsw").effort == 160


def test_choose_paths_pools_with_other_shapes_if_neighbours_are_few() -> None:
    alone, beside = filtered_replays(40), filtered_replays(50, fraction=BESIDE[0])
    shapes = [filtered_replays(150, shape="tenant ="), filtered_replays(600, shape="kind =, tenant =", at=20)]
    found = choose_paths([(MAIN, joined((alone, beside, *shapes)))], Demand(0.98))
    choices = [w for w in found if w.shape == "kind =" and w.bucket == 3 and w.index_no == 1]
    assert [(w.effort, w.proven, w.pooled, w.samples) for w in choices] == [(56, False, True, 40)]


def test_choose_paths_does_not_serve_what_own_replays_contradict() -> None:
    beside = [filtered_replays(300, fraction=BESIDE[0]), filtered_replays(300, fraction=BESIDE[2])]
    alone = filtered_replays(40)
    slower = alone.recall.copy()
    slower[:4, SHAPE < 200] = 0.7  # mean 0.97
    found = choose_paths([(MAIN, joined((replace(alone, recall=slower), *beside)))], Demand(0.98))
    assert (only_path(found, 1, "hnsw").effort, only_path(found, 1, "hnsw").pooled) == (224, True)
    slower[:4] = 0.7
    found = choose_paths([(MAIN, joined((replace(alone, recall=slower), *beside)))], Demand(0.98))
    assert not only_path(found, 1, "hnsw").pooled
    assert only_path(found, None, "exact").serves
    slower[:4] = 0.79  # mean 0.979, and a tenth of the searches in the tail
    given = joined((replace(alone, recall=slower), *beside))
    assert only_path(choose_paths([(MAIN, given)], Demand(0.97)), 1, "hnsw").pooled
    assert not only_path(choose_paths([(MAIN, given)], Demand(0.97, max_tail=0.05)), 1, "hnsw").pooled


def test_choose_paths_pools_paths_without_rungs() -> None:
    parts = [others(filtered_replays(60, fraction=share), 0, 60, recall=1.0, ms=0.2) for share in BESIDE[:3]]
    assert not only_path(choose_paths([(MAIN, parts[1])], Demand(0.97)), 1, "planner").proven
    planner = only_path(choose_paths([(MAIN, joined(parts))], Demand(0.97)), 1, "planner")
    assert (planner.proven, planner.pooled, planner.serves, planner.samples) == (False, True, True, 60)
    # Replays that it was not tried on neither confirm nor contradict it.
    untried = choose_paths(
        [(MAIN, joined((parts[1], filtered_replays(600, fraction=BESIDE[0]))))], Demand(0.97)
    )
    assert not only_path(untried, 1, "planner").pooled


def test_choose_paths_pools_partial_indexes() -> None:
    numbers = range(3, 11)
    group = [
        (partial(no, f'{{"kind": {no}}}', 0.1), filtered_replays(90, fraction=0.9, at=20)) for no in numbers
    ]
    (single,) = choose_paths(group[:1], Demand(0.98))
    assert (single.proven, single.serves, single.effort) == (False, False, 20)
    found = choose_paths(group, Demand(0.98))
    assert [(w.index_no, w.effort, w.pooled, w.serves, w.samples) for w in found] == [
        (no, 20, True, True, 90) for no in numbers
    ]
    index, seen = group[1]
    harder = np.where((np.arange(90) < 4)[:, None] & (SHAPE < 80), 0.5, seen.recall)  # mean 0.978
    group[1] = (index, replace(seen, recall=harder))
    efforts = {w.index_no: (w.effort, w.pooled) for w in choose_paths(group, Demand(0.98))}
    assert efforts == {no: (80 if no == 4 else 20, True) for no in numbers}


def test_choose_paths_with_pools_errs_no_more_often_than_promised() -> None:
    # The same mean just below the target in every bucket and shape: were the true error rate 5 %, more than
    # 48 errors of 600 would be seen with probability 0.0007.
    errors, pooled = 0, 0
    cells = [(BESIDE[0], "kind ="), (BESIDE[1], "kind ="), (BESIDE[2], "kind ="), (BESIDE[1], "tenant =")]
    for trial in range(600):
        rng = np.random.default_rng(trial)
        parts = []
        for fraction, shape in cells:
            given = filtered_replays(50, fraction=fraction, shape=shape, exact_ms=50.0)
            missed = rng.random((50, 1)) < 0.101
            parts.append(replace(given, recall=np.where(missed, 0.0, np.ones_like(given.recall))))
        found = choose_paths([(MAIN, joined(parts))], Demand(0.9, seed=trial))
        (choice,) = (w for w in found if (w.shape, w.bucket, w.index_no) == ("kind =", 3, 1))
        errors += choice.proven
        pooled += choice.pooled and choice.recall < 1
    assert errors <= 48
    assert pooled > 0


def test_choose_paths_of_many_errs_no_more_often_than_of_one() -> None:
    # Each of six paths is proven wrongly in 5 % of the runs by itself, which makes 22 % together. At a true
    # error rate of 5 %, 150 runs have 16 errors or more with probability 0.003.
    indexes = [hnsw(number) for number in range(1, 7)]
    wrong = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        samples = []
        for index in indexes:
            given = filtered_replays(400, exact_ms=50.0)
            found = (rng.random(400) < 0.98 - 0.0015).astype(np.float64)
            samples.append((index, replace(given, recall=np.tile(found[:, None], (1, len(RUNGS))))))
        wrong += any(
            path.proven and path.access_path != "exact"
            for path in choose_paths(samples, Demand(0.98, seed=seed))
        )
    assert wrong < 16
