"""How much replaying and learning may take: a share of one core, spent in pieces of some seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_CREDIT_SECONDS: Final = 10.0  # of wall time whose share may be saved up and spent at once
_PASS_SECONDS: Final = 4.0  # that reading the table once and replaying searches after it should take
_FIRST: Final = 20  # searches of a pass that nothing is known about
_LEAST: Final = 5
_NEWEST: Final = 0.5  # weight of the latest pass among all


class Budget:
    """Keep what is spent at or below a share of the time that passes, whatever the wall clock says.

    A bucket of core seconds that fills at `share` a second up to 10 seconds' worth. Work may begin while
    there is anything in it and may take more than that, which has to be waited for before the next. `clock`
    gives seconds and never goes back.
    """

    def __init__(self, share: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.share = share
        self._clock = clock
        self._most = share * _CREDIT_SECONDS
        self._left = self._most
        self._at = clock()

    def adapt(self, share: float) -> None:
        """Take another share from now on."""
        self._fill()
        self.share, self._most = share, share * _CREDIT_SECONDS
        self._left = min(self._left, self._most)

    def spend(self, seconds: float) -> None:
        """Note that so many core seconds were taken."""
        self._fill()
        self._left -= max(seconds, 0.0)

    def wait_seconds(self) -> float:
        """Return how long to wait until work may begin; 0 if it may."""
        self._fill()
        return max(-self._left, 0.0) / self.share

    def _fill(self) -> None:
        now = self._clock()
        self._left = min(self._left + max(now - self._at, 0.0) * self.share, self._most)
        self._at = now


@dataclass
class PassSize:
    """Learn how many searches to replay in one pass over the table, from what passes cost.

    A pass holds a snapshot, so it is to be over in some seconds; but reading the table costs the same for few
    searches as for many, so at least as long is spent on the searches as on reading. `fixed` and `each` are
    seconds: of a pass without any searches, and of a search.
    """

    fixed: float = 0.0
    each: float | None = None

    def size(self, most: int) -> int:
        """Return the number of searches, `most` at most."""
        if self.each is None:
            return min(_FIRST, most)
        seconds = max(_PASS_SECONDS - self.fixed, self.fixed)
        return max(min(int(seconds / max(self.each, 1e-6)), most), min(_LEAST, most))

    def learn(self, fixed: float, searching: float, searches: int) -> None:
        """Take in a pass: seconds without the searches, seconds for the searches, and how many there were."""
        if searches <= 0:
            return
        each = searching / searches
        if self.each is None:
            self.fixed, self.each = fixed, each
            return
        self.fixed += _NEWEST * (fixed - self.fixed)
        self.each += _NEWEST * (each - self.each)

    def failed(self) -> None:
        """Take in a pass that the server ended: the next is half as long."""
        self.each = 2 * (self.each if self.each is not None else _PASS_SECONDS / _FIRST)
