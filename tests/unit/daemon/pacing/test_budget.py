"""`Budget` on a simulated clock."""

from __future__ import annotations

import numpy as np
import pytest

from vectuned.daemon.pacing.budget import Budget

BURST = 10.0  # seconds


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("share", [0.01, 0.25, 1.0])
def test_budget_over_any_interval_allows_no_more_than_its_share(share: float) -> None:
    clock = Clock()
    budget = Budget(share, BURST, clock=clock)
    rng = np.random.default_rng(0)
    spans: list[tuple[float, float]] = []
    largest = 8.0
    for _ in range(500):
        clock.now += budget.wait_seconds() + 1e-9
        work = float(rng.uniform(0.01, largest))
        spans.append((clock.now, work))
        clock.now += work
        budget.spend(work)
    for start in range(0, 400, 7):
        for end in range(start + 1, 500, 11):
            took = spans[end][0] - spans[start][0]
            spent = sum(work for _, work in spans[start:end])
            assert spent <= share * took + share * BURST + largest
    took = spans[-1][0] - spans[0][0]
    assert sum(work for _, work in spans[:-1]) == pytest.approx(share * took, rel=0.02)  # and no less


def test_wait_seconds_after_overspending_pays_the_debt() -> None:
    clock = Clock()
    budget = Budget(0.25, BURST, clock=clock)
    assert budget.wait_seconds() == 0
    budget.spend(2.5)
    assert budget.wait_seconds() == 0
    budget.spend(5)
    assert budget.wait_seconds() == 20
    clock.now += 19
    assert budget.wait_seconds() == 1
    clock.now += 1
    assert budget.wait_seconds() == 0


def test_budget_saves_up_no_more_than_its_burst() -> None:
    clock = Clock()
    budget = Budget(0.5, BURST, clock=clock)
    clock.now += 1e6
    budget.spend(5 + 3)
    assert budget.wait_seconds() == 6


def test_wait_seconds_with_a_clock_set_back_gives_and_takes_nothing() -> None:
    clock = Clock()
    budget = Budget(0.5, BURST, clock=clock)
    budget.spend(10)
    clock.now -= 500
    assert budget.wait_seconds() == 10
    clock.now += 4
    assert budget.wait_seconds() == 6


def test_adapt_another_share_counts_from_now_on() -> None:
    clock = Clock()
    budget = Budget(0.5, BURST, clock=clock)
    budget.adapt(0.1)
    budget.spend(2.0)  # of the one second that the smaller bucket holds
    assert budget.wait_seconds() == pytest.approx(10)
    budget.adapt(0.5)
    assert budget.wait_seconds() == pytest.approx(2)
