"""What a replay took: the time of its parts, and the daemon's own computing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter, process_time


@dataclass
class WorkTimer:
    """Hold what work took, in seconds: of wall time and of this process's processors.

    While the table is read, server and daemon work at the same time (`reading`, `reading_cpu`); else they
    take turns. `scanning` is the part of the rest that was for searches, of which there were `searches`.
    """

    wall: float = 0.0
    cpu: float = 0.0
    reading: float = 0.0
    reading_cpu: float = 0.0
    scanning: float = 0.0
    searches: int = 0

    @property
    def core_seconds(self) -> float:
        """Return how long one core would have been busy with it, on the server and here."""
        return self.reading + self.reading_cpu + max(self.wall - self.reading, self.cpu - self.reading_cpu)

    @contextmanager
    def work(self) -> Iterator[None]:
        """Measure all of the work."""
        wall, cpu = perf_counter(), process_time()
        try:
            yield
        finally:
            self.wall += perf_counter() - wall
            self.cpu += process_time() - cpu

    @contextmanager
    def read(self) -> Iterator[None]:
        """Measure the reading of the table."""
        wall, cpu = perf_counter(), process_time()
        try:
            yield
        finally:
            self.reading += perf_counter() - wall
            self.reading_cpu += process_time() - cpu

    @contextmanager
    def scan(self, searches: int) -> Iterator[None]:
        """Measure the replay of searches."""
        wall = perf_counter()
        try:
            yield
        finally:
            self.scanning += perf_counter() - wall
            self.searches += searches
