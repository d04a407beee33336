"""Simulations of the bounds; each comment states how improbable a failure by chance is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from tests.unit.calls_helpers import count_calls
from tests.unit.samples_helpers import curves_of

from vectuned.config.errors import UsageError
from vectuned.learning.statistics.bounds import find_smallest_safe, lower_bound, lower_bounds, upper_bound

Floats = npt.NDArray[np.float64]


def recalls(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Draw recall@10 of a column that is served well: mostly 1, sometimes rows are missing; mean 0.98."""
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
def test_lower_bounds_exceed_the_mean_no_more_often_than_promised(name: str, count: int) -> None:
    # At a true error rate of 5 %, 2,000 samples have more than 135 errors with probability 0.0003.
    draw, mean = DISTRIBUTIONS[name]
    bounds = lower_bounds(draw(np.random.default_rng(1), (count, 2000)), 0.95)
    assert np.count_nonzero(bounds > mean) <= 135


@pytest.mark.parametrize(("name", "ceiling"), [("recall", 0.0145), ("found or not", 0.034), ("even", 0.036)])
def test_lower_bounds_are_close_to_the_mean(name: str, ceiling: float) -> None:
    # Hoeffding's bound from 400 values is 0.061 below their mean, whatever they are.
    draw, _ = DISTRIBUTIONS[name]
    samples = draw(np.random.default_rng(2), (400, 500))
    assert np.mean(samples.mean(axis=0) - lower_bounds(samples)) < ceiling


def test_lower_bound_rises_with_less_confidence_and_with_more_data() -> None:
    values = recalls(np.random.default_rng(3), (4000,))
    by_confidence = [lower_bound(values[:400], confidence) for confidence in (0.999, 0.99, 0.95, 0.8, 0.5)]
    assert by_confidence == sorted(by_confidence)
    # With one order of bets fewer values may happen to give a higher bound; the mean of 20 orders does not.
    by_count = [
        np.mean([lower_bound(values[:count], seed=seed) for seed in range(20)])
        for count in (20, 60, 200, 1000, 4000)
    ]
    assert by_count == sorted(by_count)
    assert by_count[-1] < values.mean()


def test_lower_bound_rises_with_larger_values() -> None:
    rng = np.random.default_rng(4)
    values = 0.5 * rng.random(300)
    assert lower_bound(values) < lower_bound(values + 0.2) < lower_bound(values + 0.5)


def test_lower_bound_of_a_perfect_sample_is_what_its_size_allows() -> None:
    # Of n ones, a mean of m has probability m**n: no bound can be above 0.05 ** (1 / n).
    bound = lower_bound(np.ones(400))
    assert 0.985 < bound < 0.05 ** (1 / 400)


def test_lower_bound_is_reproducible_and_depends_little_on_the_order() -> None:
    values = recalls(np.random.default_rng(5), (400,))
    assert lower_bound(values, seed=7) == lower_bound(values, seed=7)
    bounds = [lower_bound(values, seed=seed) for seed in range(20)]
    assert len(set(bounds)) > 1
    assert max(bounds) - min(bounds) < 0.004


def test_lower_bounds_of_columns_equal_those_of_each_column_alone() -> None:
    samples = recalls(np.random.default_rng(6), (150, 5))
    assert lower_bounds(samples, 0.9, seed=3).tolist() == [lower_bound(c, 0.9, seed=3) for c in samples.T]


def test_upper_bound_mirrors_the_lower_bound() -> None:
    values = recalls(np.random.default_rng(7), (200,))
    assert upper_bound(values) == 1.0 - lower_bound(1.0 - values)
    assert lower_bound(values) < values.mean() < upper_bound(values)


def test_lower_bound_and_find_smallest_safe_prove_nothing_without_data() -> None:
    assert lower_bound([]) == 0.0
    assert upper_bound([]) == 1.0
    assert find_smallest_safe(np.empty((0, 3)), 0.9) is None
    assert find_smallest_safe(np.empty((50, 0)), 0.9) is None
    assert lower_bound([0.0] * 50) == 0.0


@pytest.mark.parametrize("values", [[0.5, 1.1], [-0.1], [float("nan")], [[0.5]]])
def test_lower_bound_refuses_values_that_are_not_recalls(values: list[float]) -> None:
    with pytest.raises(UsageError, match="A sample must"):
        lower_bound(values)


def test_bounds_refuse_a_confidence_or_target_out_of_range() -> None:
    with pytest.raises(UsageError, match="confidence of 1"):
        lower_bound([0.5], 1.0)
    with pytest.raises(UsageError, match="target recall of 0"):
        find_smallest_safe([[0.5]], 0.0)


def test_find_smallest_safe_agrees_with_lower_bounds() -> None:
    curves = curves_of(np.random.default_rng(8), np.linspace(0.8, 0.995, 30), 500)
    bounds = lower_bounds(curves)
    for target in (0.85, 0.9, 0.95, 0.98):
        chosen = find_smallest_safe(curves, target)
        assert chosen is not None
        assert (bounds[chosen:] >= target - 1e-6).all()
        assert chosen == 0 or bounds[chosen - 1] < target
    choices = [find_smallest_safe(curves, target) for target in (0.85, 0.9, 0.95, 0.98)]
    assert choices == sorted(choices, key=lambda choice: choice or 0)


def test_find_smallest_safe_does_not_pass_an_unproven_effort() -> None:
    good, bad = np.ones(300), np.full(300, 0.5)
    assert find_smallest_safe(np.column_stack([good, bad, good, good]), 0.9) == 2
    assert find_smallest_safe(np.column_stack([good, good, bad]), 0.9) is None
    assert find_smallest_safe(np.column_stack([good, good]), 0.9) == 0
    assert find_smallest_safe(np.column_stack([good, good]), 1.0) is None


def test_find_smallest_safe_errs_no_more_often_than_promised() -> None:
    # At a true error rate of 5 %, 600 runs have more than 48 errors with probability 0.0007.
    rng = np.random.default_rng(9)
    means = np.array([0.90, 0.92, 0.94, 0.949, 0.955, 0.97, 0.99])
    errors = 0
    for seed in range(600):
        chosen = find_smallest_safe((rng.random((300, 1)) < means).astype(np.float64), 0.95, seed=seed)
        errors += chosen is not None and means[chosen] < 0.95
    assert errors <= 48


def test_find_smallest_safe_does_not_loop_over_replays_or_efforts() -> None:
    curves = curves_of(np.random.default_rng(10), np.linspace(0.8, 0.999, 200), 5000)
    assert find_smallest_safe(curves, 0.95) is not None
    few = count_calls(lambda: find_smallest_safe(curves[:50, ::20], 0.95))
    assert count_calls(lambda: find_smallest_safe(curves, 0.95)) <= few + 10
