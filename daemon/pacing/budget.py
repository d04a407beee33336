"""A budget of replaying and learning: so much of something, processor time or bytes, in a second."""

from __future__ import annotations

import time
from collections.abc import Callable


class Budget:
    """Keep what work takes at or below a rate: a token bucket.

    The bucket fills by `rate` a second, up to `burst` seconds' worth, so that idle hours allow no long burst.
    Work may start while the bucket is not empty and may take more than it holds; the next work then waits
    until the debt is paid. `clock` returns seconds and is monotonic.
    """

    def __init__(self, rate: float, burst: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._level = rate * burst
        self._filled_at = clock()

    def adapt(self, rate: float) -> None:
        """Use another rate from now on."""
        self._fill()
        self._rate = rate
        self._level = min(self._level, rate * self._burst)

    def spend(self, amount: float) -> None:
        """Take an amount out of the bucket."""
        self._fill()
        self._level -= max(amount, 0.0)

    def wait_seconds(self) -> float:
        """Return the seconds until work may start, 0 if it may start now."""
        self._fill()
        return max(-self._level, 0.0) / self._rate

    def _fill(self) -> None:
        now = self._clock()
        filled = self._level + max(now - self._filled_at, 0.0) * self._rate
        self._level = min(filled, self._rate * self._burst)
        self._filled_at = now
