"""The hot standby on which searches are replayed: whether it is one of this server, and has caught up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from typing import Any, Final

import psycopg

from vectuned.config.errors import DatabaseUnavailableError, UsageError, VectunedError
from vectuned.config.settings import Settings
from vectuned.sql.files import queries

from .session import open_session

_LOOK_SECONDS: Final = 0.1


class StandbyUnreadyError(DatabaseUnavailableError):
    """The standby is down, lags, or is no standby of this server: nothing may be replayed there now."""


class Standby:
    """Connect to the standby that the settings name, when it is needed and as often as it takes.

    `idle` waits for some seconds, and may raise to end the work instead; `clock` gives seconds and never goes
    back. `waited_for` is what was said of it last, None before anything was.
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
        self.waited_for: bool | None = None

    def ready(self, primary: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
        """Return a connection to the standby once it has everything that the primary has now.

        Neither clock is asked how late it is: the standby has to reach the place in the log that the primary
        has reached, within `budget.lag_seconds`. Raises StandbyUnreadyError if it does not, or cannot.
        """
        try:
            conn = self._connected(primary)
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
        """Interrupt the statement that runs there."""
        if self._conn is not None and not self._conn.closed:
            self._conn.cancel_safe(timeout=5.0)

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    def _connected(self, primary: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
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
                    "it takes a physical standby of that server, and the same database there."
                )
        except BaseException:
            conn.close()
            raise
        self._conn = conn
        return conn

    def _catch_up(self, primary: psycopg.Connection[Any], conn: psycopg.Connection[Any]) -> None:
        row = primary.execute(queries()["wal_written"]).fetchone()
        began = self._clock()
        while True:
            seen = conn.execute(queries()["wal_replayed"], {"place": row[0] if row else None}).fetchone()
            assert seen is not None
            standby, reached, missing, state, last = seen
            if not standby:
                raise StandbyUnreadyError(
                    "database.replay_dsn names a server that is no standby (any more): "
                    "set it to one, or empty to replay on the primary."
                )
            if reached:
                return
            if self._clock() - began >= self.lag_seconds:
                why = "its replay of the log is paused" if state != "not paused" else f"last commit of {last}"
                raise StandbyUnreadyError(
                    f"The standby of database.replay_dsn lags by more than {self.lag_seconds:g} s "
                    f"({missing} of log missing, {why}); replaying waits until it has caught up."
                )
            self._idle(_LOOK_SECONDS)


def open_standby(settings: Settings, idle: Callable[[float], None] = time.sleep) -> Standby | None:
    """Make the standby that the settings name, without connecting to it; None if they name none."""
    return Standby(settings, idle) if settings.database.replay_dsn.strip() else None


@contextmanager
def using_standby(settings: Settings, idle: Callable[[float], None] = time.sleep) -> Iterator[Standby | None]:
    """Make the standby that the settings name, if any, and close it in the end."""
    standby = open_standby(settings, idle)
    with closing(standby) if standby is not None else nullcontext():
        yield standby


def _same_database(primary: psycopg.Connection[Any], conn: psycopg.Connection[Any]) -> bool:
    """Say whether two connections are to one database, on the server itself or a physical copy."""
    for query in ("system_identity", "column_identity"):
        try:
            return primary.execute(queries()[query]).fetchone() == conn.execute(queries()[query]).fetchone()
        except psycopg.errors.InsufficientPrivilege:
            continue
    return False
