"""Which of several daemons works on a database: the one whose session holds the advisory lock."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import psycopg

from vectuned.config.settings import Settings
from vectuned.daemon.database.session import open_session
from vectuned.sql.files import queries

log = logging.getLogger(__name__)

# Of the lock's session: when the network is dead we notice after 5 to 7 s, and the server, which lets go of
# the lock then, after 10 s; in this order, so that who leads has stopped before another begins.
_DESK: Final = {
    "keepalives": 1,
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 5000,
}
_WORK: Final = {
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
_DESK_LIMITS: Final = {"statement_timeout": "10s"}
_WORK_LIMITS: Final = {"lock_timeout": "1min"}


class Leader:
    """Lead on one database as long as a session, which does little else, holds the lock.

    That session, the desk, is never in a long statement: what is to be asked or written down while others
    work goes through it.
    """

    def __init__(self, conninfo: str, settings: Settings) -> None:
        self._conninfo = conninfo
        self._settings = settings
        self._desk: psycopg.Connection[Any] | None = None

    @property
    def lock_session(self) -> psycopg.Connection[Any]:
        """The session of the lock. Raises psycopg.OperationalError if it is lost."""
        if self._desk is None:
            raise psycopg.OperationalError("the session that holds the leader's lock is lost")
        return self._desk

    def connect(self) -> None:
        """Open the session if it is not open. Raises DatabaseUnavailableError or UsageError."""
        if self._desk is None or self._desk.closed:
            self._desk = open_guarded(self._conninfo, self._settings, _DESK, _DESK_LIMITS)

    def acquire(self) -> bool:
        """Try to become the leader and say whether it worked; connects where that is needed."""
        self.connect()
        row = self.lock_session.execute(queries()["lead"]).fetchone()
        return row is not None and bool(row[0])

    def holds(self) -> bool:
        """Say whether this still is the leader; asks the server."""
        if self._desk is None:
            return False
        try:
            row = self._desk.execute(queries()["leads"]).fetchone()
        except psycopg.Error:
            return False
        return row is not None and bool(row[0])

    def close(self) -> None:
        """Let go of the lock."""
        if self._desk is not None:
            self._desk.close()
            self._desk = None


def open_guarded(
    conninfo: str, settings: Settings, parameters: Mapping[str, int], limits: Mapping[str, str]
) -> psycopg.Connection[Any]:
    """Open a session of the daemon, of which both ends soon notice when the other one is gone."""
    conn = open_session(conninfo, settings.database, parameters=parameters, limits=limits)
    try:
        conn.execute(queries()["guard_session"])
        with suppress(psycopg.errors.InvalidParameterValue):  # a server whose system cannot tell
            conn.execute(queries()["guard_statements"])
    except BaseException:
        conn.close()
        raise
    return conn


def open_work(conninfo: str, settings: Settings) -> psycopg.Connection[Any]:
    """Open the session that the leader works in; nobody is waited for there for longer than a minute."""
    return open_guarded(conninfo, settings, _WORK, _WORK_LIMITS)
