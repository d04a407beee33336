"""The best fixed setting of an index: what a careful user would set after measuring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from vectuned.learning.model.arrays import Floats
from vectuned.learning.model.ladder import RUNGS, interpolate, position_of
from vectuned.learning.model.tuned_columns import TunedIndex

# ef_search values to choose from: finer than the ladder from 40 on, up to pgvector's limit of 1000.
GRID: Final = (
    *range(10, 100, 10),
    *range(100, 200, 20),
    *range(200, 400, 40),
    *range(400, 500, 50),
    *range(500, 1001, 100),
)


def list_fixed_efforts(index: TunedIndex, k: int) -> tuple[int, ...]:
    """Return the efforts from which the best fixed setting of an index is chosen, ascending."""
    if index.method == "hnsw":
        return tuple(ef for ef in GRID if ef >= k)
    return tuple(sorted(set(index.rungs)))


def compute_fixed_curve(
    recall: Floats, grid: Sequence[int] = GRID, rungs: Sequence[int] = RUNGS
) -> dict[int, float]:
    """Return the mean recall at each effort of an ascending grid.

    `recall` float64 (n, rungs): recall of n searches, replayed at every rung.
    """
    means = interpolate(recall, position_of(grid, rungs)).mean(axis=0)
    return dict(zip(grid, means.tolist(), strict=True))


def choose_best_fixed(curve: Mapping[int, float], target: float) -> int:
    """Return the smallest effort of a curve whose mean recall reaches the target; the largest if none."""
    return next((effort for effort, recall in curve.items() if recall >= target), max(curve))
