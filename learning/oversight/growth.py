"""How the effort that a recall takes grows with the rows of a table."""

from __future__ import annotations

from typing import Final

import numpy as np

from vectuned.learning.model import ladder
from vectuned.learning.model.arrays import Floats
from vectuned.learning.model.tuned_columns import TunedColumn, TunedIndex
from vectuned.learning.policy.replays import Replays

# Where a table shows nothing: a tenfold table was measured to need 2.4 times the effort.
USUAL_POWER: Final = 0.38
_MIN_RATIO: Final = 1.2  # of the two sizes: the power between sizes nearer to each other would be noise
_HIGHEST_POWER: Final = 1.0  # effort grows no faster than the table


def estimate_power(replays: Replays, index: TunedIndex, tuned: TunedColumn) -> float:
    """Estimate the power of the rows by which the effort that reaches the target grows.

    By the replays of searches at the smallest and at the largest size that `min_samples` of them were on, for
    the class of k that most are known of, from 0 to 1; 0.38 where there are not two such sizes.
    """
    if replays.rows is None or not replays.k_classes:
        return USUAL_POWER
    known = np.isfinite(replays.recall[:, :, 0])
    column = int(np.argmax(known.sum(axis=0)))
    sizes, counts = np.unique(replays.rows[known[:, column] & (replays.rows > 0)], return_counts=True)
    sizes = sizes[counts >= tuned.min_samples]
    if len(sizes) < 2 or sizes[-1] < _MIN_RATIO * sizes[0]:
        return USUAL_POWER
    efforts = [
        _effort_at(
            replays.recall[known[:, column] & (replays.rows == size), column], index, tuned.target_recall
        )
        for size in (sizes[0], sizes[-1])
    ]
    power = np.log(efforts[1] / efforts[0]) / np.log(sizes[-1] / sizes[0])
    return float(np.clip(power, 0.0, _HIGHEST_POWER))


def _effort_at(recall: Floats, index: TunedIndex, target: float) -> float:
    """Return the effort at which the mean of recall (n, rungs) reaches the target, at most the highest."""
    means = np.maximum.accumulate(recall.mean(axis=0))
    positions = np.arange(len(means), dtype=np.float64)
    position = np.interp(target, means, positions)
    return float(np.interp(position, np.arange(len(ladder.RUNGS)), index.rungs))
