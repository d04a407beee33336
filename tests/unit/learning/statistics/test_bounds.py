"""The bounds are simulated: every claim about an error rate is checked with a known, tiny chance to fail."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from vectuned.config.errors import UsageError
from vectuned.learning.statistics.bounds import find_smallest_safe, lower_bound, lower_bounds, upper_bound
from vectuned.learning.statistics.demand import Demand, above_tail, find_smallest_proven, min_flawless_replays

Floats = npt.NDArray[np.float64]


def recalls(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Draw recall@10 of a well served column: mostly 1, sometimes a row or several are missing; mean 0.98."""
    missing = np.where(rng.random(shape) < 0.1, rng.binomial(8, 0.25, shape), 0)
    return np.asarray(1.0 - missing / 10.0, dtype=np.float64)


DISTRIBUTIONS: dict[str, tuple[Callable[[np.random.Generator, tuple[int, ...]], Floats], float]] = {
    "recall": (recalls, 0.98),
    "found or not": (lambda rng, shape: (rng.random(shape) < 0.95).astype(np.float64), 0.95),
    "even": (lambda rng, shape: rng.random(shape), 0.5),
    "rarely lost": (lambda rng, shape: (rng.random(shape) < 0.996).astype(np.float64), 0.996),
}


@pytest.mark.parametrize("name", list(DISTRIBUTIONS))
@pytest.mark.parametrize("count", [50, 400])
def test_bound_exceeds_the_mean_no_more_often_than_promised(name: str, count: int) -> None:
    # 2,000 samples: were the true error rate 5 %, more than 135 errors would be seen with probability 0.0003.
    draw, mean = DISTRIBUTIONS[name]
    bounds = lower_bounds(draw(np.random.default_rng(1), (count, 2000)), 0.95)
    assert np.count_nonzero(bounds > mean) <= 135


@pytest.mark.parametrize(("name", "ceiling"), [("recall", 0.0145), ("found or not", 0.034), ("even", 0.036)])
def test_bound_is_close_enough_to_be_of_use(name: str, ceiling: float) -> None:
    # Hoeffding's bound from 400 values is 0.061 below their mean, whatever they are.
    draw, _ = DISTRIBUTIONS[name]
    samples = draw(np.random.default_rng(2), (400, 500))
    assert np.mean(samples.mean(axis=0) - lower_bounds(samples)) < ceiling


def test_bound_tightens_with_confidence_given_up_and_with_data() -> None:
    values = recalls(np.random.default_rng(3), (4000,))
    by_confidence = [lower_bound(values[:400], confidence) for confidence in (0.999, 0.99, 0.95, 0.8, 0.5)]
    assert by_confidence == sorted(by_confidence)
    # One order of bets may be luckier with fewer values than with more; 20 are not.
    by_count = [
        np.mean([lower_bound(values[:count], seed=seed) for seed in range(20)])
        for count in (20, 60, 200, 1000, 4000)
    ]
    assert by_count == sorted(by_count)
    assert by_count[-1] < values.mean()


def test_larger_values_never_lower_the_bound_of_a_clear_case() -> None:
    rng = np.random.default_rng(4)
    values = 0.5 * rng.random(300)
    assert lower_bound(values) < lower_bound(values + 0.2) < lower_bound(values + 0.5)


def test_perfect_sample_proves_what_its_size_allows() -> None:
    # Of n ones, a mean of m has probability m**n: no bound can be above 0.05 ** (1 / n).
    bound = lower_bound(np.ones(400))
    assert 0.985 < bound < 0.05 ** (1 / 400)


def test_bound_is_reproducible_and_depends_little_on_the_order() -> None:
    values = recalls(np.random.default_rng(5), (400,))
    assert lower_bound(values, seed=7) == lower_bound(values, seed=7)
    bounds = [lower_bound(values, seed=seed) for seed in range(20)]
    assert len(set(bounds)) > 1
    assert max(bounds) - min(bounds) < 0.004


def test_columns_are_bounded_as_if_alone() -> None:
    samples = recalls(np.random.default_rng(6), (150, 5))
    assert lower_bounds(samples, 0.9, seed=3).tolist() == [lower_bound(c, 0.9, seed=3) for c in samples.T]


def test_upper_bound_mirrors_the_lower() -> None:
    values = recalls(np.random.default_rng(7), (200,))
    assert upper_bound(values) == 1.0 - lower_bound(1.0 - values)
    assert lower_bound(values) < values.mean() < upper_bound(values)


def test_nothing_seen_proves_nothing() -> None:
    assert lower_bound([]) == 0.0
    assert upper_bound([]) == 1.0
    assert find_smallest_safe(np.empty((0, 3)), 0.9) is None
    assert find_smallest_safe(np.empty((50, 0)), 0.9) is None
    assert lower_bound([0.0] * 50) == 0.0


@pytest.mark.parametrize("values", [[0.5, 1.1], [-0.1], [float("nan")], [[0.5]]])
def test_values_that_are_no_recalls_are_refused(values: list[float]) -> None:
    with pytest.raises(UsageError, match="A sample must"):
        lower_bound(values)


def test_confidence_and_target_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match="confidence of 1"):
        lower_bound([0.5], 1.0)
    with pytest.raises(UsageError, match="target recall of 0"):
        find_smallest_safe([[0.5]], 0.0)


def curves_of(rng: np.random.Generator, means: Floats, count: int) -> Floats:
    """Draw recalls at efforts of the given means; a query that is easy at one effort is easy at all."""
    ease = rng.random((count, 1))
    recalls = np.clip(means + (ease - 0.5) * 2.0 * (1.0 - means), 0.0, 1.0)
    return np.asarray(recalls, dtype=np.float64)


def test_smallest_safe_agrees_with_the_bounds_it_stands_for() -> None:
    curves = curves_of(np.random.default_rng(8), np.linspace(0.8, 0.995, 30), 500)
    bounds = lower_bounds(curves)
    for target in (0.85, 0.9, 0.95, 0.98):
        chosen = find_smallest_safe(curves, target)
        assert chosen is not None
        assert (bounds[chosen:] >= target - 1e-6).all()
        assert chosen == 0 or bounds[chosen - 1] < target
    choices = [find_smallest_safe(curves, target) for target in (0.85, 0.9, 0.95, 0.98)]
    assert choices == sorted(choices, key=lambda choice: choice or 0)


def test_smallest_safe_does_not_step_over_a_gap() -> None:
    good, bad = np.ones(300), np.full(300, 0.5)
    assert find_smallest_safe(np.column_stack([good, bad, good, good]), 0.9) == 2
    assert find_smallest_safe(np.column_stack([good, good, bad]), 0.9) is None
    assert find_smallest_safe(np.column_stack([good, good]), 0.9) == 0
    assert find_smallest_safe(np.column_stack([good, good]), 1.0) is None


def test_smallest_safe_errs_no_more_often_than_promised() -> None:
    # 600 tries: were the true error rate 5 %, more than 48 errors would be seen with probability 0.0007.
    rng = np.random.default_rng(9)
    means = np.array([0.90, 0.92, 0.94, 0.949, 0.955, 0.97, 0.99])
    errors = 0
    for seed in range(600):
        chosen = find_smallest_safe((rng.random((300, 1)) < means).astype(np.float64), 0.95, seed=seed)
        errors += chosen is not None and means[chosen] < 0.95
    assert errors <= 48


def test_many_efforts_are_judged_quickly() -> None:
    curves = curves_of(np.random.default_rng(10), np.linspace(0.8, 0.999, 200), 5000)
    start = time.perf_counter()
    assert find_smallest_safe(curves, 0.95) is not None
    assert time.perf_counter() - start < 1.0


def test_a_recall_of_four_fifths_is_not_in_the_tail() -> None:
    recalls = np.array([[0.0, 0.7, 23 / 30, 0.79], [0.8, 4 / 5, 24 / 30, np.float32(0.8)]])
    assert above_tail(recalls).tolist() == [[0.0] * 4, [1.0] * 4]


def test_both_the_mean_and_the_tail_have_to_be_proven() -> None:
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


@pytest.mark.parametrize("bad", ["mean", "tail"])
def test_a_demand_of_two_errs_no_more_often_than_one(bad: str) -> None:
    # One of the two just fails up to the second last effort. 600 tries: were the true error rate 5 %, more
    # than 48 errors would be seen with probability 0.0007.
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


def test_what_is_proven_is_also_what_the_next_search_may_expect() -> None:
    # Conformal risk control: n / (n + 1) of the loss seen plus 1 / (n + 1) is at most 1 - target.
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
    # With little confidence asked for it is what counts.
    assert min_flawless_replays(0.9, 0.2) == 9
    assert find_smallest_safe(np.ones((8, 1)), 0.9, 0.2) == 0


def test_bets_won_early_prove_nothing_that_the_whole_sample_denies() -> None:
    # The order that bets are made in is drawn; of these orders some have the misses come last.
    curves = np.ones((400, 1))
    curves[:41] = 0.0
    proven = [seed for seed in range(2000) if find_smallest_safe(curves, 0.9, seed=seed) == 0]
    assert proven
    for seed in proven:
        assert find_smallest_proven(curves, curves, Demand(0.9, seed=seed)) is None
        assert find_smallest_proven(np.ones((400, 1)), curves, Demand(0.9, seed=seed, max_tail=0.1)) is None


@pytest.mark.parametrize(("target", "count"), [(0.9, 32), (0.95, 66), (0.98, 167), (0.99, 337), (0.995, 676)])
def test_so_many_flawless_replays_prove_a_target(target: float, count: int) -> None:
    assert min_flawless_replays(target) == count
    assert f"{count}" in (min_flawless_replays.__doc__ or "")
    for few in (count - 1, count - 2, count // 2, 1):
        assert find_smallest_safe(np.ones((few, 1)), target) is None
    for many in (count, count + 1, 2 * count):
        assert find_smallest_safe(np.ones((many, 1)), target) == 0
    # One miss in the sample, and it takes more.
    missed = np.ones((count, 1))
    missed[0] = 0.0
    assert find_smallest_safe(missed, target) is None


def test_confidence_costs_replays_and_the_stricter_of_two_demands_counts() -> None:
    by_confidence = [min_flawless_replays(0.95, confidence) for confidence in (0.8, 0.9, 0.95, 0.99)]
    assert by_confidence == sorted(by_confidence)
    assert len(set(by_confidence)) == 4
    assert Demand(0.95).min_replays == Demand(0.95, max_tail=0.125).min_replays == 66
    assert Demand(0.95, max_tail=0.01).min_replays == Demand(0.99).min_replays == 337
    assert [str(Demand(0.95)), str(Demand(0.98, max_tail=0.05))] == [
        "0.95",
        "0.98 and at most 5 % under 0.8",
    ]


def test_the_means_of_a_sample_may_meet_a_demand_without_proof() -> None:
    recall = np.array([[0.7, 0.9, 1.0], [1.0, 0.9, 0.9]])
    above = above_tail(recall)
    assert Demand(0.9).is_met_by(recall, above).tolist() == [False, True, True]
    assert Demand(0.85, max_tail=0.4).is_met_by(recall, above).tolist() == [False, True, True]
    assert Demand(0.85, max_tail=0.5).is_met_by(recall, above).tolist() == [True, True, True]
