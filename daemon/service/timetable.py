"""The schedule of the jobs, by APScheduler; it restarts when the system clock is set."""

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

FIRST_RUN: Final = (
    30.0  # seconds, at most, until a job runs first: also a daemon often restarted runs all jobs
)
_JUMP_SECONDS: Final = 2.0  # between wall and monotonic clock; a larger change means that the clock was set


class Timetable:
    """Call `run` with each job at its times, one job of a queue at a time.

    `wall_clock` returns seconds since the epoch.
    """

    def __init__(
        self,
        jobs: Iterable[Job],
        run: Callable[[Job], None],
        settings: Settings,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._jobs = tuple(jobs)
        self._run = run
        # A late run is not skipped (misfire_grace_time); runs that pile up are merged (coalesce).
        self._scheduler = BackgroundScheduler(
            executors={queue: ThreadPoolExecutor(1) for queue in {job.queue for job in self._jobs}},
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )
        self._wall_clock = wall_clock
        self._offset = self._clock_offset()
        self.plan(settings)

    def start(self) -> None:
        """Start the schedule."""
        self._scheduler.start()

    def shutdown(self) -> None:
        """End the schedule, and wait until running jobs have ended."""
        if self._scheduler.running:
            self._scheduler.shutdown()

    def pause(self) -> None:
        """Start no job any more; those that run go on."""
        self._scheduler.pause()

    def resume(self) -> None:
        """Start jobs again, those that are due at once."""
        self._scheduler.resume()

    def plan(self, settings: Settings) -> None:
        """Add the jobs that the settings turn on, remove the others, and change intervals."""
        for job in self._jobs:
            planned, seconds = self._scheduler.get_job(job.name), job.every(settings)
            if seconds is None:
                if planned is not None:
                    planned.remove()
            elif planned is None:
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
        """Restart all intervals if the system clock was set, since the scheduler uses it."""
        offset = self._clock_offset()
        if abs(offset - self._offset) > _JUMP_SECONDS:
            log.info("the clock jumped by %.0f s", offset - self._offset, extra={"action": "clock"})
            for job in self._scheduler.get_jobs():
                job.reschedule("interval", seconds=job.trigger.interval.total_seconds())
        self._offset = offset

    def run_in(self, job: Job, seconds: float) -> None:
        """Run a job after some seconds, if it is still planned."""
        with suppress(JobLookupError):
            self._scheduler.modify_job(job.name, next_run_time=_in(seconds))

    def seconds_until(self, job: Job) -> float | None:
        """Return the seconds until the next run of a job; None if it is not planned."""
        planned = self._scheduler.get_job(job.name)
        at = planned.next_run_time if planned is not None else None
        return None if at is None else max(at.timestamp() - time.time(), 0.0)

    def _clock_offset(self) -> float:
        return self._wall_clock() - time.monotonic()


def _in(seconds: float) -> datetime:
    return datetime.now().astimezone() + timedelta(seconds=seconds)
