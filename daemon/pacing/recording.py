"""How many searches are worth recording: about twice as many as can be replayed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

_WINDOW_SECONDS: Final = 60.0  # of counting before the share is changed: shorter counts are mostly noise
_TOLERATED_SECONDS: Final = 60.0  # of replaying that may wait; more means that replaying does not keep up
_SURPLUS: Final = 2.0  # searches recorded for each that can be replayed, so that the newest can be chosen
_LEAST_CHANGE: Final = 1.5  # factor; each change replaces the search functions, whose plans are lost
_LEAST_SHARE: Final = 0.01  # of the share before: after an hour without replays recording must still recover


class RecordingLimit:
    """Choose the largest share of a column's searches to record. `clock` returns seconds and is monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began_at: float | None = None
        self._share = 0.0
        self._first = self._replayed = 0

    def observe(
        self, recorded: int, replayed: int, waiting: int, share: float, limit: float | None
    ) -> float | None:
        """Return the limit from now on, None for none.

        `recorded`, the searches recorded so far; `replayed`, those replayed since the last call; `waiting`,
        those that wait; `share` and `limit`, those in force.
        """
        now = self._clock()
        if self._began_at is None or share != self._share or recorded < self._first:
            self._began_at, self._share, self._first, self._replayed = now, share, recorded, 0
            return limit
        self._replayed += replayed
        seconds = now - self._began_at
        if seconds < _WINDOW_SECONDS:
            return limit
        arrived, capacity = recorded - self._first, self._replayed
        self._began_at, self._first, self._replayed = now, recorded, 0
        if waiting > capacity * _TOLERATED_SECONDS / seconds:
            wanted = share * max(_SURPLUS * capacity / max(arrived, 1), _LEAST_SHARE)
            return wanted if wanted * _LEAST_CHANGE < share else limit
        if limit is None or limit > share:
            return None  # the limit does not matter any more
        doubled = 2.0 * limit
        return doubled if doubled < 1.0 else None
