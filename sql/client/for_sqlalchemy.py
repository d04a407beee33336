"""Engines of SQLAlchemy, sync and async, that send learned settings along with their statements.

The connections of psycopg and psycopg2 get tuned cursors when they are checked out of the pool. For asyncpg,
whose cursors are SQLAlchemy's own, events around each execution set and put back.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import event

from .snapshot import LocalSettings, Snapshot

_DRIVERS = ("psycopg", "psycopg2", "asyncpg")

_tuned: WeakKeyDictionary[Any, Snapshot] = WeakKeyDictionary()


def find_snapshot(engine: Any) -> Snapshot | None:
    """Return the snapshot of an engine that was tuned before."""
    return _tuned.get(getattr(engine, "sync_engine", engine))


def tune_engine(engine: Any, snapshot: Snapshot) -> None:
    """Let an engine, sync or async, send learned settings; TypeError if its driver is none of ours."""
    sync_engine = getattr(engine, "sync_engine", engine)
    if _tuned.get(sync_engine) is snapshot:
        return
    driver = sync_engine.dialect.driver
    if sync_engine.dialect.name != "postgresql" or driver not in _DRIVERS:
        raise TypeError(
            f"vectuned cannot tune an engine of {sync_engine.dialect.name}+{driver}: "
            "use postgresql with psycopg, psycopg2 or asyncpg."
        )
    _tuned[sync_engine] = snapshot
    event.listen(sync_engine, "checkout", _Checkout(driver, snapshot))
    if driver == "asyncpg":
        events = _AsyncpgEvents(snapshot)
        event.listen(sync_engine, "before_cursor_execute", events.before)
        event.listen(sync_engine, "after_cursor_execute", events.after)


class _Checkout:
    """Prepares a connection that leaves the pool."""

    def __init__(self, driver: str, snapshot: Snapshot) -> None:
        self._driver = driver
        self._snapshot = snapshot

    def __call__(self, dbapi_connection: Any, record: Any, _proxy: Any) -> None:
        snapshot = self._snapshot
        if self._driver == "asyncpg":
            if snapshot.claim_refresh():
                from .for_asyncpg import refresh

                dbapi_connection.run_async(lambda conn: refresh(conn, snapshot))
            return
        if record.info.get("vectuned") is snapshot:
            return
        record.info["vectuned"] = snapshot
        if self._driver == "psycopg2":
            from . import for_psycopg2

            for_psycopg2.tune_connection(dbapi_connection, snapshot)
            return
        from . import for_psycopg

        driven = getattr(dbapi_connection, "driver_connection", dbapi_connection)
        if driven is dbapi_connection:
            for_psycopg.tune_connection(dbapi_connection, snapshot)
        else:  # what SQLAlchemy wraps an async connection in
            for_psycopg.tune_async_connection(driven, snapshot)


class _AsyncpgEvents:
    """Sets before a statement and puts back after it, each by a statement of its own."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def before(
        self, conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
    ) -> None:
        """Send the settings of a statement."""
        context._vectuned_started = 0.0 if executemany else self._snapshot.start()
        settings = None if executemany else self._snapshot.find(statement, parameters)
        if settings is None:
            return
        reason = _obstacle(conn.connection.dbapi_connection, cursor)
        if reason:
            self._snapshot.counters.count_untouched(reason)
            return
        _send(conn, settings.save_and_apply)
        context._vectuned = settings
        self._snapshot.counters.tuned += 1

    def after(
        self, conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
    ) -> None:
        """Put back what was in force before."""
        settings: LocalSettings | None = getattr(context, "_vectuned", None)
        if settings is not None:
            _send(conn, settings.restore)
        if started := getattr(context, "_vectuned_started", 0.0):
            self._snapshot.record(statement, parameters, started)


def _obstacle(dbapi_connection: Any, cursor: Any) -> str:
    """Say why a statement cannot have settings; empty if it can."""
    if getattr(cursor, "server_side", False):
        return "server-side cursor"
    return "autocommit" if getattr(dbapi_connection, "isolation_level", "") == "autocommit" else ""


def _send(conn: Any, statement: str) -> None:
    cursor = conn.connection.cursor()
    try:
        cursor.execute(statement)
    finally:
        cursor.close()
