"""The request queue: what was requested in SQL runs here, one request at a time, with visible progress."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Protocol

import psycopg

from vectuned.config.errors import UsageError, VectunedError
from vectuned.config.settings import Settings
from vectuned.daemon.database.isolation import describe_error
from vectuned.daemon.database.session import open_session
from vectuned.daemon.database.standby import using_standby
from vectuned.daemon.measure.benchmark import Benchmark, Progress
from vectuned.daemon.measure.sampling import sample_searches
from vectuned.daemon.work.worker import Worker
from vectuned.learning.model.tuned_columns import TunedColumn, read_tuned_columns

from . import storage
from .tuning import Tuning

log = logging.getLogger(__name__)

_ATTEMPTS: Final = 3  # runs of a request; a fourth would hardly survive what ended the daemon three times
_PROGRESS_SECONDS: Final = 1.0  # between two writes of the progress
_CANCEL_SECONDS: Final = 5.0  # to wait for a cancel request to reach the server
_LOG: Final = {"action": "request"}


class RequestCancelled(Exception):  # noqa: N818 - not an error: it unwinds a job that is no longer wanted
    """The request was cancelled, or the daemon stops."""


class RequestJob(Protocol):
    """A request that is ready to run; its progress counts up to `total`."""

    @property
    def total(self) -> int: ...

    def run(self, progress: Progress) -> dict[str, Any]:
        """Run it and return the result, which must be serialisable as JSON."""


def prepare_job(worker: Worker, column_id: int, kind: str, arguments: dict[str, Any]) -> RequestJob:
    """Prepare a request whose arguments vectuned._check_request has accepted.

    Raises UsageError if the column is gone, VectunedError if the request cannot run.
    """
    tuned = _read_column(worker, column_id)
    worker.check_rights(tuned)
    learning = worker.settings.learning
    if kind == "auto_tune":
        count = arguments["sample_queries"]
        return Tuning.prepare(worker, tuned, arguments["optimize_for"], count, apply=arguments["apply"])
    worker.drain()
    sample = sample_searches(
        worker.conn,
        tuned,
        arguments["sample_queries"],
        filtered=arguments["filtered"],
        perturbed=arguments["perturbed"],
        seed=learning.seed,
    )
    percentiles = tuple(arguments["percentiles"]) if kind == "benchmark_latency" else None
    return Benchmark(
        worker.conn, tuned, sample, arguments["k"], learning.confidence, learning.seed, percentiles
    )


def run_next_request(
    conninfo: str,
    settings: Settings,
    stop: threading.Event | None = None,
    on_progress: Callable[[], None] = lambda: None,
    *,
    prepare: Callable[[Worker, int, str, dict[str, Any]], RequestJob] = prepare_job,
    progress_seconds: float = _PROGRESS_SECONDS,
) -> bool:
    """Run the oldest queued request; return False if there is none or another daemon works on requests.

    Requests that a dead daemon left running are queued again first. A failure is written into the request's
    row. When `stop` is set, the request is queued again. `on_progress` is called whenever the work makes
    progress, which is written every `progress_seconds`. `prepare` makes the job of a request.
    """
    with open_session(conninfo, settings.database) as lock_session:
        if not storage.acquire_request_lock(lock_session):
            return False
        for abandoned in storage.requeue_abandoned_requests(lock_session, _ATTEMPTS):
            log.warning("request %d was abandoned: %s", abandoned.request_id, abandoned.state, extra=_LOG)
        request = storage.take_request(lock_session)
        if request is None:
            return False
        log.info("request %d: %s", request.request_id, request.kind, extra=_LOG)
        stop = stop or threading.Event()
        with (
            open_session(conninfo, settings.database) as conn,
            using_standby(settings, _interruptible_sleep(stop)) as standby,
        ):
            worker = Worker(conn, settings, standby=standby)
            monitor = _Monitor(lock_session, worker, request.request_id, stop, progress_seconds)
            _run(request, prepare, monitor, on_progress)
    return True


def _interruptible_sleep(stop: threading.Event) -> Callable[[float], None]:
    def sleep(seconds: float) -> None:
        if stop.wait(seconds):
            raise RequestCancelled

    return sleep


def _run(
    request: Any,
    prepare: Callable[[Worker, int, str, dict[str, Any]], RequestJob],
    monitor: _Monitor,
    on_progress: Callable[[], None],
) -> None:
    """Run a request, and write into its row how it ended."""
    outcome: dict[str, Any] = {"state": "failed", "result": None, "error": None, "done": None}
    try:
        with monitor:
            job = prepare(monitor.worker, request.column_id, request.kind, request.arguments)
            monitor.total = job.total

            def progress(done: int) -> None:
                monitor.progress(done)
                on_progress()

            outcome |= {"result": json.dumps(job.run(progress)), "state": "done", "done": job.total}
    except RequestCancelled:
        if monitor.stop.is_set():
            storage.requeue_request(monitor.lock_session, request.request_id)
            return
        outcome["state"] = "cancelled"
    except (VectunedError, psycopg.Error) as error:
        outcome["error"] = describe_error(error)
    except Exception as error:  # a bug: the request reports it, and the daemon goes on
        log.exception("request %d failed", request.request_id, extra=_LOG)
        outcome["error"] = f"an unexpected error, see the daemon's log: {error!r}"
    storage.finish_request(monitor.lock_session, request.request_id, outcome)
    log.info("request %d: %s", request.request_id, outcome["error"] or outcome["state"], extra=_LOG)


class _Monitor:
    """Write the progress of a request regularly, and end its work when it is cancelled or the daemon stops.

    Running statements are then cancelled, so that the end does not wait for a long one, and the block is left
    by RequestCancelled.
    """

    def __init__(
        self,
        lock_session: psycopg.Connection[Any],
        worker: Worker,
        request_id: int,
        stop: threading.Event,
        progress_seconds: float,
    ) -> None:
        self.lock_session, self.worker, self.stop = lock_session, worker, stop
        self.total: int | None = None
        self._request_id = request_id
        self._progress_seconds = progress_seconds
        self._done = 0
        self._ended, self._cancelled = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="request", daemon=True)

    def __enter__(self) -> _Monitor:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if self._cancelled.is_set() and isinstance(error, Exception):
            raise RequestCancelled from error

    def progress(self, done: int) -> None:
        """Take the number done so far; raises RequestCancelled if the work has to end."""
        self._done = done
        if self._cancelled.is_set():
            raise RequestCancelled

    def _watch(self) -> None:
        while not self._ended.wait(self._progress_seconds):
            if not self._is_wanted():
                self._cancelled.set()
                self.worker.conn.cancel_safe(timeout=_CANCEL_SECONDS)
                if self.worker.standby is not None:
                    self.worker.standby.cancel()
                return

    def _is_wanted(self) -> bool:
        """Write the progress; return whether the request is still wanted."""
        try:
            active = storage.write_request_progress(
                self.lock_session, self._request_id, self._done, self.total
            )
        except psycopg.Error:
            return False  # without this connection the outcome could not be written either
        return active and not self.stop.is_set()


def _read_column(worker: Worker, column_id: int) -> TunedColumn:
    tuned = next(iter(read_tuned_columns(worker.conn, column_id)), None)
    if tuned is None:
        raise UsageError("The table of the request is gone.")
    return tuned
