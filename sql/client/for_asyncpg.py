"""Connections of asyncpg that send learned settings before the statements they are for.

asyncpg has no pipelines, so a statement with settings takes two more round trips: within a transaction, one
to set and one to put back; outside of one, one to begin a transaction with the settings and one to end it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any

import asyncpg

from .snapshot import BOUND, LOAD, PROBE, PROBED, Snapshot

_plain_execute = asyncpg.Connection.execute


def tune_connection(conn: Any, snapshot: Snapshot) -> None:
    """Let a connection send learned settings from now on."""
    conn.__class__ = connection_class(_untuned(type(conn)), snapshot)


def tune_pool(pool: Any, snapshot: Snapshot) -> None:
    """Let the connections of a pool send learned settings, those that it will open and those that it has."""
    pool._connection_class = connection_class(_untuned(pool._connection_class), snapshot)
    for holder in pool._holders:
        if holder._con is not None:
            tune_connection(holder._con, snapshot)


def _untuned(kind: Any) -> Any:
    base: Any = kind.__mro__[1] if getattr(kind, "_vectuned", None) is not None else kind
    return base


async def refresh(conn: Any, snapshot: Snapshot) -> None:
    """Read the snapshot over a connection that is in no transaction; a failure is only counted."""
    rows = None
    try:
        if await asyncpg.Connection.fetchval(conn, PROBE) == PROBED:
            async with conn.transaction():
                await _plain_execute(conn, BOUND)
                rows = [tuple(row) for row in await asyncpg.Connection.fetch(conn, LOAD)]
    except (asyncpg.PostgresError, asyncpg.InterfaceError):
        rows = None
    if rows is None:
        snapshot.forget("no table to read")
    else:
        snapshot.replace(rows)


async def refresh_when_due(target: Any, snapshot: Snapshot) -> None:
    """Read the snapshot over a connection, or one of a pool, if it is due."""
    if isinstance(target, asyncpg.Pool):
        async with target.acquire() as conn:
            await conn.fetchval("SELECT 1")
    elif not target.is_in_transaction() and snapshot.claim_refresh():
        await refresh(target, snapshot)


@cache
def connection_class(base: Any, snapshot: Snapshot) -> Any:
    """Return a class of connections that extends another and sends learned settings."""

    class TunedConnection(base):  # type: ignore[misc]  # known when it runs
        __slots__ = ()
        _vectuned = snapshot

        async def fetch(self, query: str, *args: Any, **options: Any) -> Any:
            return await _run(self, base.fetch, query, args, options)

        async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
            return await _run(self, base.fetchrow, query, args, options)

        async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
            return await _run(self, base.fetchval, query, args, options)

    return TunedConnection


async def _run(
    conn: Any,
    method: Callable[..., Awaitable[Any]],
    query: str,
    args: tuple[Any, ...],
    options: dict[str, Any],
) -> Any:
    snapshot: Snapshot = conn._vectuned
    if snapshot.is_due and not conn.is_in_transaction() and snapshot.claim_refresh():
        await refresh(conn, snapshot)
    started = snapshot.start()
    result = await _run_tuned(conn, method, query, args, options)
    if started:
        snapshot.record(query, args, started)
    return result


async def _run_tuned(
    conn: Any,
    method: Callable[..., Awaitable[Any]],
    query: str,
    args: tuple[Any, ...],
    options: dict[str, Any],
) -> Any:
    snapshot: Snapshot = conn._vectuned
    settings = snapshot.find(query, args)
    if settings is None:
        return await method(conn, query, *args, **options)
    snapshot.counters.tuned += 1
    if conn.is_in_transaction():
        await _plain_execute(conn, settings.save_and_apply)
        result = await method(conn, query, *args, **options)
        await _plain_execute(conn, settings.restore)
        return result
    await _plain_execute(conn, f"BEGIN; {settings.apply}")
    try:
        result = await method(conn, query, *args, **options)
    except BaseException:
        if not conn.is_closed():
            await _plain_execute(conn, "ROLLBACK")
        raise
    await _plain_execute(conn, "COMMIT")
    return result
