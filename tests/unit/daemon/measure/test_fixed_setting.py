"""The choice of the best fixed setting."""

from __future__ import annotations

import numpy as np
import pytest

from vectuned.daemon.measure.fixed_setting import GRID, choose_best_fixed, compute_fixed_curve
from vectuned.learning.model.ladder import RUNGS


@pytest.mark.parametrize(("target", "effort"), [(0.5, 10), (0.95, 40), (0.96, 80), (0.999, 80)])
def test_choose_best_fixed_returns_the_smallest_effort_that_reaches_the_target(
    target: float, effort: int
) -> None:
    assert choose_best_fixed({10: 0.8, 40: 0.95, 80: 0.97}, target) == effort


def test_compute_fixed_curve_at_a_rung_is_the_mean_of_the_replays() -> None:
    recall = np.random.default_rng(1).random((50, len(RUNGS)))
    curve = compute_fixed_curve(recall)
    assert tuple(curve) == GRID
    for effort in set(GRID) & set(RUNGS):
        assert curve[effort] == pytest.approx(recall[:, RUNGS.index(effort)].mean())
