"""The ladder of efforts at which searches are replayed, and the classes of k.

sql/functions/ladder.sql holds the same numbers for searches inside the database; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from vectuned.config.errors import UsageError

from .arrays import Floats, Ints, Singles

RUNGS: Final[tuple[int, ...]] = (10, 14, 20, 28, 40, 56, 80, 112, 160, 224, 320, 448, 640, 1000)
K_CLASSES: Final[tuple[int, ...]] = (1, 3, 10, 30, 100, 300, 1000)
PROBES: Final[tuple[int, ...]] = (28, 56, 112)
PROBE_WIDTH: Final = sum(PROBES)  # distances that the probes of a search see
HIGHEST_POSITION: Final[float] = float(len(RUNGS) - 1)


def k_class(k: int) -> int:
    """Return the class of `k`: the smallest of K_CLASSES not below it; UsageError outside 1 to 1000."""
    if not 1 <= k <= K_CLASSES[-1]:
        raise UsageError(f"k must be between 1 and {K_CLASSES[-1]}, got {k}.")
    return next(bound for bound in K_CLASSES if k <= bound)


def setting_at(effort: npt.ArrayLike, k: int, ladder: Sequence[int] = RUNGS) -> Ints:
    """Turn positions on a ladder into ef_search or probes, linear between rungs, at least k; int64."""
    rungs = np.asarray(ladder, dtype=np.float64)
    position = np.clip(np.asarray(effort, dtype=np.float64), 0.0, HIGHEST_POSITION)
    low = np.minimum(np.floor(position), HIGHEST_POSITION - 1).astype(np.int64)
    exact = rungs[low] + (position - low) * (rungs[low + 1] - rungs[low])
    return np.clip(np.rint(exact).astype(np.int64), k, ladder[-1])


def probe_rungs(lists: int) -> tuple[int, ...]:
    """Return the probes at which an IVFFlat index of so many lists is measured, from 1 on.

    Up to eight times the square root of the lists, at least 128: as many rungs as of ef_search; some repeat
    where there are few lists.
    """
    highest = min(lists, max(128, round(8 * lists**0.5)))
    return tuple(int(n) for n in np.rint(np.geomspace(1, highest, len(RUNGS))))


def position_of(ef: npt.ArrayLike, rungs: Sequence[int] = RUNGS) -> Floats:
    """Return the position on the ladder of an ef_search, or of probes on the rungs of those."""
    return np.interp(np.asarray(ef, dtype=np.float64), rungs, np.arange(len(rungs), dtype=np.float64))


def interpolate(curves: Floats | Singles, efforts: npt.ArrayLike) -> Floats:
    """Read curves between their rungs.

    `curves` (n, rungs), `efforts` positions (m,) for all curves, or (n, m). Returns (n, m).
    """
    position = np.clip(np.asarray(efforts, dtype=np.float64), 0.0, HIGHEST_POSITION)
    low = np.minimum(np.floor(position), HIGHEST_POSITION - 1).astype(np.int64)
    share = position - low
    low = np.broadcast_to(low, (len(curves), low.shape[-1]))
    left = np.take_along_axis(curves, low, axis=1).astype(np.float64)
    right = np.take_along_axis(curves, low + 1, axis=1).astype(np.float64)
    return np.asarray(left + share * (right - left))
