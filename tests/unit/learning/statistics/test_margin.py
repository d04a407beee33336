"""The margin of effort rises at once and falls slowly, and does neither without evidence."""

from __future__ import annotations

import numpy as np
import pytest

from vectuned.config.errors import UsageError
from vectuned.learning.model.ladder import HIGHEST_POSITION
from vectuned.learning.statistics.margin import compare_failures, next_margin

TARGETS = (0.8, 0.9, 0.95, 0.98, 0.99)


def first(target: float, failing: float, wanted: int, most: int = 20_000) -> int:
    """Return the number of verdicts, with the failures spread evenly, after which there is a decision."""
    for number in range(1, most):
        failures = round(number * failing)
        if compare_failures(failures, number - failures, target=target) == wanted:
            return number
    raise AssertionError


def test_next_margin_without_verdicts_is_unchanged() -> None:
    for margin in (0.0, 0.35, 13.0):
        assert next_margin(margin, 0, 0, 0.1, target=0.95) == margin


def test_next_margin_rises_by_a_rung_after_failures() -> None:
    assert next_margin(0.0, 3, 0, 0.1, target=0.95) == 1.0
    assert next_margin(2.5, 30, 70, 0.01, target=0.95) == 3.5


def test_next_margin_falls_slowly_and_only_after_enough_successes() -> None:
    assert next_margin(1.0, 0, 20, 0.1, target=0.95) == 1.0
    assert next_margin(1.0, 0, 100, 0.1, target=0.95) == pytest.approx(0.9)
    assert next_margin(1.0, 0, 100_000, 0.1, target=0.95) == pytest.approx(0.9)
    assert next_margin(1.0, 1, 500, 0.02, target=0.95) == pytest.approx(0.98)


@pytest.mark.parametrize("target", TARGETS)
def test_compare_failures_decides_sooner_the_more_failures_there_are(target: float) -> None:
    allowed = 1 - target
    needed = [first(target, share * allowed, 1) for share in (2, 3, 5)]
    assert needed == sorted(needed, reverse=True)
    assert needed[0] * allowed < 30
    assert 2 < first(target, 0.0, -1) * allowed < 6


def test_next_margin_stays_on_the_ladder() -> None:
    assert next_margin(HIGHEST_POSITION - 0.5, 50, 0, 0.1, target=0.95) == HIGHEST_POSITION
    assert next_margin(0.05, 0, 1000, 0.1, target=0.95) == 0.0


@pytest.mark.parametrize("target", TARGETS)
def test_next_margin_never_falls_with_one_failure_more_nor_rises_with_one_success_more(target: float) -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        failures, successes = int(rng.integers(0, 60)), int(rng.integers(0, 600))
        here = next_margin(5.0, failures, successes, 0.1, target=target)
        assert here in (6.0, 5.0, pytest.approx(4.9))
        assert next_margin(5.0, failures + 1, successes, 0.1, target=target) >= here
        assert next_margin(5.0, failures, successes + 1, 0.1, target=target) <= here


def first_decisions(share: float, target: float, runs: int, verdicts: int, seed: int) -> list[int]:
    """Return the first decision in each of many series of verdicts, tested after every verdict."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(runs):
        failed = np.cumsum(rng.random(verdicts) < share)
        reached = (
            compare_failures(int(f), n - int(f), target=target)
            for n, f in enumerate(failed.tolist(), start=1)
        )
        found.append(next((each for each in reached if each), 0))
    return found


@pytest.mark.parametrize("target", [0.8, 0.95])
def test_compare_failures_rarely_errs_although_repeated_after_every_verdict(target: float) -> None:
    found = first_decisions(1 - target, target, runs=150, verdicts=600, seed=2)
    # Each errs with probability 5 % at most; 150 runs have more errors than this with probability 0.0001.
    assert found.count(1) <= 18
    assert found.count(-1) <= 18


def test_compare_failures_detects_more_failures_than_allowed() -> None:
    found = first_decisions(0.15, 0.95, runs=60, verdicts=600, seed=3)
    assert found.count(1) >= 57


def test_next_margin_settles_where_the_target_is_met() -> None:
    # Each rung of margin halves the failures, beginning with four times the allowed number.
    rng = np.random.default_rng(4)
    margin, failures, successes, history = 0.0, 0, 0, []
    for _ in range(20_000):
        failed = rng.random() < 0.2 * 0.5**margin
        failures, successes = failures + failed, successes + (not failed)
        if compare_failures(failures, successes, target=0.95):
            margin = next_margin(margin, failures, successes, 0.1, target=0.95)
            failures = successes = 0
        history.append(margin)
    later = np.array(history[4000:])
    assert 1.5 < later.mean() < 3.5
    assert later.max() <= 4.5


@pytest.mark.parametrize(
    ("margin", "failures", "successes", "rate", "target", "confidence"),
    [
        (-0.1, 1, 1, 0.1, 0.95, 0.95),
        (13.1, 1, 1, 0.1, 0.95, 0.95),
        (np.nan, 1, 1, 0.1, 0.95, 0.95),
        (1, -1, 1, 0.1, 0.95, 0.95),
        (1, 1, -1, 0.1, 0.95, 0.95),
        (1, 1, 1, 0.0, 0.95, 0.95),
        (1, 1, 1, 1.1, 0.95, 0.95),
        (1, 1, 1, 0.1, 1.0, 0.95),
        (1, 1, 1, 0.1, 0.0, 0.95),
        (1, 1, 1, 0.1, 0.95, 1.0),
        (1, 1, 1, 0.1, 0.95, 0.0),
    ],
)
def test_next_margin_refuses_values_out_of_range(
    margin: float, failures: int, successes: int, rate: float, target: float, confidence: float
) -> None:
    with pytest.raises(UsageError):
        next_margin(margin, failures, successes, rate, target=target, confidence=confidence)
