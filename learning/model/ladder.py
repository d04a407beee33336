"""The ladder of efforts at which searches are replayed, and the classes of k.

sql/tuner/functions/search/ladder.sql holds the same numbers for searches inside the database; a test compares
the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from vectuned.config.errors import UsageError

from .arrays import Floats, Ints, Singles

# ef_search from 10, the usual k, to pgvector's maximum. Two rungs double the effort, which is fine enough to
# interpolate between them.
RUNGS: Final[tuple[int, ...]] = (10, 14, 20, 28, 40, 56, 80, 112, 160, 224, 320, 448, 640, 1000)
# Upper bounds of the classes of k, half a decade apart; 1000 is the largest ef_search and so the largest k.
K_CLASSES: Final[tuple[int, ...]] = (1, 3, 10, 30, 100, 300, 1000)
# ef_search of the probes that a signature may be computed from: short enough to cost little of a search.
PROBES: Final[tuple[int, ...]] = (28, 56, 112)
PROBE_WIDTH: Final = sum(PROBES)  # distances that all probes of a search return together
HIGHEST_POSITION: Final[float] = float(len(RUNGS) - 1)  # of the last rung on the ladder; the first is at 0


def k_class(k: int) -> int:
    """Return the class of `k`: the smallest of K_CLASSES not below it; UsageError outside 1 to 1000."""
    if not 1 <= k <= K_CLASSES[-1]:
        raise UsageError(f"k must be between 1 and {K_CLASSES[-1]}, got {k}.")
    return next(bound for bound in K_CLASSES if k <= bound)


def setting_at(positions: npt.ArrayLike, k: int, rungs: Sequence[int] = RUNGS) -> Ints:
    """Turn positions on a ladder into ef_search or probes, linear between rungs and at least k; int64."""
    values = np.asarray(rungs, dtype=np.float64)
    position = np.clip(np.asarray(positions, dtype=np.float64), 0.0, HIGHEST_POSITION)
    low = np.minimum(np.floor(position), HIGHEST_POSITION - 1).astype(np.int64)
    exact = values[low] + (position - low) * (values[low + 1] - values[low])
    return np.clip(np.rint(exact).astype(np.int64), k, rungs[-1])


def position_of(settings: npt.ArrayLike, rungs: Sequence[int] = RUNGS) -> Floats:
    """Turn ef_search, or probes with the rungs of their index, into positions on the ladder."""
    positions = np.arange(len(rungs), dtype=np.float64)
    return np.interp(np.asarray(settings, dtype=np.float64), rungs, positions)


def probe_rungs(lists: int) -> tuple[int, ...]:
    """Return the numbers of probes at which an IVFFlat index with so many lists is measured, from 1 on.

    The highest is eight times the square root of the lists and at least 128, but no more than there are
    lists. There are as many rungs as of ef_search; some repeat where there are few lists.
    """
    highest = min(lists, max(128, round(8 * lists**0.5)))
    return tuple(int(n) for n in np.rint(np.geomspace(1, highest, len(RUNGS))))


def interpolate(curves: Floats | Singles, positions: npt.ArrayLike) -> Floats:
    """Interpolate curves between their rungs.

    `curves` (n, rungs); `positions` on the ladder, (m,) for all curves or (n, m). Returns (n, m).
    """
    position = np.clip(np.asarray(positions, dtype=np.float64), 0.0, HIGHEST_POSITION)
    low = np.minimum(np.floor(position), HIGHEST_POSITION - 1).astype(np.int64)
    share = position - low
    low = np.broadcast_to(low, (len(curves), low.shape[-1]))
    left = np.take_along_axis(curves, low, axis=1).astype(np.float64)
    right = np.take_along_axis(curves, low + 1, axis=1).astype(np.float64)
    return np.asarray(left + share * (right - left))
