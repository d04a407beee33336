"""Milliseconds of searches by themselves, from those of continued scans, which return rows one by one."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from vectuned.learning.model.arrays import Floats, Ints

MIN_TIMED: Final = 20  # searches run by themselves; with fewer, one that a busy server delayed tilts the line
_DELAYED: Final = 5.0  # times the median of like searches, from which one was delayed by something else


def convert_ms(ms: Floats, efforts: npt.ArrayLike, place: Ints, fresh: Floats) -> Floats:
    """Convert milliseconds of continued scans (n, rungs) to those of searches by themselves at each rung.

    `fresh` (p,) are the times of searches by themselves, at the rungs `place` (p,) of `efforts` (rungs,).
    What such a search takes is close to a line in its effort; what a continued scan takes is not. The mean of
    each rung becomes about that line: the searches keep their proportions, but none takes less time for more
    effort. Without MIN_TIMED searches nothing is converted.
    """
    line = _fit(np.asarray(efforts, dtype=np.float64), place, fresh)
    if line is None or not len(ms):
        return ms
    converted: Floats = np.maximum.accumulate(ms * (line / ms.mean(axis=0)), axis=1)
    return converted


def bound_delays(ms: Floats) -> Floats:
    """Bound milliseconds of like searches (n,) or (n, m) to 5 times the median of each column; NaN stays."""
    if not np.isfinite(ms).any():
        return ms
    known = np.where(np.isfinite(ms).any(axis=0), ms, 0.0)
    bounded: Floats = np.minimum(ms, _DELAYED * np.nanmedian(known, axis=0))
    return bounded


def _fit(efforts: Floats, place: Ints, fresh: Floats) -> Floats | None:
    """Return the line through the median times of the rungs, by rung; None with too few times.

    Medians, because some searches are delayed by something else; a rung weighs by its number of searches, and
    by its error in proportion to its time.
    """
    if len(fresh) < MIN_TIMED:
        return None
    rungs, timed = np.unique(place, return_inverse=True)
    usual = np.array([np.median(fresh[timed == number]) for number in range(len(rungs))])
    return np.asarray(_weighted_line(efforts[rungs], usual, np.bincount(timed) / usual**2)(efforts))


def _weighted_line(x: Floats, y: Floats, weights: Floats) -> np.polynomial.Polynomial:
    """Return the line nearest to y that neither falls with x nor starts below 0."""
    mean_x, mean_y = np.average(x, weights=weights), np.average(y, weights=weights)
    spread = (weights * (x - mean_x) ** 2).sum()
    slope = (weights * (x - mean_x) * (y - mean_y)).sum() / spread if spread > 0 else 0.0
    slope = min(max(slope, 0.0), mean_y / mean_x)
    return np.polynomial.Polynomial([mean_y - slope * mean_x, slope])
