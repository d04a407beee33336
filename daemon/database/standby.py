"""The hot standby that replays searches: whether it belongs to this server, and has caught up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from typing import Any, Final

import psycopg

from vectuned.config.errors import DatabaseUnavailableError, UsageError, VectunedError
from vectuned.config.settings import Settings
from vectuned.sql.rows import fetch_row, fetch_value

from .session import open_session

_POLL_SECONDS: Final = 0.1  # between two looks at how far the standby is
_CANCEL_SECONDS: Final = 5.0  # to wait for a cancel request to reach the server


class StandbyUnreadyError(DatabaseUnavailableError):
    """The standby is down, lags, or is no standby of this server: nothing can be replayed there now."""


class Standby:
    """Connect to the standby of the settings when it is needed, and again after the connection is lost.

    `idle` waits for some seconds and may raise an exception to end the work; `clock` returns seconds and is
    monotonic. `reported_unready` is whether the last report on the standby said that it is not ready; None
    before the first report.
    """

    def __init__(
        self,
        settings: Settings,
        idle: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = settings.database
        self.lag_seconds = settings.budget.lag_seconds
        self._idle = idle
        self._clock = clock
        self._conn: psycopg.Connection[Any] | None = None
        self.reported_unready: bool | None = None

    def ready(self, primary: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
        """Return a connection to the standby once it has replayed all WAL that the primary has written now.

        The comparison uses positions in the WAL, not the clocks of the servers. Raises StandbyUnreadyError if
        the standby does not get there within `budget.lag_seconds`, or cannot be used.
        """
        try:
            conn = self._connect(primary)
            self._catch_up(primary, conn)
        except psycopg.Error as error:
            if primary.closed or isinstance(error, psycopg.errors.QueryCanceled):
                raise
            self.close()
            raise StandbyUnreadyError(
                f"The standby of database.replay_dsn cannot be used ({str(error).strip()}); replaying waits."
            ) from error
        return conn

    def cancel(self) -> None:
        """Cancel the statement that runs on the standby."""
        if self._conn is not None and not self._conn.closed:
            self._conn.cancel_safe(timeout=_CANCEL_SECONDS)

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    def _connect(self, primary: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
        """Return the open connection, else open one and check that it leads to a standby of the primary."""
        if self._conn is not None and not self._conn.closed:
            return self._conn
        try:
            conn = open_session(self._database.replay_dsn, self._database)
        except UsageError as error:
            raise StandbyUnreadyError(f"On the standby of database.replay_dsn: {error}") from error
        except VectunedError as error:
            raise StandbyUnreadyError(f"The standby of database.replay_dsn is down: {error}") from error
        try:
            if not _same_database(primary, conn):
                raise StandbyUnreadyError(
                    "database.replay_dsn names another database than database.dsn: "
                    "it must name the same database on a physical standby of that server."
                )
        except BaseException:
            conn.close()
            raise
        self._conn = conn
        return conn

    def _catch_up(self, primary: psycopg.Connection[Any], conn: psycopg.Connection[Any]) -> None:
        """Wait until the standby has replayed the primary's WAL up to its present end."""
        lsn = fetch_value(primary, "wal_insert_position")
        started = self._clock()
        while True:
            state = fetch_row(conn, "wal_replay_state", {"lsn": lsn})
            if not state.is_standby:
                raise StandbyUnreadyError(
                    "database.replay_dsn names a server that is no standby (any more): "
                    "set it to one, or empty to replay on the primary."
                )
            if state.caught_up:
                return
            if self._clock() - started >= self.lag_seconds:
                paused = state.pause_state != "not paused"
                why = "WAL replay is paused" if paused else f"last commit of {state.last_commit}"
                raise StandbyUnreadyError(
                    f"The standby of database.replay_dsn lags by more than {self.lag_seconds:g} s "
                    f"({state.missing} of WAL missing, {why}); replaying waits until it has caught up."
                )
            self._idle(_POLL_SECONDS)


def make_standby(settings: Settings, idle: Callable[[float], None] = time.sleep) -> Standby | None:
    """Make the standby of the settings, without connecting to it; None if they name none."""
    return Standby(settings, idle) if settings.database.replay_dsn.strip() else None


@contextmanager
def using_standby(settings: Settings, idle: Callable[[float], None] = time.sleep) -> Iterator[Standby | None]:
    """Make the standby of the settings, None if they name none, and close it after the block."""
    standby = make_standby(settings, idle)
    with closing(standby) if standby is not None else nullcontext():
        yield standby


def _same_database(primary: psycopg.Connection[Any], conn: psycopg.Connection[Any]) -> bool:
    """Return whether both connections lead to one database, on the server itself or on a physical copy."""
    for query in ("system_identity", "column_identity"):
        try:
            return bool(fetch_row(primary, query) == fetch_row(conn, query))
        except psycopg.errors.InsufficientPrivilege:
            continue
    return False
