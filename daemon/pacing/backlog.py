"""Whether replaying keeps up with what is recorded, by what is seen of a column from time to time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_BOUND: Final = 900.0
_WINDOW: Final = 600.0
_LEAST: Final = 60.0
_REPEAT: Final = 3600.0


@dataclass(frozen=True)
class Lag:
    """What is left to do: searches `waiting`, the rate `per_minute`, and whether it is time to say so."""

    waiting: int
    per_minute: float
    due: bool

    def __str__(self) -> str:
        if self.per_minute <= 0:
            return f"{self.waiting:,} searches wait and none was replayed lately"
        minutes = max(round(self.waiting / self.per_minute), 1)
        length = f"{minutes} minutes" if minutes < 120 else f"{round(minutes / 60):,} hours"
        return f"{self.waiting:,} searches wait, {length} at the present rate"


class Backlog:
    """Watch how many searches of a column wait, and how fast they are replayed.

    It is behind when what waits takes over 15 minutes at the rate of the last 10, or when there was no time
    in 15 minutes at which nothing waited: the newest come first, so some are as old as that. `clock` gives
    seconds and never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._seen: deque[tuple[float, int]] = deque()
        self._idle_at = self._began
        self._said_at: float | None = None

    def saw(self, waiting: int, replayed: int) -> Lag | None:
        """Take in how many wait now and how many were replayed since the last call; None: it keeps up.

        What is returned is due at first and then once an hour.
        """
        now = self._clock()
        self._seen.append((now, replayed))
        while self._seen[0][0] < now - _WINDOW:
            self._seen.popleft()
        if waiting == 0:
            self._idle_at = now
        observed = max(min(now - self._began, _WINDOW), 1.0)
        rate = sum(count for _, count in self._seen) / observed
        late = waiting > rate * _BOUND and rate > 0 and now - self._began >= _LEAST
        if waiting == 0 or not (late or now - self._idle_at >= _BOUND):
            self._said_at = None
            return None
        due = self._said_at is None or now - self._said_at >= _REPEAT
        if due:
            self._said_at = now
        return Lag(waiting, 60 * rate, due)
