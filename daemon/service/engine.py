"""The engine of one database: become the leader, run the jobs while leading, stand by otherwise."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import psycopg

from vectuned.config.errors import DatabaseUnavailableError, VectunedError
from vectuned.config.settings import Settings
from vectuned.config.wording import counted
from vectuned.daemon.database.isolation import describe_error
from vectuned.daemon.database.standby import make_standby
from vectuned.daemon.observe.job import ObserveJob
from vectuned.daemon.pacing.pace import Halt, Pace
from vectuned.daemon.pacing.retry_delay import retry_delay
from vectuned.daemon.work.worker import Worker

from . import storage
from .job_runner import JobRunner, end_sentence
from .jobs import JOBS, Job
from .leader import Leader, open_work_session
from .sleep import Sleep
from .watchdog import Watchdog

log = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 2.0  # between two looks at the leader's lock; each costs one short statement
_LOOK_ASLEEP: Final = 60.0  # standing by, while the leader sleeps: nothing is lost until then
_SUMMARY_SECONDS: Final = 15.0  # between two reads of the status line's numbers
_FIRST_RETRY: Final = 0.5  # seconds until the first new connection attempt
_LONGEST_RETRY: Final = 10.0  # seconds; also the longest that a restarted server waits for us
_HANDOVER_SECONDS: Final = 5.0  # for the previous leader's last statement to end
_HANDOVER_POLL_SECONDS: Final = 0.2  # between two looks at the lock during a handover
_LEADING_PATIENCE: Final = 120.0  # seconds without progress after which the engine's thread is stuck
_CANCEL_POLL_SECONDS: Final = 0.3  # between two cancel requests while jobs end
_CANCEL_SECONDS: Final = 5.0  # to wait for a cancel request to reach the server


class Engine:
    """Work on one database in threads of its own, while this process leads there.

    One thread tries to become the leader, checks the lock every 2 s while leading, and ends all jobs when the
    lock is lost. `name` identifies the database in log lines; it may be empty.
    """

    def __init__(
        self,
        name: str,
        conninfo: str,
        settings: Settings,
        jobs: Sequence[Job] = JOBS,
        *,
        handover_seconds: float = _HANDOVER_SECONDS,
    ) -> None:
        self.name = name
        self.conninfo = conninfo
        self.settings = settings
        self.leader = Leader(conninfo, settings)
        self.halted = threading.Event()
        self.halted.set()
        self.watchdog = Watchdog()
        self._prefix = f"{name}: " if name else ""
        self._handover_seconds = handover_seconds
        self._rng = random.Random()
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._next_settings: Settings | None = None
        self._runner = JobRunner(self, jobs, self.watchdog, self._prefix)
        self._sleep = Sleep(self.leader, self._runner, self._prefix)
        self._pace = Pace(settings.budget, self._runner.idle)
        self._standby = make_standby(settings, self._runner.idle)
        self._worker: Worker | None = None
        self._drainer: Worker | None = None
        self._observing: ObserveJob | None = None
        self._prepared = False
        self._thread = threading.Thread(target=self._run, name=f"engine {name}", daemon=True)
        self._failures = 0
        self._state = "starting"
        self._summary_due_at = 0.0

    # For the service

    def connect(self) -> None:
        """Connect for the first time. Raises DatabaseUnavailableError or UsageError."""
        try:
            self.leader.connect()
        except psycopg.Error as error:
            reason = describe_error(error)
            raise DatabaseUnavailableError(f"The database cannot be worked on: {reason}.") from error

    def start(self) -> None:
        """Start to lead, or to stand by."""
        self._thread.start()

    def stop(self) -> None:
        """Ask all work to end; returns at once."""
        self._stopping.set()
        self._wake.set()

    def join(self, seconds: float) -> bool:
        """Wait at most some seconds until all work has ended; return whether it has."""
        if self._thread.ident is not None:
            self._thread.join(seconds)
        else:
            self.leader.close()
        return not self._thread.is_alive()

    def adopt(self, settings: Settings) -> None:
        """Use other settings as soon as possible."""
        self._next_settings = settings
        self._wake.set()

    def describe(self) -> str:
        """Describe the state in a few words."""
        failures = self._runner.describe_failures()
        return self._state + (f"; failing: {failures}" if failures else "")

    # For jobs

    @property
    def worker(self) -> Worker:
        """The worker, on an open connection and with the present settings."""
        if self._worker is None or self._worker.conn.closed:
            self._worker = Worker(
                self._open_work_session(),
                self.settings,
                pace=self._pace,
                standby=self._standby,
                check_halt=lambda: self.progress(0),
            )
            self._prepared = False
        if not self._prepared:
            self._worker.settings = self.settings
            self._worker.prepare()
            self._prepared = True
        return self._worker

    @property
    def drainer(self) -> Worker:
        """A worker on a connection of its own, for the job that drains the inbox."""
        if self._drainer is None or self._drainer.conn.closed:
            self._drainer = Worker(open_work_session(self.conninfo, self.settings), self.settings)
            self._drainer.bound_inbox()
        elif self._drainer.settings is not self.settings:
            self._drainer.settings = self.settings
            self._drainer.bound_inbox()
        return self._drainer

    @property
    def observing(self) -> ObserveJob:
        """What observes applications, on a connection of its own and with the present settings."""
        settings = self.settings.observe
        if self._observing is not None and not self._observing.conn.closed:
            if self._observing.settings == settings:
                return self._observing
            self._observing.close()
            self._observing.conn.close()
        conn = open_work_session(self.conninfo, self.settings)
        self._observing = ObserveJob(conn, settings, lambda: self.progress(0))
        return self._observing

    def progress(self, _done: int) -> None:
        """Report progress of the running job; raises Halt when jobs have to end."""
        if self.halted.is_set():
            raise Halt
        self.watchdog.beat()

    # The engine's thread

    def _run(self) -> None:
        with self.watchdog.watch(f"{self._prefix}keeping the lead", _LEADING_PATIENCE):
            while not self._stopping.is_set():
                try:
                    with self.watchdog.suspend():  # the driver limits how long it tries
                        self.leader.connect()
                    if self.leader.acquire():
                        self._lead()
                        if not self._stopping.is_set():
                            self._pause(self._sleep.absence())
                    else:
                        self._stand_by()
                except (VectunedError, psycopg.Error) as error:
                    self.leader.close()
                    self._retry_later(error)
                except Exception:  # a bug here must not end the engine
                    log.exception("%sthe engine failed", self._prefix, extra={"action": "engine"})
                    self._pause(_LONGEST_RETRY)
        self.leader.close()
        self._state = "stopped"

    def _retry_later(self, error: Exception) -> None:
        """Log why the database cannot be worked on, and wait for the next attempt."""
        self._failures += 1
        delay = retry_delay(self._failures, _FIRST_RETRY, _LONGEST_RETRY, self._rng)
        reason = end_sentence(describe_error(error).strip())
        self._state = f"waiting: {reason}"
        if not self._stopping.is_set():
            log.warning(
                "%s%s Trying again in %.1f s.", self._prefix, reason, delay, extra={"action": "connect"}
            )
        self._pause(delay)

    def _stand_by(self) -> None:
        if self._state != "standing by":
            log.info(
                "%sstanding by: another daemon works on this database",
                self._prefix,
                extra={"action": "standby"},
            )
            self._state, self._failures = "standing by", 0
        self._pause(_LOOK_ASLEEP if storage.daemon_sleeps(self.leader.lock_session) else _LOOK_SECONDS)
        self._take_settings()

    def _lead(self) -> None:
        """Run the jobs until the lead is lost or the engine stops."""
        lock_session = self.leader.lock_session
        storage.delete_unknown_jobs(lock_session, self._runner.names)
        self._take_settings()
        self.halted.clear()
        try:
            with self._runner.turn:
                _ = self.worker  # connects
            count = self._read_summary(lock_session)
            log.info("%swatching %s", self._prefix, counted(count, "column"), extra={"action": "start"})
            self._sleep.begin()
            self._runner.start(self.settings)
            self._failures = 0
            while not self._stopping.is_set():
                self._pause(_LOOK_SECONDS)
                if self._stopping.is_set():
                    break
                if not self._keeps_leading():
                    log.warning(
                        "%sthe session that holds the leader's lock is lost: all jobs end",
                        self._prefix,
                        extra={"action": "leader"},
                    )
                    break
                if self._next_settings is not None:
                    self._sleep.wake()
                self._take_settings()
                self._runner.watch_clock()
                if self._sleep.asleep:
                    self._state = "asleep: nothing to do"
                elif time.monotonic() >= self._summary_due_at:
                    self._read_summary(lock_session)
        finally:
            self._end_jobs()

    def _keeps_leading(self) -> bool:
        """Fall asleep or wake where it is time for that; return whether this is still the leader.

        Awake, the server is asked; asleep, the end of the session says enough.
        """
        try:
            self._sleep.step(self.settings)
        except psycopg.OperationalError:
            return False
        return self._sleep.asleep or self.leader.holds()

    def _end_jobs(self) -> None:
        """End all jobs, then close the connections and release the lock."""
        self.halted.set()
        if (ending := self._runner.shutdown()) is not None:
            with self.watchdog.suspend():
                while ending.is_alive():
                    self._cancel()
                    ending.join(_CANCEL_POLL_SECONDS)
        for worker in (self._worker, self._drainer):
            if worker is not None:
                worker.conn.close()
        if self._observing is not None:
            self._observing.close()
            self._observing.conn.close()
        self._worker = self._drainer = self._observing = None
        if self._standby is not None:
            self._standby.close()
        self.leader.close()

    def _cancel(self) -> None:
        """Cancel running statements, so that the end does not wait for a long one."""
        workers = (self._worker, self._drainer, self._observing)
        with suppress(psycopg.Error):
            for worker in workers:
                if worker is not None and not worker.conn.closed:
                    worker.conn.cancel_safe(timeout=_CANCEL_SECONDS)
            if self._standby is not None:
                self._standby.cancel()

    def _pause(self, seconds: float) -> None:
        with self.watchdog.suspend():
            self._wake.wait(seconds)
        self._wake.clear()

    def _read_summary(self, lock_session: psycopg.Connection[Any]) -> int:
        """Read the numbers of the status line; return the number of columns."""
        self._summary_due_at = time.monotonic() + _SUMMARY_SECONDS
        summary = storage.read_summary(lock_session)
        at = summary.published_at
        last = f"last published {at:%Y-%m-%d %H:%M}" if at else "nothing published yet"
        self._state = f"{summary.columns} column{'' if summary.columns == 1 else 's'}, {last}"
        return int(summary.columns)

    def _take_settings(self) -> None:
        """Switch to the settings of the last `adopt`, if any."""
        settings, self._next_settings = self._next_settings, None
        if settings is None:
            return
        self.settings = settings
        self._pace.adapt(settings.budget)
        if self._standby is not None:
            self._standby.lag_seconds = settings.budget.lag_seconds
        self._prepared = False
        self._runner.plan(settings)

    def _open_work_session(self) -> psycopg.Connection[Any]:
        """Open the session in which jobs work, once no other daemon has one on this database.

        The previous leader may still execute its last statement, or its server may not have noticed yet that
        it is gone.
        """
        conn = open_work_session(self.conninfo, self.settings)
        deadline = time.monotonic() + self._handover_seconds
        try:
            while not storage.acquire_work_lock(conn):
                if time.monotonic() >= deadline:
                    raise VectunedError(
                        "The daemon that led before has not left the database yet; "
                        "this one waits until it has."
                    )
                if self.halted.wait(_HANDOVER_POLL_SECONDS):
                    raise Halt
        except BaseException:
            conn.close()
            raise
        return conn
