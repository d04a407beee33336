"""The service: the worker's jobs on a schedule, until a signal says stop."""

from __future__ import annotations

import logging
import random
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

import psycopg
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from vectuned.config.errors import VectunedError
from vectuned.config.settings import Settings
from vectuned.sql.loader import queries

from .pace import Pace, Stopped
from .requests import serve_request
from .session import open_session
from .standby import open_standby
from .worker import Worker

log = logging.getLogger(__name__)

_LONGEST_PAUSE: Final = 30.0
_LOOK_SECONDS: Final = 5.0
_JUMP_SECONDS: Final = 2.0


class Service:
    """Run the worker's jobs on their schedules, one at a time, on one connection.

    Jobs that the budget is for wait for their turn in a thread of their own, and while they wait the others
    run. A job that fails is logged and runs again at its next time; a lost connection is opened anew with
    growing pauses. Handlers of signals only set a flag.
    """

    def __init__(self, conninfo: str, settings: Settings) -> None:
        self._conninfo = conninfo
        self._settings = settings
        self._stop = threading.Event()
        self._worker: Worker | None = None
        self._working = threading.Lock()
        self._pace = Pace(settings.budget, self._idle)
        self._standby = open_standby(settings, self._idle)

    def run(self) -> None:
        """Work until SIGTERM or SIGINT, then finish cleanly. Call it from the main thread.

        Raises DatabaseUnavailableError or UsageError if the database cannot be worked on at the start.
        """
        previous = {
            number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)
        }
        scheduler: BackgroundScheduler | None = None
        try:
            self._connect()
            scheduler = self._schedule()
            scheduler.start()
            log.info("watching %d columns", len(self._columns()), extra={"action": "start"})
            self._wait(scheduler)
        finally:
            self._stop.set()
            if scheduler is not None and scheduler.running:
                self._cancel()
                scheduler.shutdown(wait=True)
            if self._worker is not None:
                self._worker.conn.close()
            if self._standby is not None:
                self._standby.close()
            for number, handler in previous.items():
                signal.signal(number, handler)
            log.info("stopped", extra={"action": "stop"})

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._stop.set()

    def _schedule(self) -> BackgroundScheduler:
        # A late job runs late, never not at all; jobs that pile up run once; a lock, so one at a time.
        scheduler = BackgroundScheduler(
            executors={"default": ThreadPoolExecutor(1), "paced": ThreadPoolExecutor(1)},
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )
        every = self._settings.schedule
        jobs: list[tuple[Callable[[Worker], object], float]] = [
            (lambda w: w.drain(), every.drain_seconds),
            (self._replay, every.replay_seconds),
            (lambda w: w.judge(), every.replay_seconds),
            (lambda w: w.learn_all(), every.learn_seconds),
            (lambda w: w.maintain(), every.consolidate_seconds),
            (self._serve_request, every.request_seconds),
        ]
        names = ("drain", "replay", "judge", "learn", "maintain", "request")
        for name, (work, seconds) in zip(names, jobs, strict=True):
            executor = "paced" if name in ("replay", "judge", "learn") else "default"
            scheduler.add_job(
                self._attempt, "interval", (name, work), id=name, seconds=seconds, executor=executor
            )
        return scheduler

    def _wait(self, scheduler: BackgroundScheduler) -> None:
        """Wait for the end. The scheduler goes by the wall clock: when that is set, all jobs begin anew."""
        ahead = time.time() - time.monotonic()
        while not self._stop.wait(_LOOK_SECONDS):
            now = time.time() - time.monotonic()
            if abs(now - ahead) > _JUMP_SECONDS:
                log.info("the clock jumped by %.0f s", now - ahead, extra={"action": "clock"})
                for job in scheduler.get_jobs():
                    job.reschedule("interval", seconds=job.trigger.interval.total_seconds())
            ahead = now

    def _replay(self, worker: Worker) -> None:
        """Replay as much as the budget allows until it is time to look at other things."""
        until = time.monotonic() + self._settings.schedule.replay_seconds
        while worker.replay_all(self._check_stop) and time.monotonic() < until:
            pass
        worker.watch_backlog()

    def _attempt(self, name: str, work: Callable[[Worker], object]) -> None:
        if self._stop.is_set():
            return
        try:
            with self._working:
                work(self._ready_worker())
        except Stopped:
            pass
        except psycopg.Error as error:
            if not self._stop.is_set():
                log.error("%s failed: %s", name, str(error).strip(), extra={"action": name})
        except VectunedError as error:
            if not self._stop.is_set():
                log.error("%s failed: %s", name, error, extra={"action": name})
        except Exception:  # a fault of ours in one job must not end the others
            log.exception("%s failed", name, extra={"action": name})

    def _serve_request(self, worker: Worker) -> None:
        row = worker.conn.execute(queries()["requests_waiting"]).fetchone()
        if row is not None and row[0]:
            serve_request(self._conninfo, self._settings, self._stop)

    def _check_stop(self, _done: int) -> None:
        if self._stop.is_set():
            raise Stopped

    def _idle(self, seconds: float) -> None:
        """Let other jobs run for some seconds; the caller's has the connection before and after."""
        self._working.release()
        try:
            self._stop.wait(seconds)
        finally:
            self._working.acquire()
        self._check_stop(0)

    def _ready_worker(self) -> Worker:
        pause = 0.5
        while self._worker is None or self._worker.conn.closed:
            self._check_stop(0)
            try:
                return self._connect()
            except VectunedError as error:
                log.warning("%s Trying again in %.0f s.", error, pause, extra={"action": "connect"})
                self._stop.wait(pause * random.uniform(0.8, 1.2))
                pause = min(2 * pause, _LONGEST_PAUSE)
        return self._worker

    def _connect(self) -> Worker:
        database = self._settings.database
        conn = open_session(
            self._conninfo,
            application_name=database.application_name,
            connect_timeout=database.connect_timeout,
        )
        self._worker = Worker(conn, self._settings, pace=self._pace, standby=self._standby)
        self._worker.prepare()
        conn.execute(queries()["announce"])
        return self._worker

    def _columns(self) -> list[Any]:
        return list(self._worker.columns()) if self._worker else []

    def _cancel(self) -> None:
        """Interrupt the statement that runs, so that stopping does not wait for a long one."""
        if self._worker is not None and not self._worker.conn.closed:
            self._worker.conn.cancel_safe(timeout=5.0)
        if self._standby is not None:
            self._standby.cancel()
