"""The daemon's jobs: what is done how often, in which line, and how their runs are noted down."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from vectuned.config.settings import Settings
from vectuned.sql.files import queries

from .leader import Leader
from .requests import serve_request
from .worker import Worker, sentence

_FIRST_RETRY: Final = 5.0
_LONGEST_RETRY: Final = 300.0
_QUIET_SECONDS: Final = 60.0


class JobContext(Protocol):
    """Where a job runs: on one database, by its leader."""

    @property
    def conninfo(self) -> str: ...

    @property
    def settings(self) -> Settings: ...

    @property
    def worker(self) -> Worker:
        """The worker, on a connection that is open. Only for jobs that take turns."""

    @property
    def leader(self) -> Leader: ...

    @property
    def halted(self) -> threading.Event:
        """Set when the job is to end."""

    def progress(self, done: int) -> None:
        """Note that work goes on; raises Stopped when it is to end."""


@dataclass(frozen=True)
class Job:
    """Something to be done every so many seconds; `every` returns None where the settings switch it off.

    Jobs of one `queue` wait for each other. Those that `take turns` share the worker, one at a time; while
    one of them waits for its budget the others run. `work` returns something true if there was anything
    to do.
    It is stuck when nothing is heard of it for `patience` seconds.
    """

    name: str
    every: Callable[[Settings], float | None]
    work: Callable[[JobContext], object]
    queue: str = "upkeep"
    takes_turns: bool = True
    patience: float = 600.0


def _replay(place: JobContext) -> int:
    """Replay as much as the budget allows until it is time to look at other things."""
    total, until = 0, time.monotonic() + place.settings.schedule.replay_seconds
    while done := place.worker.replay_all(place.progress):
        total += done
        if time.monotonic() >= until:
            break
    place.worker.watch_backlog()
    return total


def _request(place: JobContext) -> bool:
    """Do a request, on connections of its own; that one waits is seen through the leader's."""
    row = place.leader.lock_session.execute(queries()["requests_waiting"]).fetchone()
    if row is None or not row[0]:
        return False
    return serve_request(place.conninfo, place.settings, place.halted, lambda: place.progress(0))


JOBS: Final = (
    Job("drain", lambda s: s.schedule.drain_seconds, lambda p: p.worker.drain()),
    Job("refresh", lambda s: s.schedule.refresh_seconds, lambda p: p.worker.refresh_all()),
    Job("maintain", lambda s: s.schedule.maintain_seconds, lambda p: p.worker.maintain(), patience=1800),
    Job("replay", lambda s: s.schedule.replay_seconds, _replay, queue="paced"),
    Job("judge", lambda s: s.schedule.replay_seconds, lambda p: p.worker.judge(), queue="paced"),
    Job(
        "learn",
        lambda s: s.schedule.learn_seconds,
        lambda p: p.worker.learn_all(),
        queue="paced",
        patience=1800,
    ),
    Job("exchange", lambda s: s.export.seconds if s.export.in_use else None, lambda p: p.worker.exchange()),
    Job(
        "request",
        lambda s: s.schedule.request_seconds,
        _request,
        queue="request",
        takes_turns=False,
        patience=3600,
    ),
)
"""All jobs. One more is one more line."""


def backoff(failures: int, every: float, rng: random.Random) -> float:
    """Return the seconds to wait after so many failures in a row of a job that runs `every` so many.

    5 s or its interval if that is less, doubled with each failure up to 5 minutes, give or take a fifth.
    """
    first = min(every, _FIRST_RETRY)
    return min(first * 2.0 ** min(failures - 1, 30), _LONGEST_RETRY) * rng.uniform(0.8, 1.2)


@dataclass
class JobRecord:
    """How a job goes: what `vectuned.job` is told of it. `clock` gives seconds and never goes back."""

    name: str
    clock: Callable[[], float] = time.monotonic
    failures: int = 0
    error: str | None = None
    runs: int = field(default=0, init=False)
    _ran: float = field(default=0.0, init=False)
    _succeeded: float | None = field(default=None, init=False)
    _seconds: float = field(default=0.0, init=False)
    _written: float | None = field(default=None, init=False)
    _news: bool = field(default=False, init=False)

    def succeeded(self, began: float, found: object) -> None:
        """Take in a run that began then, and whether it found anything to do."""
        self._ended(began)
        self._news = self._news or bool(found) or self.failures > 0
        self._succeeded, self.failures, self.error = began, 0, None

    def failed(self, began: float, error: Exception) -> None:
        """Take in a run that began then and failed."""
        self._ended(began)
        self._news = True
        self.failures += 1
        self.error = sentence(error).strip() or type(error).__name__

    def due(self) -> bool:
        """Say whether it is to be written down: at once if there is news, else once a minute."""
        overdue = self._written is None or self.clock() - self._written >= _QUIET_SECONDS
        return self.runs > 0 and (self._news or overdue)

    def values(self, next_seconds: float | None) -> dict[str, Any]:
        """Return what is written down; runs are those since that was done last."""
        now = self.clock()
        return {
            "name": self.name,
            "ran": now - self._ran,
            "succeeded": None if self._succeeded is None else now - self._succeeded,
            "duration_ms": 1000 * self._seconds,
            "runs": self.runs,
            "failures": self.failures,
            "error": self.error,
            "next": next_seconds,
        }

    def written(self) -> None:
        """Note that it was written down."""
        self.runs, self._news, self._written = 0, False, self.clock()

    def _ended(self, began: float) -> None:
        self.runs += 1
        self._ran, self._seconds = began, self.clock() - began
