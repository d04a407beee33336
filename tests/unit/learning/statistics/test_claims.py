"""Simulations of claims about recall with known distributions, drift and bursts; naive loops over checks."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from vectuned.learning.statistics.bounds import lower_bound
from vectuned.learning.statistics.claims import (
    EPOCH,
    RecallClaim,
    claim_curve,
    claim_from_checks,
    running_bounds,
)

Floats = npt.NDArray[np.float64]


def recalls(rng: np.random.Generator, mean: float | Floats, count: int) -> Floats:
    """Draw recall@10 as measured on real text: mostly 1, otherwise 0.7 and sometimes 0."""
    lost = rng.random(count) < (1.0 - mean) / 0.44
    return np.where(lost, np.where(rng.random(count) < 0.8, 0.7, 0.0), 1.0)


def claims_over_time(checks: Floats, times: int = 25) -> list[RecallClaim]:
    """Return the claims after growing numbers of checks."""
    ends = np.unique(np.geomspace(10, len(checks), times).astype(int))
    return [claim_from_checks(checks[:end]) for end in ends]


def test_claim_bound_stays_below_its_own_mean_when_recall_drifts_above_the_target() -> None:
    # With a target of 0.9 no alarm is due. A bound on a constant mean that never loosens was 0.982 here,
    # beside a mean of 0.954.
    for seed in range(3):
        rng = np.random.default_rng(seed)
        checks = np.concatenate([recalls(rng, 0.985, 3000), recalls(rng, 0.93, 4000)])
        for claim in claims_over_time(checks):
            assert claim.lower <= claim.mean
            assert claim.tail_upper >= claim.tail
        last = claim_from_checks(checks)
        assert 0.93 < last.lower < (3000 * 0.985 + 4000 * 0.93) / 7000
        assert last.epoch is not None
        assert (last.epoch.last, EPOCH) == (6999, 500)
        assert 0.88 < last.epoch.lower < last.epoch.mean < 0.96


@pytest.mark.parametrize("start", [0.9, 0.98])
@pytest.mark.parametrize("end", [0.9, 0.98])
def test_running_bounds_hold_at_every_time_whether_recall_drifts_or_not(start: float, end: float) -> None:
    # At a true error rate of 5 %, 400 runs have 35 errors or more with probability 0.001.
    rng = np.random.default_rng(1)
    means = np.linspace(start, end, 600)
    running = np.cumsum(means) / np.arange(1, 601)
    wrong = 0
    for _ in range(400):
        wrong += bool((running_bounds(recalls(rng, means, 600), math.log(20)) > running).any())
    assert wrong < 35


def test_running_bounds_hold_when_recall_depends_on_the_past() -> None:
    # An adversary serves well after good checks and badly after bad ones.
    rng = np.random.default_rng(2)
    wrong = 0
    for _ in range(300):
        values, means, mean = np.empty(400), np.empty(400), 0.95
        for i in range(400):
            means[i], values[i] = mean, rng.random() < mean
            mean = 0.99 if values[i] else 0.8
        running = np.cumsum(means) / np.arange(1, 401)
        wrong += bool((running_bounds(values, math.log(20)) > running).any())
    assert wrong < 28  # of 300 at a true rate of 5 %: probability 0.001


def test_running_bounds_equal_those_of_a_loop_over_values() -> None:
    values = recalls(np.random.default_rng(3), 0.9, 60)
    bounds = running_bounds(values, math.log(20))

    def capital(count: int, mean: float) -> float:
        """Return the mean capital of the seven bettors against a running mean of `mean`."""
        total = 0.0
        for step in range(7):
            stake = 0.9 * 2 ** (-step / 2)
            log_capital, before = 0.0, 1.0
            for number, value in enumerate(values[:count], 1):
                guess = before / number
                price = -math.log(1 - stake) - stake
                log_capital += stake * (value - mean) - price * (value - guess) ** 2
                before += value
            total += math.exp(log_capital) / 7
        return total

    assert 0.5 < bounds[-1] < 0.9
    for count in (30, 60):
        lower = bounds[count - 1]
        assert capital(count, lower - 1e-6) >= 20 > capital(count, lower + 1e-6)


def test_claim_bounds_approach_the_mean() -> None:
    checks = recalls(np.random.default_rng(2), 0.95, 5000)
    claim = claim_from_checks(checks)
    assert checks.mean() - 0.012 < claim.lower < lower_bound(checks) < checks.mean()
    assert claim.tail < claim.tail_upper < claim.tail + 0.04
    early = claim_from_checks(checks[:400])
    assert early.mean - 0.05 < early.lower


def test_claim_without_checks_and_from_the_best_and_worst_checks() -> None:
    for checks in ([], [float("nan")] * 7):
        nothing = claim_from_checks(checks)
        assert (nothing.checks, nothing.unknown, nothing.lower, nothing.tail_upper) == (
            0,
            len(checks),
            0.0,
            1.0,
        )
        assert math.isnan(nothing.mean)
        assert math.isnan(nothing.tail)
        assert nothing.epoch is None
    best, worst = claim_from_checks(np.ones(400)), claim_from_checks(np.zeros(400))
    assert (best.mean, best.tail, worst.mean, worst.tail) == (1.0, 0.0, 0.0, 1.0)
    assert 0.98 < best.lower < 0.05 ** (1 / 400)
    assert 1.0 - 0.05 ** (1 / 400) < best.tail_upper < 0.02
    assert (worst.lower, worst.tail_upper) == (0.0, 1.0)


def test_claim_tail_excludes_a_recall_at_the_limit() -> None:
    assert claim_from_checks([0.8, 24 / 30, 0.79, 0.0]).tail == 0.5


def test_claim_epoch_is_the_last_closed_one() -> None:
    rng = np.random.default_rng(6)
    checks = np.concatenate([np.ones(EPOCH), recalls(rng, 0.9, EPOCH), recalls(rng, 0.95, EPOCH - 1)])
    assert claim_from_checks(checks[: EPOCH - 1]).epoch is None
    first, second = claim_from_checks(checks[:EPOCH]).epoch, claim_from_checks(checks).epoch
    assert first is not None
    assert second is not None
    assert (first.mean, first.last, second.mean, second.last) == (1.0, 499, checks[500:1000].mean(), 999)
    assert 0.97 < first.lower < 1.0
    assert second.mean - 0.05 < second.lower < second.mean
    unknown = claim_from_checks(np.insert(checks, 3, [np.nan, np.nan])).epoch
    assert unknown is not None
    assert unknown.last == 1001


def test_claim_from_bursts_counts_blocks_of_checks() -> None:
    # Searches come in bursts of ten alike. The mean of the population that they are drawn from is 0.95. At a
    # true error rate of 5 %, 200 runs have 20 errors or more with probability 0.003.
    rng = np.random.default_rng(5)
    wrong = 0
    for _ in range(200):
        checks = np.repeat(recalls(rng, 0.95, 100), 10)
        claim = claim_from_checks(checks)
        wrong += claim.lower > 0.95
        assert claim.block > 1
        assert claim.lower <= claim.mean
    assert wrong < 20
    single = claim_from_checks(recalls(rng, 0.95, 1000))
    assert single.block == 1


@pytest.mark.parametrize("burst", [1, 10])
def test_claim_curve_ends_at_the_claim(burst: int) -> None:
    checks = np.repeat(recalls(np.random.default_rng(7), 0.9, 300 // burst), burst)
    checks[[0, 1, 50, 299]] = np.nan
    means, lower = claim_curve(checks)
    claim = claim_from_checks(checks)
    assert (means[-1], lower[-1]) == (pytest.approx(claim.mean), pytest.approx(claim.lower))
    assert np.isnan(means[:2]).all()
    assert (lower[:3] == 0).all()
    assert (lower[2:] <= means[2:]).all()
