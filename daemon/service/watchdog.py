"""Whether threads get on with what they do, or are stuck."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

_COMPUTING: Final = 12.0
_BUSY: Final = 0.05  # of the time: a thread that waits for the server wakes up now and then, too


@dataclass
class _Work:
    name: str
    patience: float
    moved: float | None
    busy: float
    looked: float
    cpu: float


def _cpu_seconds(thread: int) -> float:
    """Return what a thread has computed so far; 0 where the system does not tell."""
    with suppress(AttributeError, OSError):
        return time.clock_gettime(time.pthread_getcpuclockid(thread))
    return 0.0


class Watchdog:
    """Know of the work of each thread when it last moved on; `clock` gives seconds and never goes back.

    Work that says nothing for longer than its patience is stuck; while its thread computes, as `cpu_seconds`
    has it, for longer than 12 times that.
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
    def work(self, name: str, patience: float) -> Iterator[None]:
        """Watch the block, the work of this thread."""
        thread, now = threading.get_ident(), self._clock()
        with self._lock:
            self._works[thread] = _Work(name, patience, now, now, now, self._cpu_seconds(thread))
        try:
            yield
        finally:
            with self._lock:
                del self._works[thread]

    def beat(self) -> None:
        """Note that the work of this thread moved on."""
        with self._lock:
            if (work := self._works.get(threading.get_ident())) is not None:
                work.moved = self._clock()

    @contextmanager
    def rest(self) -> Iterator[None]:
        """Let this thread wait on purpose, for as long as it takes."""
        with self._lock:
            if (work := self._works.get(threading.get_ident())) is not None:
                work.moved = None
        try:
            yield
        finally:
            self.beat()

    def stuck(self) -> tuple[str, float] | None:
        """Return the name of work that is stuck and for how many seconds; None if there is none."""
        with self._lock:
            now = self._clock()
            for thread, work in self._works.items():
                cpu = self._cpu_seconds(thread)
                if cpu - work.cpu > _BUSY * (now - work.looked):
                    work.busy = now
                work.cpu, work.looked = cpu, now
                if work.moved is None:
                    continue
                computes = now - max(work.busy, work.moved) <= work.patience
                if now - work.moved > work.patience * (_COMPUTING if computes else 1.0):
                    return work.name, now - work.moved
        return None
