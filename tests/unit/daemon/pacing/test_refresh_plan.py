"""`RefreshPlan` on a simulated clock."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vectuned.daemon.pacing.refresh_plan import RefreshPlan, TableState

STATE = TableState("a", 10_000.0, 500)


@pytest.mark.parametrize(
    ("now", "due"),
    [
        (STATE, False),
        (replace(STATE, changes=599), False),
        (replace(STATE, digest="b"), True),
        (replace(STATE, changes=700), True),
        (replace(STATE, changes=0), True),
    ],
)
def test_refresh_plan_looks_at_what_has_changed(now: TableState, due: bool) -> None:
    clock = 0.0
    plan = RefreshPlan(lambda: clock)
    assert plan.is_due(1, STATE)
    plan.record(1, STATE)
    clock = 3599.0
    assert plan.is_due(1, now) == due
    assert plan.is_due(2, STATE)
    clock = 3600.0
    assert plan.is_due(1, now)


def test_refresh_plan_adds_up_slow_changes_and_sees_the_first_rows() -> None:
    plan = RefreshPlan(lambda: 0.0)
    empty = TableState("a", -1.0, 0)
    plan.record(1, empty)
    assert plan.is_due(1, replace(empty, changes=2))
    plan.record(1, STATE)
    assert [plan.is_due(1, replace(STATE, changes=500 + 30 * n)) for n in range(5)] == [False] * 4 + [True]
