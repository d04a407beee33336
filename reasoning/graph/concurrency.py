"""How busy this process is with runs: what thresholds follow."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Load:
    """Counts the runs under way; `level` is 0 with one or none and 1 from `capacity` on."""

    def __init__(self, capacity: int = 8) -> None:
        self._capacity = max(capacity, 2)
        self._lock = threading.Lock()
        self._running = 0

    @property
    def level(self) -> float:
        """Return how busy it is, 0 to 1."""
        return min(max(self._running - 1, 0) / (self._capacity - 1), 1.0)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count a run for as long as the block lasts."""
        with self._lock:
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
