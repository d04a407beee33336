"""What a node uses besides its inputs: connections, the remaining time, the trace, and cancellation."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import psycopg

from vectuned.reasoning.errors import RunCancelledError
from vectuned.reasoning.trace import summarise

from .connections import Connection, ConnectionPool

_MIN_SECONDS: Final = 0.001  # of waiting after the deadline: a free connection is still taken
_MAX_WAIT: Final = 60.0  # seconds for a connection, for nodes without a limit
_CANCEL_SECONDS: Final = 2.0  # for a cancel request; the connection is closed after that


class SendBack(Exception):  # noqa: N818 - not an error
    """Starts the whole run again with some inputs changed; see `Context.send_back`."""

    def __init__(self, changes: Mapping[str, Any]) -> None:
        super().__init__("the run starts again")
        self.changes = dict(changes)


class Cancellation:
    """A request to stop, and the callbacks that carry it out. Thread-safe."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._next = 0

    @property
    def is_cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._event.is_set()

    def cancel(self) -> None:
        """Request to stop and run the callbacks; a second call has no effect."""
        with self._lock:
            if self._event.is_set():
                return
            self._event.set()
            callbacks = list(self._callbacks.values())
        for callback in callbacks:
            callback()

    def wait(self, seconds: float) -> bool:
        """Wait for `cancel`, at most for `seconds`; return whether it was called."""
        return self._event.wait(seconds)

    @contextmanager
    def on_cancel(self, callback: Callable[[], None]) -> Iterator[None]:
        """Run a callback when `cancel` is called within the block, at once if it was called before."""
        with self._lock:
            number, self._next = self._next, self._next + 1
            self._callbacks[number] = callback
            is_cancelled = self._event.is_set()
        if is_cancelled:
            callback()
        try:
            yield
        finally:
            with self._lock:
                del self._callbacks[number]


class Context:
    """What one attempt of a node may use.

    `correlation_id` identifies the run in log lines and errors. `may_send_back` says whether the run may
    start again.
    """

    def __init__(
        self,
        *,
        correlation_id: str,
        node: str,
        attempt: int = 1,
        round: int = 1,
        may_send_back: bool = False,
        seconds: float | None = None,
        connections: ConnectionPool | None = None,
    ) -> None:
        self.correlation_id = correlation_id
        self.node = node
        self.attempt = attempt
        self.round = round
        self.may_send_back = may_send_back
        self.cancellation = Cancellation()
        self.decisions: list[dict[str, Any]] = []
        self._connections = connections
        self._deadline = None if seconds is None else time.monotonic() + seconds

    def record_decision(self, what: str, **facts: object) -> None:
        """Record in the trace what was decided, and the facts it depends on."""
        self.decisions.append({"what": what, **{name: summarise(fact) for name, fact in facts.items()}})

    def remaining_seconds(self, limit: float) -> float:
        """Return the seconds left for this attempt: more than 0, and at most `limit`."""
        if self._deadline is None:
            return limit
        return min(limit, max(self._deadline - time.monotonic(), _MIN_SECONDS))

    def raise_if_cancelled(self) -> None:
        """Raise RunCancelledError if this attempt should stop; to be called in long loops."""
        if self.cancellation.is_cancelled:
            raise RunCancelledError(correlation_id=self.correlation_id)

    def send_back(self, **changes: object) -> None:
        """Start the run again with some of the graph's inputs changed; returns if that is not allowed."""
        if self.may_send_back:
            raise SendBack(changes)

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Lend a connection; when the attempt is cancelled, so is the statement it runs."""
        if self._connections is None:
            raise RuntimeError(f"node {self.node} needs a connection, but the run has none")
        self.raise_if_cancelled()
        with self._connections.lend(self.remaining_seconds(_MAX_WAIT)) as conn:
            try:
                with self.cancellation.on_cancel(lambda: _stop(conn)):
                    yield conn
            finally:
                # The cancel request may arrive late, when the connection already serves another run.
                if self.cancellation.is_cancelled:
                    conn.close()


def _stop(conn: Connection) -> None:
    try:
        conn.cancel_safe(timeout=_CANCEL_SECONDS)
    except psycopg.Error:
        conn.close()
