"""`tune`: one line that lets an application's own statements use what vectuned has learned.

Imports the driver alone, and only when it is called.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from typing import Any, Final

from .recording import SEND, Recorder
from .snapshot import DEFAULT_MAX_AGE, Snapshot

log = logging.getLogger(__name__)

CHANNEL: Final = "vectuned"  # on which the daemon announces a publish
_SEND: Final = 2.0  # seconds between two messages with recorded statements
_CONNECT_AT_EXIT: Final = 2  # seconds: the shortest connect_timeout that libpq accepts
_RECONNECT: Final = 10.0  # seconds until a listener that lost its connection connects again

_snapshots: dict[object, Snapshot] = {}
_listeners: dict[tuple[str, int], threading.Thread] = {}
_lock: Final = threading.Lock()


def tune(
    target: Any,
    *,
    dsn: str | None = None,
    max_age: float = DEFAULT_MAX_AGE,
    record: float = 0.0,
    snapshot: Snapshot | None = None,
) -> Snapshot:
    """Send the statements of a connection, pool or engine with the settings that were learned for them.

    target: a connection of psycopg (sync or async), psycopg2 or asyncpg; a pool of asyncpg; an engine of
    SQLAlchemy (sync or async); a PGEngine or PGVector of LangChain, a PGVectorStore of LlamaIndex; a database
    connection of Django, `connections["default"]`. Pools of psycopg take it as their `configure`:
    `ConnectionPool(..., configure=client.tune)`.
    dsn: opens a connection of its own in a background thread, which listens and so learns of a publish at
    once. Without it the settings are read over the target's connections, when these are idle, every
    `max_age` seconds.
    record: the share of the statements that order by a distance whose texts and values that connection sends
    to the daemon to learn from, with vectuned.record_statements; 0: none.

    Returns the snapshot of the settings, with counters. Statements that nothing was learned for go out as
    they come. Raises TypeError for other targets, and ValueError for `record` without `dsn`.
    """
    if record and dsn is None:
        raise ValueError("record needs the dsn of a connection of its own, which sends what is recorded")
    attach, shared = _adapter(target)
    if snapshot is None and isinstance(shared, Snapshot):
        snapshot = shared
    elif snapshot is None:
        with _lock:
            snapshot = (
                Snapshot(max_age) if shared is None else _snapshots.setdefault(shared, Snapshot(max_age))
            )
    snapshot.max_age = max_age
    if record and (snapshot.recorder is None or snapshot.recorder.share != record):
        snapshot.recorder = Recorder(record)
    if dsn is not None:
        _listen(dsn, snapshot)
    attach(target, snapshot)
    return snapshot


async def tune_async(target: Any, **options: Any) -> Snapshot:
    """Tune an async connection or pool as `tune` does, and read the settings before its first statement.

    Also for pools of psycopg: `AsyncConnectionPool(..., configure=client.tune_async)`.
    """
    snapshot = tune(target, **options)
    packages = _packages(target)
    if "asyncpg" in packages:
        from .for_asyncpg import refresh_when_due

        await refresh_when_due(target, snapshot)
    elif "psycopg" in packages:
        from .for_psycopg import IDLE, refresh_async

        if target.pgconn.transaction_status == IDLE:
            await refresh_async(target, snapshot)
    return snapshot


def _adapter(target: Any) -> tuple[Any, object]:
    """Return what tunes a target, and the key that targets of the same database share a snapshot by.

    Instead of a key: the snapshot that the target has already, or None for one of its own.
    """
    package = _packages(target)
    if not package.isdisjoint(("langchain_postgres", "llama_index")):
        from .for_frameworks import find_engines, tune_engines
        from .for_sqlalchemy import find_snapshot

        engines = find_engines(target)
        if engines:
            return tune_engines, find_snapshot(engines[0])
    if "sqlalchemy" in package:
        from .for_sqlalchemy import find_snapshot, tune_engine

        engine = getattr(target, "sync_engine", target)
        if hasattr(engine, "dialect") and hasattr(engine, "pool"):
            return tune_engine, find_snapshot(engine)
    if "django" in package and hasattr(target, "get_new_connection"):
        from .for_django import tune_wrapper

        return tune_wrapper, ("django", target.alias)
    if "psycopg" in package:
        import psycopg

        from . import for_psycopg

        if isinstance(target, psycopg.Connection):
            return for_psycopg.tune_connection, _database(target.info)
        if isinstance(target, psycopg.AsyncConnection):
            return for_psycopg.tune_async_connection, _database(target.info)
    if "psycopg2" in package:
        from . import for_psycopg2

        if hasattr(target, "cursor_factory"):
            return for_psycopg2.tune_connection, _database(target.info)
    if "asyncpg" in package:
        import asyncpg

        from . import for_asyncpg

        if isinstance(target, asyncpg.Pool):
            return for_asyncpg.tune_pool, getattr(target._connection_class, "_vectuned", None)
        if isinstance(target, asyncpg.Connection):
            return for_asyncpg.tune_connection, ("asyncpg", str(target._addr), target._params.database)
    raise TypeError(
        f"vectuned cannot tune a {type(target).__module__}.{type(target).__qualname__}: give it a connection "
        "of psycopg, psycopg2, asyncpg or Django, a pool of asyncpg, an engine of SQLAlchemy, or a PGEngine, "
        "PGVector or PGVectorStore."
    )


def _packages(target: Any) -> set[str]:
    """Return the top-level packages that an object's classes come from."""
    return {kind.__module__.partition(".")[0] for kind in type(target).__mro__}


def _database(info: Any) -> tuple[str, str, int, str]:
    """Return what identifies a database and the role, which may not be allowed to read the table."""
    return (info.dbname, info.host or "", int(info.port or 0), info.user)


def _listen(dsn: str, snapshot: Snapshot) -> None:
    """Keep a snapshot fresh in a background thread, one for each dsn and snapshot."""
    key = (dsn, id(snapshot))  # the thread keeps the snapshot, so that no other has its id
    with _lock:
        thread = _listeners.get(key)
        if thread is None or not thread.is_alive():
            thread = threading.Thread(
                target=_keep_fresh, args=(dsn, snapshot), name="vectuned-listener", daemon=True
            )
            _listeners[key] = thread
            thread.start()
            # A short process ends before the listener has sent what was recorded.
            atexit.register(_send_at_exit, dsn, snapshot, os.getpid())


def _keep_fresh(dsn: str, snapshot: Snapshot) -> None:
    while True:
        try:
            _follow(dsn, snapshot)
        except ImportError:
            log.warning(
                "vectuned needs psycopg for a connection of its own; the settings are read by age alone"
            )
            return
        except Exception as error:
            snapshot.counters.count_failure("listener")
            log.info("the listener of vectuned lost its connection: %s", error)
        time.sleep(_RECONNECT)


def _follow(dsn: str, snapshot: Snapshot) -> None:
    """Read the settings at each notification, and when they are due."""
    import psycopg

    from .for_psycopg import refresh

    with psycopg.connect(dsn, autocommit=True) as conn:
        try:
            conn.execute(f"LISTEN {CHANNEL}".encode())
        except psycopg.Error:  # a standby cannot listen; the age decides there
            snapshot.counters.count_failure("listen")
        while True:
            refresh(conn, snapshot)
            snapshot.postpone()
            if snapshot.recorder is None:
                for _ in conn.notifies(timeout=snapshot.max_age, stop_after=1):
                    pass
                continue
            end = time.monotonic() + snapshot.max_age
            while time.monotonic() < end:
                _send(conn, snapshot)
                if any(True for _ in conn.notifies(timeout=min(snapshot.max_age, _SEND), stop_after=1)):
                    break


def _send_at_exit(dsn: str, snapshot: Snapshot, process: int) -> None:
    """Send what was recorded but not sent yet; if the database does not answer, give up after seconds."""
    # A child that was forked has copies of what its parent sends.
    if os.getpid() != process or snapshot.recorder is None or not snapshot.recorder.is_waiting:
        return
    try:
        import psycopg

        with (
            psycopg.connect(dsn, autocommit=True, connect_timeout=_CONNECT_AT_EXIT) as conn,
            conn.transaction(),
        ):
            # Local, since a pooler may give the session to others afterwards.
            conn.execute(f"SET LOCAL statement_timeout = '{_CONNECT_AT_EXIT}s'".encode())
            _send(conn, snapshot)
    except Exception as error:
        log.info("the statements recorded last were not sent: %s", error)


def _send(conn: Any, snapshot: Snapshot) -> None:
    """Send what was recorded; what the database refuses is only counted."""
    import psycopg

    recorder = snapshot.recorder
    while recorder is not None and (document := recorder.take()) is not None:
        try:
            with psycopg.RawCursor(conn) as cursor:
                (taken,) = cursor.execute(SEND.encode(), (document,)).fetchone() or (0,)
        except psycopg.Error:
            if conn.closed:
                raise
            # Without the function, or on a standby: nothing is recorded there.
            snapshot.counters.count_failure("record")
            return
        recorder.counts["taken"] += int(taken)
