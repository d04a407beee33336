"""Run jobs on their schedules: one at a time where they take turns, again after failures, and on record."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg

from vectuned.config.errors import VectunedError
from vectuned.config.settings import Settings
from vectuned.daemon.database.isolation import describe_error
from vectuned.daemon.logs import log_context
from vectuned.daemon.pacing.pace import Halt
from vectuned.daemon.pacing.retry_delay import retry_delay

from . import storage
from .jobs import Job, JobContext
from .timetable import FIRST_RUN, Timetable
from .watchdog import Watchdog

log = logging.getLogger(__name__)

_FIRST_RETRY: Final = 5.0  # seconds after the first failure, or the job's interval if that is shorter
_LONGEST_RETRY: Final = 300.0  # seconds; also the longest until a repaired fault is noticed
_QUIET_SECONDS: Final = 60.0  # between two records of a job that finds nothing to do
_STATEMENTS_PATIENCE: Final = 10  # times the statement timeout, added to a job's patience


@dataclass
class JobRecord:
    """How a job runs, as vectuned.job records it. `clock` returns seconds and is monotonic."""

    name: str
    clock: Callable[[], float] = time.monotonic
    failures: int = 0
    error: str | None = None
    runs: int = field(default=0, init=False)
    _started_at: float = field(default=0.0, init=False)
    _success_at: float | None = field(default=None, init=False)
    _duration: float = field(default=0.0, init=False)
    _written_at: float | None = field(default=None, init=False)
    _has_news: bool = field(default=False, init=False)

    def succeed(self, started: float, found_work: object) -> None:
        """Take in a successful run: when it started, and whether it found anything to do."""
        self._end_run(started)
        self._has_news = self._has_news or bool(found_work) or self.failures > 0
        self._success_at, self.failures, self.error = started, 0, None

    def fail(self, started: float, error: Exception) -> None:
        """Take in a failed run."""
        self._end_run(started)
        self._has_news = True
        self.failures += 1
        self.error = describe_error(error).strip() or type(error).__name__

    def is_due(self) -> bool:
        """Return whether to write the record: at once if there is news, else once a minute."""
        overdue = self._written_at is None or self.clock() - self._written_at >= _QUIET_SECONDS
        return self.runs > 0 and (self._has_news or overdue)

    def values(self, next_seconds: float | None) -> dict[str, Any]:
        """Return the values to write; `runs` counts those since the last write."""
        now = self.clock()
        return {
            "name": self.name,
            "ran": now - self._started_at,
            "succeeded": None if self._success_at is None else now - self._success_at,
            "duration_ms": 1000 * self._duration,
            "runs": self.runs,
            "failures": self.failures,
            "error": self.error,
            "next": next_seconds,
        }

    def mark_written(self) -> None:
        """Note that the record was written."""
        self.runs, self._has_news, self._written_at = 0, False, self.clock()

    def _end_run(self, started: float) -> None:
        self.runs += 1
        self._started_at, self._duration = started, self.clock() - started


class JobRunner:
    """Run jobs in the context of one database, while this daemon leads there.

    A job that fails is retried with growing delays and does not stop the others. `prefix` starts each log
    line. Jobs that take turns hold `turn` while they work.
    """

    def __init__(self, context: JobContext, jobs: Sequence[Job], watchdog: Watchdog, prefix: str) -> None:
        self.turn = threading.Lock()
        self._context = context
        self._jobs = tuple(jobs)
        self._watchdog = watchdog
        self._prefix = prefix
        self._records = {job.name: JobRecord(job.name) for job in jobs}
        self._rng = random.Random()
        self._timetable: Timetable | None = None
        self._worked_at = time.monotonic()
        self._running = 0
        self._running_lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """The names of all jobs."""
        return [job.name for job in self._jobs]

    def start(self, settings: Settings) -> None:
        """Start the schedules."""
        self.note_work()
        self._timetable = Timetable(self._jobs, self._run, settings)
        self._timetable.start()

    def plan(self, settings: Settings) -> None:
        """Adapt running schedules to other settings."""
        if self._timetable is not None:
            self._timetable.plan(settings)

    def quiet_seconds(self) -> float:
        """Return the seconds since a job last found work or failed; 0 while one is running."""
        with self._running_lock:
            return 0.0 if self._running else max(time.monotonic() - self._worked_at, 0.0)

    def note_work(self) -> None:
        """Count the quiet from now on, as if a job had found work."""
        self._worked_at = time.monotonic()

    def pause(self) -> None:
        """Start no job any more; those that run go on."""
        if self._timetable is not None:
            self._timetable.pause()

    def resume(self) -> None:
        """Start jobs again, those that are due at once."""
        if self._timetable is not None:
            self._timetable.resume()

    def watch_clock(self) -> None:
        """Restart the schedules if the system clock was set."""
        if self._timetable is not None:
            self._timetable.watch_clock()

    def shutdown(self) -> threading.Thread | None:
        """End the schedules; return a thread that ends with the last running job, None if not started."""
        timetable, self._timetable = self._timetable, None
        if timetable is None:
            return None
        thread = threading.Thread(target=timetable.shutdown, name="ending", daemon=True)
        thread.start()
        return thread

    def idle(self, seconds: float) -> None:
        """Let other jobs take their turn for some seconds; the calling job holds it before and after.

        Raises Halt when jobs have to end.
        """
        self.turn.release()
        try:
            with self._watchdog.suspend():
                self._context.halted.wait(seconds)
        finally:
            with self._watchdog.suspend():
                self.turn.acquire()
        self._context.progress(0)

    def describe_failures(self) -> str:
        """Name the failing jobs and how often each has failed in a row; empty if there are none."""
        return ", ".join(
            f"{record.name} ({record.failures} time{'s' if record.failures > 1 else ''})"
            for record in self._records.values()
            if record.failures
        )

    def _run(self, job: Job) -> None:
        """Run a job, and count it as running. All runs of all jobs come here."""
        with self._running_lock:
            self._running += 1
        try:
            self._run_once(job)
        finally:
            with self._running_lock:
                self._running -= 1

    def _run_once(self, job: Job) -> None:
        """Run a job once, retry it later if it fails, and record the run."""
        if self._context.halted.is_set():
            return
        with log_context(job.name):
            record, started = self._records[job.name], time.monotonic()
            try:
                with self._take_turn(job):
                    started = time.monotonic()
                    if not self._context.leader.holds():
                        raise Halt  # the engine notices the loss itself
                    found_work = job.work(self._context)
            except Halt:
                return
            except Exception as error:  # a bug in one job must not stop the others
                if self._context.halted.is_set() or not self._context.leader.holds():
                    return
                self._handle_failure(job, record, started, error)
            else:
                self._handle_success(job, record, started, found_work)
            self._write(job, record)

    @contextmanager
    def _take_turn(self, job: Job) -> Iterator[None]:
        """Wait for the job's turn, then watch the block."""
        timeout = self._context.settings.budget.statement_timeout_seconds
        patience = job.patience + _STATEMENTS_PATIENCE * timeout
        if not job.takes_turns:
            with self._watchdog.watch(job.name, patience):
                yield
            return
        with self.turn:
            if self._context.halted.is_set():
                raise Halt
            with self._watchdog.watch(job.name, patience):
                yield

    def _handle_success(self, job: Job, record: JobRecord, started: float, found_work: object) -> None:
        if record.failures:
            log.info(
                "%s%s works again after %d failures",
                self._prefix,
                job.name,
                record.failures,
                extra={"action": job.name},
            )
        record.succeed(started, found_work)
        if found_work:
            self.note_work()

    def _handle_failure(self, job: Job, record: JobRecord, started: float, error: Exception) -> None:
        record.fail(started, error)
        self.note_work()
        interval = job.every(self._context.settings) or FIRST_RUN
        delay = retry_delay(record.failures, min(interval, _FIRST_RETRY), _LONGEST_RETRY, self._rng)
        # Any other error is a bug, which needs a traceback.
        is_expected = isinstance(error, (VectunedError, psycopg.Error))
        log.error(
            "%s%s failed: %s Trying again in %.0f s.",
            self._prefix,
            job.name,
            end_sentence(str(error).strip() or type(error).__name__),
            delay,
            exc_info=None if is_expected else error,
            extra={"action": job.name},
        )
        if (timetable := self._timetable) is not None:
            timetable.run_in(job, delay)

    def _write(self, job: Job, record: JobRecord) -> None:
        """Write the record of a job, if that is due."""
        if not record.is_due():
            return
        timetable = self._timetable
        next_seconds = timetable.seconds_until(job) if timetable is not None else None
        try:
            storage.write_job(self._context.leader.lock_session, record.values(next_seconds))
        except psycopg.Error as error:
            log.debug("the record of %s was not written: %s", job.name, error, extra={"action": job.name})
        else:
            record.mark_written()


def end_sentence(text: str) -> str:
    """Add a full stop unless the text ends with a punctuation mark."""
    return text if text.endswith((".", "!", "?")) else f"{text}."
