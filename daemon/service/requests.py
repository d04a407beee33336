"""The queue of requests: what was asked for in SQL, done one at a time, with progress that all can see."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Protocol

import psycopg
from psycopg.rows import namedtuple_row

from vectuned.config.errors import UsageError, VectunedError
from vectuned.config.settings import Settings
from vectuned.daemon.database.session import open_session
from vectuned.daemon.database.standby import using_standby
from vectuned.daemon.measure.benchmark import Benchmark, Progress
from vectuned.daemon.measure.sampling import sample_searches
from vectuned.learning.model.tuned_columns import TunedColumn, read_tuned_columns
from vectuned.sql.files import queries

from .tuning import Tuning
from .worker import Worker, sentence

log = logging.getLogger(__name__)

_ATTEMPTS: Final = 3
_TELL_SECONDS: Final = 1.0


class RequestCancelled(Exception):  # noqa: N818 - not an error: the way out of a job that is not wanted any more
    """The request was cancelled, or the daemon stops."""


class RequestJob(Protocol):
    """A request that is ready to be done: `total` is what its progress counts up to."""

    @property
    def total(self) -> int: ...

    def run(self, progress: Progress) -> dict[str, Any]:
        """Do it and return the result, as JSON can hold it."""


def prepare(worker: Worker, column_id: int, kind: str, arguments: dict[str, Any]) -> RequestJob:
    """Make ready what was asked for, the arguments being what vectuned._check_request lets pass.

    Raises UsageError if the column is gone, VectunedError if it cannot be done.
    """
    tuned = _column(worker, column_id)
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


def serve_request(
    conninfo: str,
    settings: Settings,
    stop: threading.Event | None = None,
    moved: Callable[[], None] = lambda: None,
) -> bool:
    """Do the oldest request that waits, if any; return whether there was one.

    Requests that were left behind by a daemon that died are put back first. One that fails says so in its
    row. When `stop` is set, the request is put back. Another daemon that is at it is left alone. `moved` is
    called whenever the work has moved on.
    """
    with open_session(conninfo, settings.database) as lock_session:
        row = lock_session.execute(queries()["hold_requests"]).fetchone()
        if row is None or not row[0]:
            return False
        for number, state in lock_session.execute(
            queries()["put_back_requests"], {"attempts": _ATTEMPTS}
        ).fetchall():
            log.warning("request %d was left behind: %s", number, state, extra={"action": "request"})
        cursor: psycopg.Cursor[Any] = lock_session.cursor(row_factory=namedtuple_row)
        asked = cursor.execute(queries()["take_request"]).fetchone()
        if asked is None:
            return False
        log.info("request %d: %s", asked.request_id, asked.kind, extra={"action": "request"})
        stop = stop or threading.Event()
        with (
            open_session(conninfo, settings.database) as conn,
            using_standby(settings, _until(stop)) as standby,
        ):
            _serve(lock_session, Worker(conn, settings, standby=standby), asked, stop, moved)
    return True


def _until(stop: threading.Event) -> Callable[[float], None]:
    def idle(seconds: float) -> None:
        if stop.wait(seconds):
            raise RequestCancelled

    return idle


def _serve(
    lock_session: psycopg.Connection[Any],
    worker: Worker,
    asked: Any,
    stop: threading.Event,
    moved: Callable[[], None],
) -> None:
    """Do one request, and write into its row how it ended."""
    end: dict[str, Any] = {"state": "failed", "result": None, "error": None, "done": None}
    try:
        with _Watch(lock_session, worker, asked.request_id, stop) as watch:
            job = prepare(worker, asked.column_id, asked.kind, asked.arguments)
            watch.total = job.total

            def progress(done: int) -> None:
                watch.progress(done)
                moved()

            end |= {"result": json.dumps(job.run(progress)), "state": "done", "done": job.total}
    except RequestCancelled:
        if stop.is_set():
            lock_session.execute(queries()["put_back_request"], {"request_id": asked.request_id})
            return
        end["state"] = "cancelled"
    except (VectunedError, psycopg.Error) as error:
        end["error"] = sentence(error)
    except Exception as error:  # a fault of ours: whoever asked must hear of it, and the daemon goes on
        log.exception("request %d failed", asked.request_id, extra={"action": "request"})
        end["error"] = f"an unexpected error, see the daemon's log: {error!r}"
    lock_session.execute(queries()["finish_request"], {"request_id": asked.request_id, **end})
    log.info("request %d: %s", asked.request_id, end["error"] or end["state"], extra={"action": "request"})


class _Watch:
    """Tell every second how far a request is, and end the work when it is cancelled or the daemon stops.

    What runs then is interrupted, so that not even a long statement is waited for, and the block is left by
    Withdrawn.
    """

    def __init__(
        self, lock_session: psycopg.Connection[Any], worker: Worker, request_id: int, stop: threading.Event
    ) -> None:
        self.total: int | None = None
        self._desk, self._worker, self._request_id, self._stop = lock_session, worker, request_id, stop
        self._done = 0
        self._ended, self._withdrawn = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._tell, name="request", daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if self._withdrawn.is_set() and isinstance(error, Exception):
            raise RequestCancelled from error

    def progress(self, done: int) -> None:
        """Take the number done so far; raise Withdrawn if no more is wanted."""
        self._done = done
        if self._withdrawn.is_set():
            raise RequestCancelled

    def _tell(self) -> None:
        while not self._ended.wait(_TELL_SECONDS):
            try:
                values = {"request_id": self._request_id, "done": self._done, "total": self.total}
                row = self._desk.execute(queries()["tell_request"], values).fetchone()
                wanted = row is not None and not row[0] and not self._stop.is_set()
            except psycopg.Error:
                wanted = False  # without this connection nobody could be told of the end either
            if not wanted:
                self._withdrawn.set()
                self._worker.conn.cancel_safe(timeout=5.0)
                if self._worker.standby is not None:
                    self._worker.standby.cancel()
                return


def _column(worker: Worker, column_id: int) -> TunedColumn:
    tuned = next(iter(read_tuned_columns(worker.conn, column_id)), None)
    if tuned is None:
        raise UsageError("The table that was asked about is gone.")
    return tuned
