"""The daemon's jobs: what runs, how often, and in which queue."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from vectuned.config.settings import Settings
from vectuned.daemon.database.session import open_session
from vectuned.daemon.observe.job import ObserveJob
from vectuned.daemon.work.answers import learn_from_answers
from vectuned.daemon.work.worker import Worker

from . import storage
from .leader import Leader
from .requests import run_next_request

_LONG_PATIENCE: Final = 1800.0  # seconds; a model or a partition of a large table may take many minutes
_REQUEST_PATIENCE: Final = 3600.0  # seconds; a benchmark may run thousands of exact searches


class JobContext(Protocol):
    """What a job works with: one database, on which this daemon leads."""

    @property
    def conninfo(self) -> str: ...

    @property
    def settings(self) -> Settings: ...

    @property
    def worker(self) -> Worker:
        """The worker, on an open connection. Only for jobs that take turns."""

    @property
    def drainer(self) -> Worker:
        """A worker on a connection of its own, for the job that drains the inbox."""

    @property
    def observing(self) -> ObserveJob:
        """What observes applications, on a connection of its own."""

    @property
    def leader(self) -> Leader: ...

    @property
    def halted(self) -> threading.Event:
        """Set when jobs have to end."""

    def progress(self, done: int) -> None:
        """Report progress of the job; raises Halt when the job has to end."""


@dataclass(frozen=True)
class Job:
    """Something to do every `every(settings)` seconds; None where the settings turn it off.

    Jobs of one `queue` run one after the other. Jobs with `takes_turns` share the worker, one at a time;
    while one of them waits for its budget, the others run. `work` returns a true value if there was something
    to do. A job is stuck if it reports no progress for `patience` seconds.
    """

    name: str
    every: Callable[[Settings], float | None]
    work: Callable[[JobContext], object]
    queue: str = "upkeep"
    takes_turns: bool = True
    patience: float = 600.0


def _replay(context: JobContext) -> int:
    """Replay as much as the budget allows, until it is time for other jobs."""
    total, end = 0, time.monotonic() + context.settings.schedule.replay_seconds
    while done := context.worker.replay_all(context.progress):
        total += done
        if time.monotonic() >= end:
            break
    context.worker.report_backlog()
    return total


def _learn_answers(context: JobContext) -> bool:
    """Learn the ranking of answers, on a connection of its own that is set up for the reads of the graph."""
    with open_session(context.conninfo, context.settings.database) as conn:
        pace = context.worker.pace
        return learn_from_answers(conn, context.settings, pace, context.progress) is not None


def _run_request(context: JobContext) -> bool:
    """Run a request on connections of its own; the lock session only looks whether there is one."""
    if not storage.has_open_requests(context.leader.lock_session):
        return False
    return run_next_request(context.conninfo, context.settings, context.halted, lambda: context.progress(0))


JOBS: Final = (
    # On a connection of its own, so that recording does not stop during a long pass.
    Job(
        "drain",
        lambda s: s.schedule.drain_seconds,
        lambda c: c.drainer.drain(),
        queue="drain",
        takes_turns=False,
    ),
    Job(
        "observe",
        lambda s: s.observe.seconds,
        lambda c: c.observing.run(),
        queue="observe",
        takes_turns=False,
    ),
    Job("refresh", lambda s: s.schedule.refresh_seconds, lambda c: c.worker.refresh_all()),
    Job(
        "maintain",
        lambda s: s.schedule.maintain_seconds,
        lambda c: c.worker.maintain(),
        patience=_LONG_PATIENCE,
    ),
    Job("replay", lambda s: s.schedule.replay_seconds, _replay, queue="paced"),
    Job("judge", lambda s: s.schedule.replay_seconds, lambda c: c.worker.judge(), queue="paced"),
    Job(
        "learn",
        lambda s: s.schedule.learn_seconds,
        lambda c: c.worker.learn_all(),
        queue="paced",
        patience=_LONG_PATIENCE,
    ),
    Job(
        "answers",
        lambda s: s.schedule.learn_seconds,
        _learn_answers,
        queue="answers",
        patience=_LONG_PATIENCE,
    ),
    Job("export", lambda s: s.export.seconds if s.export.folder else None, lambda c: c.worker.export()),
    Job(
        "import",
        lambda s: s.export.seconds if s.export.import_folder else None,
        lambda c: c.worker.import_new(),
    ),
    Job(
        "request",
        lambda s: s.schedule.request_seconds,
        _run_request,
        queue="request",
        takes_turns=False,
        patience=_REQUEST_PATIENCE,
    ),
)
"""All jobs. To add one, add it here."""
