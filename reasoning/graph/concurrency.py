"""The load of this process: how many runs are in progress."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Load:
    """Counts the runs in progress. `level` is 0 for up to one run and 1 for `capacity` runs and more."""

    def __init__(self, capacity: int = 8) -> None:
        self._capacity = max(capacity, 2)
        self._lock = threading.Lock()
        self._running = 0

    @property
    def level(self) -> float:
        """The load, 0 to 1."""
        return min(max(self._running - 1, 0) / (self._capacity - 1), 1.0)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count a run for the duration of the block."""
        with self._lock:
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
