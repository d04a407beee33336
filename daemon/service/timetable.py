"""When jobs run: APScheduler, with late jobs run late, and all begun anew when the clock is set."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler

from vectuned.config.settings import Settings

from .jobs import Job

log = logging.getLogger(__name__)

FIRST_RUN: Final = 30.0
_JUMP_SECONDS: Final = 2.0


class Timetable:
    """Have `run` called with each job at its times, one job of a line at a time."""

    def __init__(self, jobs: Iterable[Job], run: Callable[[Job], None], settings: Settings) -> None:
        self._jobs = tuple(jobs)
        self._run = run
        # A late job runs late, never not at all; jobs that pile up run once.
        self._scheduler = BackgroundScheduler(
            executors={queue: ThreadPoolExecutor(1) for queue in {job.queue for job in self._jobs}},
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )
        self._ahead = time.time() - time.monotonic()
        self.plan(settings)

    def start(self) -> None:
        """Begin."""
        self._scheduler.start()

    def shutdown(self) -> None:
        """Call for no more, and wait until what runs has ended."""
        if self._scheduler.running:
            self._scheduler.shutdown()

    def plan(self, settings: Settings) -> None:
        """Add the jobs that the settings want, remove the others, and change what runs at other times."""
        for job in self._jobs:
            planned, seconds = self._scheduler.get_job(job.name), job.every(settings)
            if seconds is None:
                if planned is not None:
                    planned.remove()
            elif planned is None:
                # Soon at first: a daemon that is often started anew has to get to all of them.
                self._scheduler.add_job(
                    self._run,
                    "interval",
                    (job,),
                    id=job.name,
                    seconds=seconds,
                    executor=job.queue,
                    next_run_time=_in(min(seconds, FIRST_RUN)),
                )
            elif planned.trigger.interval.total_seconds() != seconds:
                planned.reschedule("interval", seconds=seconds)

    def watch_clock(self) -> None:
        """Begin all schedules anew when the clock is set: the scheduler goes by it."""
        now = time.time() - time.monotonic()
        if abs(now - self._ahead) > _JUMP_SECONDS:
            log.info("the clock jumped by %.0f s", now - self._ahead, extra={"action": "clock"})
            for job in self._scheduler.get_jobs():
                job.reschedule("interval", seconds=job.trigger.interval.total_seconds())
        self._ahead = now

    def run_in(self, job: Job, seconds: float) -> None:
        """Have a job run once more after some seconds, if it is still planned."""
        with suppress(JobLookupError):
            self._scheduler.modify_job(job.name, next_run_time=_in(seconds))

    def seconds_until(self, job: Job) -> float | None:
        """Return the seconds until a job runs next; None if it is not planned."""
        planned = self._scheduler.get_job(job.name)
        at = planned.next_run_time if planned is not None else None
        return None if at is None else max(at.timestamp() - time.time(), 0.0)


def _in(seconds: float) -> datetime:
    return datetime.now().astimezone() + timedelta(seconds=seconds)
