"""The time that replays take: wall time of the parts, and processor time of this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter, process_time


@dataclass
class WorkTimer:
    """Add up the time of work, in seconds: wall time, and processor time of this process.

    While the table is read, server and daemon work at the same time (`reading`, `reading_cpu`); otherwise
    they take turns. `scanning` is the part of the rest that was spent on searches, `searches` their number.
    `bytes_read` is what the server read of tables for exact answers.
    """

    wall: float = 0.0
    cpu: float = 0.0
    reading: float = 0.0
    reading_cpu: float = 0.0
    scanning: float = 0.0
    searches: int = 0
    bytes_read: int = 0

    @property
    def core_seconds(self) -> float:
        """Return how long one core would have been busy with all of the work, on the server and here."""
        return self.reading + self.reading_cpu + max(self.wall - self.reading, self.cpu - self.reading_cpu)

    @contextmanager
    def work(self) -> Iterator[None]:
        """Time all of the work."""
        wall, cpu = perf_counter(), process_time()
        try:
            yield
        finally:
            self.wall += perf_counter() - wall
            self.cpu += process_time() - cpu

    @contextmanager
    def read(self) -> Iterator[None]:
        """Time the reading of the table."""
        wall, cpu = perf_counter(), process_time()
        try:
            yield
        finally:
            self.reading += perf_counter() - wall
            self.reading_cpu += process_time() - cpu

    def count_read(self, count: int) -> None:
        """Add bytes that the server read of a table for exact answers."""
        self.bytes_read += count

    def count_scans(self, seconds: float, searches: int) -> None:
        """Add the time that the replay of some searches took."""
        self.scanning += seconds
        self.searches += searches
