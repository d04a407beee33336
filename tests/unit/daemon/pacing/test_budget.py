"""The share of a core and the size of a pass, on a clock of their own."""

from __future__ import annotations

import numpy as np
import pytest

from vectuned.daemon.pacing.budget import Budget, PassSize


class Clock:
    """A clock that is told what time it is."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("share", [0.01, 0.25, 1.0])
def test_over_any_time_no_more_than_the_share_is_spent(share: float) -> None:
    clock = Clock()
    budget = Budget(share, clock=clock)
    rng = np.random.default_rng(0)
    spans: list[tuple[float, float]] = []
    largest = 8.0
    for _ in range(500):
        clock.now += budget.wait_seconds() + 1e-9
        work = float(rng.uniform(0.01, largest))
        spans.append((clock.now, work))
        clock.now += work
        budget.spend(work)
    for begun in range(0, 400, 7):
        for ended in range(begun + 1, 500, 11):
            took = spans[ended][0] - spans[begun][0]
            spent = sum(work for _, work in spans[begun:ended])
            assert spent <= share * took + share * 10 + largest
    took = spans[-1][0] - spans[0][0]
    assert sum(work for _, work in spans[:-1]) == pytest.approx(share * took, rel=0.02)  # and no less


def test_what_was_taken_too_much_is_waited_for() -> None:
    clock = Clock()
    budget = Budget(0.25, clock=clock)
    assert budget.wait_seconds() == 0
    budget.spend(2.5)
    assert budget.wait_seconds() == 0
    budget.spend(5)
    assert budget.wait_seconds() == 20
    clock.now += 19
    assert budget.wait_seconds() == 1
    clock.now += 1
    assert budget.wait_seconds() == 0


def test_only_so_much_is_saved_up() -> None:
    clock = Clock()
    budget = Budget(0.5, clock=clock)
    clock.now += 1e6
    budget.spend(5 + 3)
    assert budget.wait_seconds() == 6


def test_a_clock_that_goes_back_gives_and_takes_nothing() -> None:
    clock = Clock()
    budget = Budget(0.5, clock=clock)
    budget.spend(10)
    clock.now -= 500
    assert budget.wait_seconds() == 10
    clock.now += 4
    assert budget.wait_seconds() == 6


def test_the_first_pass_is_small() -> None:
    assert PassSize().size(200) == 20
    assert PassSize().size(3) == 3


@pytest.mark.parametrize(
    ("fixed", "each", "expected"),
    [
        (1.0, 0.01, 200),  # as many as are allowed
        (1.0, 0.03, 100),
        (0.0, 0.04, 100),
        (1.0, 60.0, 5),
        (30.0, 0.5, 60),  # the table takes half a minute, so the searches do
        (2.0, 0.0, 200),
    ],
)
def test_a_pass_takes_seconds_or_twice_what_the_table_does(fixed: float, each: float, expected: int) -> None:
    size = PassSize()
    size.learn(fixed, 20 * each, 20)
    assert size.size(200) == expected


def test_passes_are_learned_from_and_failures_halve_them() -> None:
    size = PassSize()
    size.learn(1.0, 2.0, 20)
    size.learn(9.0, 9.0, 0)  # nothing was replayed: nothing is known
    assert size.size(1000) == 30
    for _ in range(10):
        size.learn(1.0, 6.0, 20)
    assert size.size(1000) == 10
    size.failed()
    assert size.size(1000) == 5
    unknown = PassSize()
    unknown.failed()
    assert unknown.size(200) == 10
