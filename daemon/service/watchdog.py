"""Detect threads that are stuck: neither reporting progress nor computing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

_COMPUTING_FACTOR: Final = 12.0  # times the patience, granted to a thread that computes without reporting
_BUSY_SHARE: Final = (
    0.05  # CPU share that counts as computing; a thread waiting for the server wakes up at times
)


@dataclass
class _Work:
    """The work of one thread; times in seconds, `progress_at` is None while the thread waits on purpose."""

    name: str
    patience: float
    progress_at: float | None
    computing_at: float
    sampled_at: float
    cpu_seconds: float

    def sample(self, now: float, cpu_seconds: float) -> None:
        """Note whether the thread has computed since the last sample."""
        if cpu_seconds - self.cpu_seconds > _BUSY_SHARE * (now - self.sampled_at):
            self.computing_at = now
        self.cpu_seconds, self.sampled_at = cpu_seconds, now

    def silent_seconds(self, now: float) -> float:
        """Return the seconds since the last progress, 0 while the thread waits on purpose."""
        return 0.0 if self.progress_at is None else now - self.progress_at

    def is_computing(self, now: float) -> bool:
        """Return whether the thread has computed, or reported progress, within its patience."""
        return now - max(self.computing_at, self.progress_at or 0.0) <= self.patience

    def allowed_silence(self, now: float) -> float:
        """Return the seconds that the thread may go without progress."""
        return self.patience * (_COMPUTING_FACTOR if self.is_computing(now) else 1.0)

    def is_stuck(self, now: float) -> bool:
        """Return whether the thread has been silent for too long."""
        return self.progress_at is not None and self.silent_seconds(now) > self.allowed_silence(now)


def _cpu_seconds(thread: int) -> float:
    """Return the CPU time that a thread has used; 0 where the system cannot tell."""
    with suppress(AttributeError, OSError):
        return time.clock_gettime(time.pthread_getcpuclockid(thread))
    return 0.0


class Watchdog:
    """Track when the work of each thread last made progress.

    Work is stuck if it reports no progress for longer than its patience, or for 12 times as long while its
    thread uses the CPU, as `cpu_seconds` measures it. `clock` returns seconds and is monotonic.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        cpu_seconds: Callable[[int], float] = _cpu_seconds,
    ) -> None:
        self._clock = clock
        self._cpu_seconds = cpu_seconds
        self._works: dict[int, _Work] = {}
        self._lock = threading.Lock()

    @contextmanager
    def watch(self, name: str, patience: float) -> Iterator[None]:
        """Watch the block as the work of this thread, with a patience in seconds."""
        thread, now = threading.get_ident(), self._clock()
        with self._lock:
            self._works[thread] = _Work(name, patience, now, now, now, self._cpu_seconds(thread))
        try:
            yield
        finally:
            with self._lock:
                del self._works[thread]

    def beat(self) -> None:
        """Report progress of this thread's work."""
        with self._lock:
            if (work := self._works.get(threading.get_ident())) is not None:
                work.progress_at = self._clock()

    @contextmanager
    def suspend(self) -> Iterator[None]:
        """Stop watching this thread within the block, where it waits on purpose."""
        with self._lock:
            if (work := self._works.get(threading.get_ident())) is not None:
                work.progress_at = None
        try:
            yield
        finally:
            self.beat()

    def find_stuck(self) -> tuple[str, float] | None:
        """Return the name of work that is stuck and its seconds without progress; None if there is none."""
        with self._lock:
            now = self._clock()
            for thread, work in self._works.items():
                work.sample(now, self._cpu_seconds(thread))
                if work.is_stuck(now):
                    return work.name, work.silent_seconds(now)
        return None
