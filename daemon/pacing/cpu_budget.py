"""The CPU budget of replaying and learning: a share of one core."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

_BURST_SECONDS: Final = 10.0  # wall time whose share may be saved up, so that idle hours allow no long burst


class CpuBudget:
    """Keep the work at or below a share of the elapsed time: a token bucket of core seconds.

    The bucket fills by `share` core seconds a second, up to 10 seconds' worth. Work may start while the
    bucket is not empty and may take more than it holds; the next work then waits until the debt is paid.
    `clock` returns seconds and is monotonic.
    """

    def __init__(self, share: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.share = share
        self._clock = clock
        self._capacity = share * _BURST_SECONDS
        self._level = self._capacity
        self._filled_at = clock()

    def adapt(self, share: float) -> None:
        """Use another share from now on."""
        self._fill()
        self.share, self._capacity = share, share * _BURST_SECONDS
        self._level = min(self._level, self._capacity)

    def spend(self, seconds: float) -> None:
        """Take core seconds out of the bucket."""
        self._fill()
        self._level -= max(seconds, 0.0)

    def wait_seconds(self) -> float:
        """Return the seconds until work may start, 0 if it may start now."""
        self._fill()
        return max(-self._level, 0.0) / self.share

    def _fill(self) -> None:
        now = self._clock()
        self._level = min(self._level + max(now - self._filled_at, 0.0) * self.share, self._capacity)
        self._filled_at = now
