"""Leader election: of several daemons, the one whose session holds an advisory lock works on the database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import psycopg

from vectuned.config.settings import Settings
from vectuned.daemon.database.session import open_session

from . import storage

# libpq parameters; times in seconds, except tcp_user_timeout in milliseconds. When the network fails, the
# daemon notices on the lock session after 5 to 7 s. The server notices after 10 s and releases the lock then:
# in this order, so that the old leader has stopped before another one starts.
_LOCK_PARAMETERS: Final = {
    "keepalives": 1,
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 5000,
}
# The work session may wait longer: the lock session decides who leads.
_WORK_PARAMETERS: Final = {
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
_LOCK_LIMITS: Final = {"statement_timeout": "10s"}  # its statements take milliseconds
_WORK_LIMITS: Final = {"lock_timeout": "1min"}  # for locks that other sessions hold on tuned tables


class Leader:
    """Lead on one database for as long as the lock session holds the leader's lock.

    The lock session runs short statements only, so that the daemon can read and write through it while the
    work session is busy.
    """

    def __init__(self, conninfo: str, settings: Settings) -> None:
        self._conninfo = conninfo
        self._settings = settings
        self._lock_session: psycopg.Connection[Any] | None = None
        self._notified = False

    def _note(self, _: psycopg.Notify) -> None:
        self._notified = True

    @property
    def lock_session(self) -> psycopg.Connection[Any]:
        """The session of the lock. Raises psycopg.OperationalError if it is lost."""
        if self._lock_session is None:
            raise psycopg.OperationalError("the session that holds the leader's lock is lost")
        return self._lock_session

    def connect(self) -> None:
        """Open the lock session unless it is open. Raises DatabaseUnavailableError or UsageError."""
        if self._lock_session is None or self._lock_session.closed:
            self._lock_session = _open_guarded(self._conninfo, self._settings, _LOCK_PARAMETERS, _LOCK_LIMITS)
            # Those that arrive beside the result of a statement.
            self._lock_session.add_notify_handler(self._note)

    def acquire(self) -> bool:
        """Try to become the leader, and connect if necessary; return whether this is the leader."""
        self.connect()
        return storage.acquire_leader_lock(self.lock_session)

    def holds(self) -> bool:
        """Ask the server whether this is still the leader; False if the server cannot be asked."""
        if self._lock_session is None:
            return False
        try:
            return storage.holds_leader_lock(self._lock_session)
        except psycopg.Error:
            return False

    def poll(self) -> bool:
        """Read what the server sent, without a statement; return whether a notification was among it.

        Raises psycopg.OperationalError if the session is lost: the server ended it, or does not answer to
        keepalives.
        """
        session = self.lock_session
        notified, self._notified = self._notified, False
        with session.lock:
            session.pgconn.consume_input()
            while session.pgconn.notifies():
                notified = True
        return notified

    def close(self) -> None:
        """Close the lock session, which releases the lock."""
        if self._lock_session is not None:
            self._lock_session.close()
            self._lock_session = None


def open_work_session(conninfo: str, settings: Settings) -> psycopg.Connection[Any]:
    """Open the session in which the leader works; its statements wait at most a minute for a lock."""
    return _open_guarded(conninfo, settings, _WORK_PARAMETERS, _WORK_LIMITS)


def _open_guarded(
    conninfo: str, settings: Settings, parameters: Mapping[str, int], limits: Mapping[str, str]
) -> psycopg.Connection[Any]:
    """Open a session in which each end soon notices that the other one is gone."""
    conn = open_session(conninfo, settings.database, parameters=parameters, limits=limits)
    try:
        storage.detect_lost_clients(conn)
    except BaseException:
        conn.close()
        raise
    return conn
