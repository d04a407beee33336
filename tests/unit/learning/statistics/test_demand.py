"""Simulations of proofs that an effort meets a demand; comments state how improbable chance failures are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.unit.samples_helpers import curves_of

from vectuned.learning.statistics.bounds import find_smallest_safe
from vectuned.learning.statistics.demand import (
    Demand,
    above_tail,
    find_shortfall,
    find_smallest_proven,
    min_flawless_replays,
)


def test_above_tail_includes_a_recall_of_four_fifths() -> None:
    recalls = np.array([[0.0, 0.7, 23 / 30, 0.79], [0.8, 4 / 5, 24 / 30, np.float32(0.8)]])
    assert above_tail(recalls).tolist() == [[0.0] * 4, [1.0] * 4]


def test_find_smallest_proven_requires_a_proof_of_mean_and_tail() -> None:
    curves = curves_of(np.random.default_rng(11), np.linspace(0.8, 0.995, 30), 500)
    above = above_tail(curves)
    for target in (0.85, 0.9, 0.95):
        mean = find_smallest_safe(curves, target)
        assert find_smallest_proven(curves, above, Demand(target)) == mean
        for max_tail in (0.01, 0.05, 0.2, 0.5):
            tail = find_smallest_safe(above, 1 - max_tail)
            found = find_smallest_proven(curves, above, Demand(target, max_tail=max_tail))
            assert found == (None if mean is None or tail is None else max(mean, tail))
    assert find_smallest_proven(curves, above, Demand(0.85, max_tail=0.01)) != find_smallest_safe(
        curves, 0.85
    )
    lost = np.ones((500, 3))
    assert find_smallest_proven(lost, np.zeros((500, 3)), Demand(0.9, max_tail=0.1)) is None
    assert find_smallest_proven(np.zeros((500, 3)), lost, Demand(0.9, max_tail=0.1)) is None
    assert find_smallest_proven(np.empty((0, 3)), np.empty((0, 3)), Demand(0.9)) is None
    assert find_smallest_proven(np.empty((50, 0)), np.empty((50, 0)), Demand(0.9)) is None


def test_find_shortfall_is_found_where_it_is_wide_and_seldom_where_there_is_none() -> None:
    rng = np.random.default_rng(13)
    demand = Demand(0.9, max_tail=0.25)
    low = rng.choice([0.7, 0.9], 300)  # a mean of 0.8, and half of the searches in the tail
    found = find_shortfall(low, above_tail(low), demand)
    assert found is not None
    assert low.mean() == found.recall < found.recall_bound < 0.9
    assert 0.25 < found.tail_bound < found.tail
    assert "under 0.8" in str(found)
    # The mean is met and the tail is not.
    tailed = rng.choice([0.79, 1.0], 300)
    assert find_shortfall(tailed, above_tail(tailed), Demand(0.85, max_tail=0.1)) is not None
    assert find_shortfall(tailed, above_tail(tailed), Demand(0.85)) is None
    assert find_shortfall(np.empty(0), np.empty(0), demand) is None
    # Just met: at a true error rate of 5 %, 600 runs have more than 48 errors with probability 0.0007.
    errors = 0
    for seed in range(600):
        recall = (rng.random(300) < 0.9).astype(np.float64)
        errors += find_shortfall(recall, above_tail(recall), Demand(0.9, seed=seed, max_tail=0.1)) is not None
    assert errors <= 48


@pytest.mark.parametrize("bad", ["mean", "tail"])
def test_find_smallest_proven_errs_no_more_often_with_two_limits_than_with_one(bad: str) -> None:
    # One of the two just fails up to the second last effort. At a true error rate of 5 %, 600 runs have more
    # than 48 errors with probability 0.0007.
    rng = np.random.default_rng(12)
    demand = Demand(0.9, max_tail=0.1)
    short = np.array([0.101, 0.101, 0.03])  # the share of searches that fail by the one
    errors = 0
    for seed in range(600):
        failed = rng.random((300, 1)) < short
        recall = np.where(failed, 0.79, 0.99) if bad == "tail" else np.where(failed, 0.0, 1.0)
        above = above_tail(recall) if bad == "tail" else np.ones_like(recall)
        found = find_smallest_proven(recall, above, Demand(0.9, seed=seed, max_tail=demand.max_tail))
        errors += found is not None and found < 2
    assert errors <= 48


def test_find_smallest_proven_bounds_the_expected_loss_of_the_next_search() -> None:
    # Conformal risk control: n / (n + 1) of the mean loss plus 1 / (n + 1) is at most 1 - target.
    rng = np.random.default_rng(13)
    for _ in range(200):
        count = int(rng.integers(20, 400))
        curves = curves_of(rng, np.linspace(0.85, 0.999, 12), count)
        demand = Demand(float(rng.choice([0.9, 0.95])), max_tail=0.2)
        found = find_smallest_proven(curves, above_tail(curves), demand)
        for values, limit in ((curves, 1 - demand.target), (above_tail(curves), demand.max_tail)):
            if found is not None:
                loss = 1 - values[:, found:].mean(axis=0)
                assert (count / (count + 1) * loss + 1 / (count + 1) <= limit + 1e-12).all()
    # At a low confidence this bound decides.
    assert min_flawless_replays(0.9, 0.2) == 9
    assert find_smallest_safe(np.ones((8, 1)), 0.9, 0.2) == 0


def test_find_smallest_proven_rejects_early_wins_that_the_whole_sample_contradicts() -> None:
    # The order of the bets is random; in some of these orders the misses come last.
    curves = np.ones((400, 1))
    curves[:41] = 0.0
    proven = [seed for seed in range(2000) if find_smallest_safe(curves, 0.9, seed=seed) == 0]
    assert proven
    for seed in proven:
        assert find_smallest_proven(curves, curves, Demand(0.9, seed=seed)) is None
        assert find_smallest_proven(np.ones((400, 1)), curves, Demand(0.9, seed=seed, max_tail=0.1)) is None


@pytest.mark.parametrize(
    ("target", "count", "ideal"),
    [(0.9, 32, 29), (0.95, 66, 59), (0.98, 167, 149), (0.99, 337, 299), (0.995, 676, 598)],
)
def test_min_flawless_replays_prove_a_target_and_one_less_does_not(
    target: float, count: int, ideal: int
) -> None:
    assert min_flawless_replays(target) == count
    # At a mean of `target`, n flawless replays have probability target**n: no valid proof needs fewer.
    assert ideal == math.ceil(math.log(0.05) / math.log(target))
    for few in (count - 1, count - 2, count // 2, 1):
        assert find_smallest_safe(np.ones((few, 1)), target) is None
    for many in (count, count + 1, 2 * count):
        assert find_smallest_safe(np.ones((many, 1)), target) == 0
    # With one miss in the sample, it takes more.
    missed = np.ones((count, 1))
    missed[0] = 0.0
    assert find_smallest_safe(missed, target) is None


def test_min_replays_grow_with_confidence_and_follow_the_stricter_limit() -> None:
    by_confidence = [min_flawless_replays(0.95, confidence) for confidence in (0.8, 0.9, 0.95, 0.99)]
    assert by_confidence == sorted(by_confidence)
    assert len(set(by_confidence)) == 4
    assert Demand(0.95).min_replays == Demand(0.95, max_tail=0.125).min_replays == 66
    assert Demand(0.95, max_tail=0.01).min_replays == Demand(0.99).min_replays == 337
    assert [str(Demand(0.95)), str(Demand(0.98, max_tail=0.05))] == [
        "0.95",
        "0.98 and at most 5 % under 0.8",
    ]


def test_is_met_by_compares_the_means_of_a_sample() -> None:
    recall = np.array([[0.7, 0.9, 1.0], [1.0, 0.9, 0.9]])
    above = above_tail(recall)
    assert Demand(0.9).is_met_by(recall, above).tolist() == [False, True, True]
    assert Demand(0.85, max_tail=0.4).is_met_by(recall, above).tolist() == [False, True, True]
    assert Demand(0.85, max_tail=0.5).is_met_by(recall, above).tolist() == [True, True, True]
