"""The work on one database: who leads does the jobs on their schedules, everybody else stands by."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

import psycopg

from vectuned.config.errors import DatabaseUnavailableError, VectunedError
from vectuned.config.settings import Settings
from vectuned.daemon.database.standby import make_standby
from vectuned.daemon.logs import log_context
from vectuned.daemon.pacing.pace import Halt, Pace
from vectuned.sql.files import queries

from .jobs import JOBS, Job, JobRecord, backoff
from .leader import Leader, open_work
from .timetable import FIRST_RUN, Timetable
from .watchdog import Watchdog
from .worker import Worker, sentence

log = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 2.0
_GLANCE_SECONDS: Final = 15.0
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 10.0
_FENCE_SECONDS: Final = 5.0
_WATCH_PATIENCE: Final = 120.0


class Engine:
    """Work on one database in threads of its own, while this process leads there.

    One thread keeps the lead: it tries to get it, looks every 2 s whether it is still there, and ends all
    jobs where it is not. Jobs that fail are tried again with growing pauses and do not stop the others.
    `name` tells databases apart in what is logged.
    """

    def __init__(self, name: str, conninfo: str, settings: Settings, jobs: Sequence[Job] = JOBS) -> None:
        self.name = name
        self.conninfo = conninfo
        self.settings = settings
        self.leader = Leader(conninfo, settings)
        self.halted = threading.Event()
        self.halted.set()
        self.pulse = Watchdog()
        self._jobs = {job.name: job for job in jobs}
        self._records = {job.name: JobRecord(job.name) for job in jobs}
        self._rng = random.Random()
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._working = threading.Lock()
        self._next_settings: Settings | None = None
        self._pace = Pace(settings.budget, self._idle)
        self._standby = make_standby(settings, self._idle)
        self._worker: Worker | None = None
        self._unprepared = True
        self._timetable: Timetable | None = None
        self._thread = threading.Thread(target=self._run, name=f"engine {name}", daemon=True)
        self._retry = _FIRST_PAUSE
        self._state = "starting"
        self._glance_at = 0.0

    # What the supervisor asks for

    def connect(self) -> None:
        """Connect for the first time. Raises DatabaseUnavailableError or UsageError."""
        try:
            self.leader.connect()
        except psycopg.Error as error:
            raise DatabaseUnavailableError(f"The database cannot be worked on: {sentence(error)}.") from error

    def start(self) -> None:
        """Begin to work, or to stand by."""
        self._thread.start()

    def stop(self) -> None:
        """Have all work ended; returns at once."""
        self._stopping.set()
        self._wake.set()

    def join(self, seconds: float) -> bool:
        """Wait until all has ended; return whether it has."""
        if self._thread.ident is not None:
            self._thread.join(seconds)
        else:
            self.leader.close()
        return not self._thread.is_alive()

    def adopt(self, settings: Settings) -> None:
        """Go on with other settings as soon as may be."""
        self._next_settings = settings
        self._wake.set()

    def describe(self) -> str:
        """Say in a few words how things are here."""
        failing = [
            f"{r.name} ({r.failures} time{'s' if r.failures > 1 else ''})"
            for r in self._records.values()
            if r.failures
        ]
        return self._state + (f"; failing: {', '.join(failing)}" if failing else "")

    # What jobs find here

    @property
    def worker(self) -> Worker:
        """The worker, on a connection that is open, and brought up to date with the settings."""
        if self._worker is None or self._worker.conn.closed:
            self._worker = Worker(self._open_work(), self.settings, pace=self._pace, standby=self._standby)
            self._unprepared = True
        if self._unprepared:
            self._worker.settings = self.settings
            self._worker.prepare()
            self._unprepared = False
        return self._worker

    def progress(self, _done: int) -> None:
        """Note that work goes on; raises Stopped when it is to end."""
        if self.halted.is_set():
            raise Halt
        self.pulse.beat()

    # The thread that keeps the lead

    def _run(self) -> None:
        with self.pulse.work(f"{self._prefix}keeping the lead", _WATCH_PATIENCE):
            while not self._stopping.is_set():
                try:
                    with self.pulse.rest():  # the driver bounds how long it tries
                        self.leader.connect()
                    if self.leader.acquire():
                        self._lead()
                    else:
                        self._stand_by()
                except (VectunedError, psycopg.Error) as error:
                    self.leader.close()
                    why = _full_stop(sentence(error).strip())
                    self._state = f"waiting: {why}"
                    if not self._stopping.is_set():
                        log.warning(
                            "%s%s Trying again in %.1f s.",
                            self._prefix,
                            why,
                            self._retry,
                            extra={"action": "connect"},
                        )
                    self._pause(self._retry * self._rng.uniform(0.8, 1.2))
                    self._retry = min(2 * self._retry, _LONGEST_PAUSE)
                except Exception:  # a fault of ours here must not end the work for good
                    log.exception("%sthe engine failed", self._prefix, extra={"action": "engine"})
                    self._pause(_LONGEST_PAUSE)
        self.leader.close()
        self._state = "stopped"

    def _stand_by(self) -> None:
        if self._state != "standing by":
            log.info(
                "%sstanding by: another daemon works on this database",
                self._prefix,
                extra={"action": "standby"},
            )
            self._state, self._retry = "standing by", _FIRST_PAUSE
        self._pause(_LOOK_SECONDS)
        self._take_settings()

    def _lead(self) -> None:
        """Have the jobs done until this is no longer the leader, or is to stop."""
        lock_session = self.leader.lock_session
        lock_session.execute(queries()["forget_jobs"], {"names": list(self._jobs)})
        self._take_settings()
        self.halted.clear()
        try:
            with self._working:
                _ = self.worker  # it connects
            count = self._glance(lock_session)
            log.info("%swatching %d columns", self._prefix, count, extra={"action": "start"})
            self._timetable = timetable = Timetable(self._jobs.values(), self._attempt, self.settings)
            timetable.start()
            self._retry = _FIRST_PAUSE
            while not self._stopping.is_set():
                self._pause(_LOOK_SECONDS)
                if self._stopping.is_set():
                    break
                if not self.leader.holds():
                    log.warning(
                        "%sthe session that holds the leader's lock is lost: all jobs end",
                        self._prefix,
                        extra={"action": "leader"},
                    )
                    break
                self._take_settings()
                timetable.watch_clock()
                if time.monotonic() >= self._glance_at:
                    self._glance(lock_session)
        finally:
            self._end()

    def _end(self) -> None:
        """End all jobs, and leave the database only when none is left."""
        self.halted.set()
        timetable, self._timetable = self._timetable, None
        if timetable is not None:
            ending = threading.Thread(target=timetable.shutdown, name="ending", daemon=True)
            ending.start()
            with self.pulse.rest():
                while ending.is_alive():
                    self._cancel()
                    ending.join(0.3)
        if self._worker is not None:
            self._worker.conn.close()
            self._worker = None
        if self._standby is not None:
            self._standby.close()
        self.leader.close()

    def _pause(self, seconds: float) -> None:
        with self.pulse.rest():
            self._wake.wait(seconds)
        self._wake.clear()

    def _glance(self, lock_session: psycopg.Connection[Any]) -> int:
        """Look how many columns there are, and what was published last, for who asks how things are."""
        self._glance_at = time.monotonic() + _GLANCE_SECONDS
        row = lock_session.execute(queries()["at_a_glance"]).fetchone()
        assert row is not None
        last = f"last published {row[1]:%Y-%m-%d %H:%M}" if row[1] else "nothing published yet"
        self._state = f"{row[0]} column{'' if row[0] == 1 else 's'}, {last}"
        return int(row[0])

    def _take_settings(self) -> None:
        fresh, self._next_settings = self._next_settings, None
        if fresh is None:
            return
        self.settings = fresh
        self._pace.adapt(fresh.budget)
        if self._standby is not None:
            self._standby.lag_seconds = fresh.budget.lag_seconds
        self._unprepared = True
        if self._timetable is not None:
            self._timetable.plan(fresh)

    def _cancel(self) -> None:
        """Interrupt what runs, so that ending does not wait for a long statement."""
        worker = self._worker
        with suppress(psycopg.Error):
            if worker is not None and not worker.conn.closed:
                worker.conn.cancel_safe(timeout=5.0)
            if self._standby is not None:
                self._standby.cancel()

    # Jobs

    def _attempt(self, job: Job) -> None:
        """Run a job once. Every run of every job passes here."""
        if self.halted.is_set():
            return
        with log_context(job.name):
            self._run_once(job)

    def _run_once(self, job: Job) -> None:
        record, began = self._records[job.name], time.monotonic()
        try:
            with self._turn(job):
                began = time.monotonic()
                if not self.leader.holds():
                    raise Halt  # whoever keeps the lead will find out by itself
                found = job.work(self)
        except Halt:
            return
        except Exception as error:  # a fault of ours as well is a failure of this job, and the others go on
            if self.halted.is_set() or not self.leader.holds():
                return
            self._failed(job, record, began, error)
        else:
            if record.failures:
                log.info(
                    "%s%s works again after %d failures",
                    self._prefix,
                    job.name,
                    record.failures,
                    extra={"action": job.name},
                )
            record.succeeded(began, found)
        self._note(job, record)

    def _failed(self, job: Job, record: JobRecord, began: float, error: Exception) -> None:
        record.failed(began, error)
        delay = backoff(record.failures, job.every(self.settings) or FIRST_RUN, self._rng)
        # What is neither the server's nor the user's is a fault of ours, and the way to it is told.
        expected = isinstance(error, (VectunedError, psycopg.Error))
        log.error(
            "%s%s failed: %s Trying again in %.0f s.",
            self._prefix,
            job.name,
            _full_stop(str(error).strip() or type(error).__name__),
            delay,
            exc_info=None if expected else error,
            extra={"action": job.name},
        )
        if (timetable := self._timetable) is not None:
            timetable.run_in(job, delay)

    def _note(self, job: Job, record: JobRecord) -> None:
        """Write down how the job went, if that is due."""
        if not record.due():
            return
        timetable = self._timetable
        ahead = timetable.seconds_until(job) if timetable is not None else None
        try:
            self.leader.lock_session.execute(queries()["note_job"], record.values(ahead))
        except psycopg.Error as error:
            log.debug("%s was not noted down: %s", job.name, error, extra={"action": job.name})
        else:
            record.written()

    @contextmanager
    def _turn(self, job: Job) -> Iterator[None]:
        """Wait for the job's turn; only then is it at work."""
        patience = job.patience + 10 * self.settings.budget.statement_timeout_seconds
        if not job.takes_turns:
            with self.pulse.work(job.name, patience):
                yield
            return
        with self._working:
            if self.halted.is_set():
                raise Halt
            with self.pulse.work(job.name, patience):
                yield

    def _idle(self, seconds: float) -> None:
        """Let other jobs run for some seconds; the caller's has the connection before and after."""
        self._working.release()
        try:
            with self.pulse.rest():
                self.halted.wait(seconds)
        finally:
            with self.pulse.rest():
                self._working.acquire()
        self.progress(0)

    def _open_work(self) -> psycopg.Connection[Any]:
        """Open the session that jobs work in, once nobody else has one here.

        Who led before may be at its last statement still, or its server not know yet that it is gone.
        """
        conn = open_work(self.conninfo, self.settings)
        until = time.monotonic() + _FENCE_SECONDS
        try:
            while True:
                row = conn.execute(queries()["announce"]).fetchone()
                if row is not None and row[0]:
                    return conn
                if time.monotonic() >= until:
                    raise VectunedError(
                        "The daemon that led before has not left the database yet; "
                        "nothing is done until it has."
                    )
                if self.halted.wait(0.2):
                    raise Halt
        except BaseException:
            conn.close()
            raise

    @property
    def _prefix(self) -> str:
        return f"{self.name}: " if self.name else ""


def _full_stop(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
