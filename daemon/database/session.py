"""Open a session for vectuned's work: requirements checked, limits set, vector types registered."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import psycopg
from pgvector.psycopg import register_vector
from psycopg import sql
from psycopg.rows import TupleRow

from vectuned.config.errors import UsageError
from vectuned.config.sections import DatabaseSettings
from vectuned.learning.replay.lock_watch import LockWaitError, LockWatch, give_way
from vectuned.sql.requirements import unmet
from vectuned.sql.rows import execute, fetch_row

from .connect import connect

log = logging.getLogger(__name__)
T = TypeVar("T")

_DEFAULTS: Final = DatabaseSettings()
_ATTEMPTS: Final = 5  # at work in a snapshot, before a user is told that the table is never free for long
_LIMITS: Final = {
    "statement_timeout": "1h",  # replaying has limits of its own; this one ends what they miss
    "lock_timeout": "30s",
    "idle_in_transaction_session_timeout": "1h",
    "transaction_timeout": "0",  # off; snapshots of long measurements may last for hours
}
"""Limits of our sessions; those set for the database or the role are meant for applications."""


def open_session(
    conninfo: str,
    database: DatabaseSettings = _DEFAULTS,
    *,
    parameters: Mapping[str, int] | None = None,
    limits: Mapping[str, str] | None = None,
) -> psycopg.Connection[TupleRow]:
    """Connect in autocommit mode to a database with vectuned installed, and register the vector types.

    A statement may take an hour and wait half a minute for a lock, unless `limits` say otherwise.

    Raises UsageError if vectuned is not installed or pgvector does not meet the requirements,
    DatabaseUnavailableError if there is no connection.
    """
    conn = connect(conninfo, database, parameters=parameters)
    try:
        for name, limit in {**_LIMITS, **(limits or {})}.items():
            execute(conn, "session_limit", {"name": name, "limit": limit})
        _check_installation(conn)
        execute(conn, "add_pgvector_to_search_path")
        register_vector(conn)
    except BaseException:
        conn.close()
        raise
    return conn


@contextmanager
def snapshot(conn: psycopg.Connection[Any]) -> Iterator[LockWatch]:
    """Open a transaction on one snapshot, without a statement timeout; `conn` must be in no transaction.

    If another session waits for a lock of it, the running statement is cancelled and LockWaitError raised.
    """
    with conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        conn.execute("SET LOCAL statement_timeout = 0")
        with give_way(conn) as watch:
            yield watch


def in_snapshot(
    conn: psycopg.Connection[Any], work: Callable[[LockWatch], T], pause: Callable[[float], None] = time.sleep
) -> T:
    """Do work in a `snapshot`, again from the start whenever it gave way to a session that waits for a lock.

    `work` may call `check` of the watch between statements. Raises LockWaitError where it gave way five
    times; the pauses between, of 1 to 8 seconds, leave the table to the sessions that wait.
    """
    for attempt in range(_ATTEMPTS):
        if attempt:
            pause(2.0 ** (attempt - 1))
        try:
            with snapshot(conn) as watch:
                return work(watch)
        except LockWaitError as error:
            log.info("%s", error, extra={"action": "gave_way"})
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError


def _check_installation(conn: psycopg.Connection[Any]) -> None:
    """Raise UsageError unless the role may use an installed vectuned and pgvector meets the requirements."""
    database = conn.info.dbname
    found = fetch_row(conn, "installed")
    if found.installed is None:
        role = sql.Identifier(conn.info.user).as_string(conn)
        raise UsageError(
            f"The role {role} may not use the schema vectuned in database {database}: "
            f"GRANT vectuned_user TO {role}, or vectuned_admin or vectuned_daemon."
        )
    if not found.installed:
        raise UsageError(
            f"vectuned is not installed in database {database}: run `vectuned migrate` there first."
        )
    if problem := unmet(conn.info.server_version, found.pgvector):
        raise UsageError(f"On database {database}: {problem}")
    if found.moved_to is not None:
        raise UsageError(
            f"pgvector was moved to schema {found.moved_to} of database {database} since vectuned was "
            "installed there; searches fail until you run `vectuned migrate`."
        )
