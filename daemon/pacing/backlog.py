"""Whether replaying keeps up with recording, from counts taken at intervals."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_TOLERATED_SECONDS: Final = 900.0  # age of the oldest waiting search above which a column is behind
_WINDOW_SECONDS: Final = 600.0  # over which the replay rate is averaged
_WARM_UP_SECONDS: Final = 60.0  # after the start, in which the rate is too uncertain to report
_REPEAT_SECONDS: Final = 3600.0  # between two reports of the same backlog, so that the log stays short
_HOURS_FROM_MINUTES: Final = 120  # durations from here on are given in hours


@dataclass(frozen=True)
class Lag:
    """A backlog: searches `waiting`, searches replayed `per_minute`, and whether a report is `due`."""

    waiting: int
    per_minute: float
    due: bool

    def __str__(self) -> str:
        if self.per_minute <= 0:
            return f"{self.waiting:,} searches wait and none was replayed lately"
        minutes = max(round(self.waiting / self.per_minute), 1)
        duration = f"{minutes} minutes" if minutes < _HOURS_FROM_MINUTES else f"{round(minutes / 60):,} hours"
        return f"{self.waiting:,} searches wait, {duration} at the present rate"


class Backlog:
    """Track how many searches of a column wait for replay, and how fast they are replayed.

    A column is behind when its waiting searches take over 15 minutes at the rate of the last 10, or when
    some search has waited at every moment of the last 15 minutes: the newest are replayed first, so the
    oldest one has waited that long. `clock` returns seconds and is monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started_at = clock()
        self._counts: deque[tuple[float, int]] = deque()
        self._empty_at = self._started_at
        self._reported_at: float | None = None

    def observe(self, waiting: int, replayed: int) -> Lag | None:
        """Record how many wait now and how many were replayed since the last call; None: replaying keeps up.

        The lag is due for a report at first, and then once an hour.
        """
        now = self._clock()
        self._counts.append((now, replayed))
        while self._counts[0][0] < now - _WINDOW_SECONDS:
            self._counts.popleft()
        if waiting == 0:
            self._empty_at = now
        rate = self._rate(now)
        too_slow = (
            waiting > rate * _TOLERATED_SECONDS and rate > 0 and now - self._started_at >= _WARM_UP_SECONDS
        )
        never_empty = now - self._empty_at >= _TOLERATED_SECONDS
        if waiting == 0 or not (too_slow or never_empty):
            self._reported_at = None
            return None
        due = self._reported_at is None or now - self._reported_at >= _REPEAT_SECONDS
        if due:
            self._reported_at = now
        return Lag(waiting, 60 * rate, due)

    def _rate(self, now: float) -> float:
        """Return the searches replayed per second in the window."""
        observed = max(min(now - self._started_at, _WINDOW_SECONDS), 1.0)
        return sum(count for _, count in self._counts) / observed
