"""What a node is given besides its inputs: time, connections, a voice in the trace, a way to be stopped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg

from vectuned.reasoning.errors import RunCancelledError
from vectuned.reasoning.trace import summarise

from .connections import Connection, ConnectionPool


class SendBack(Exception):  # noqa: N818 - no error but a wish
    """Raised by a node to have the whole run done again with some inputs changed; see `Context.send_back`."""

    def __init__(self, changes: Mapping[str, Any]) -> None:
        super().__init__("the run is to be done again")
        self.changes = dict(changes)


class Cancellation:
    """Whether something is to stop, and what to do at the moment it is told to. Used from any thread."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._next = 0

    @property
    def is_cancelled(self) -> bool:
        """Whether it was told to stop."""
        return self._event.is_set()

    def cancel(self) -> None:
        """Tell it to stop; a second time changes nothing."""
        with self._lock:
            if self._event.is_set():
                return
            self._event.set()
            callbacks = list(self._callbacks.values())
        for callback in callbacks:
            callback()

    def wait(self, seconds: float) -> bool:
        """Wait for as long, or until it is told to stop; return whether it was."""
        return self._event.wait(seconds)

    @contextmanager
    def calling(self, callback: Callable[[], None]) -> Iterator[None]:
        """Call back when it is told to stop within the block, at once if it was before."""
        with self._lock:
            number, self._next = self._next, self._next + 1
            self._callbacks[number] = callback
            already = self._event.is_set()
        if already:
            callback()
        try:
            yield
        finally:
            with self._lock:
                del self._callbacks[number]


class Context:
    """What one attempt of a node may use.

    `correlation_id` names the run in every log line and error. `may_send_back` says whether the run may still
    be done again.
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
        """Say in the trace what was decided, and by which facts."""
        self.decisions.append({"what": what, **{name: summarise(fact) for name, fact in facts.items()}})

    def remaining(self, most: float) -> float:
        """Return the seconds left to this attempt, `most` at most and never 0."""
        if self._deadline is None:
            return most
        return min(most, max(self._deadline - time.monotonic(), 0.001))

    def check(self) -> None:
        """Raise RunCancelledError if this attempt is to stop: call it in long loops."""
        if self.cancellation.is_cancelled:
            raise RunCancelledError(correlation_id=self.correlation_id)

    def send_back(self, **changes: object) -> None:
        """End this run and begin it anew with some of the graph's inputs changed; once the way is free."""
        if self.may_send_back:
            raise SendBack(changes)

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Lend a connection of the run's own; what it is doing is stopped when the attempt is."""
        if self._connections is None:
            raise RuntimeError(f"the run has no connections, which node {self.node} asks for")
        self.check()
        with self._connections.lend(self.remaining(60.0)) as conn:
            try:
                with self.cancellation.calling(lambda: _stop(conn)):
                    yield conn
            finally:
                # It may be stopped a moment late, when it already works for another.
                if self.cancellation.is_cancelled:
                    conn.close()


def _stop(conn: Connection) -> None:
    try:
        conn.cancel_safe(timeout=2.0)
    except psycopg.Error:
        conn.close()
