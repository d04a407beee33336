"""Cursors of psycopg 3, sync and async, that send learned settings along with the statements they are for.

Settings and statement go out in a pipeline: one round trip. Outside of a transaction the pipeline is one, so
settings that are local to it end with the statement; inside of one they are put back by a third statement.
"""

from __future__ import annotations

import asyncio
import threading
from functools import cache
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import pq
from psycopg.sql import Composable

from .snapshot import BOUND, LOAD, PROBE, PROBED, LocalSettings, Snapshot

IDLE = pq.TransactionStatus.IDLE
INTRANS = pq.TransactionStatus.INTRANS

if TYPE_CHECKING:
    _Cursor = psycopg.Cursor[Any]
    _AsyncCursor = psycopg.AsyncCursor[Any]
else:
    _Cursor = _AsyncCursor = object


def tune_connection(conn: psycopg.Connection[Any], snapshot: Snapshot) -> None:
    """Give a connection cursors that send learned settings, and the snapshot a first copy if it can."""
    if not issubclass(conn.cursor_factory, TunedCursor):
        factory: Any = conn.cursor_factory
        conn.cursor_factory = cursor_class(factory)
    conn._vectuned = _Attachment(snapshot, conn)  # type: ignore[attr-defined]  # where its cursors look
    if conn.pgconn.transaction_status == IDLE and snapshot.claim_refresh():
        refresh(conn, snapshot)


def tune_async_connection(conn: psycopg.AsyncConnection[Any], snapshot: Snapshot) -> None:
    """Give an async connection such cursors; the first statement reads the snapshot if it is due."""
    if not issubclass(conn.cursor_factory, TunedAsyncCursor):
        factory: Any = conn.cursor_factory
        conn.cursor_factory = async_cursor_class(factory)
    conn._vectuned = _Attachment(snapshot, conn)  # type: ignore[attr-defined]  # where its cursors look


@cache
def cursor_class(base: Any) -> Any:
    """Return the class of tuned cursors that extends a class of cursors."""
    return type(f"Tuned{base.__name__}", (TunedCursor, base), {"__module__": __name__})


@cache
def async_cursor_class(base: Any) -> Any:
    """Return the class of tuned cursors that extends a class of async cursors."""
    return type(f"Tuned{base.__name__}", (TunedAsyncCursor, base), {"__module__": __name__})


def refresh(conn: psycopg.Connection[Any], snapshot: Snapshot) -> None:
    """Read the snapshot over a connection that is in no transaction; a failure is only counted.

    Below psycopg, so that its transaction, row factory and adapters are left alone.
    """
    with conn.lock:
        probed = _fetch(conn.pgconn, PROBE) or []
        rows = (
            _fetch(conn.pgconn, f"{BOUND}; {LOAD}") if probed and int(probed[0][0] or 0) == PROBED else None
        )
    _take_over(snapshot, rows)


async def refresh_async(conn: Any, snapshot: Snapshot) -> None:
    """Read the snapshot, if it is due, over a connection that is in no transaction.

    A transaction that psycopg begins for it is rolled back.
    """
    if conn.pgconn.pipeline_status or not snapshot.claim_refresh():
        return
    rows = None
    try:
        reader = psycopg.AsyncCursor(conn, row_factory=psycopg.rows.tuple_row)
        probed = await (await reader.execute(PROBE)).fetchone()
        if probed == (PROBED,):
            await reader.execute(f"{BOUND}; {LOAD}".encode())
            while reader.nextset():  # to the rows of LOAD
                pass
            rows = await reader.fetchall()
    except psycopg.Error:
        rows = None
    finally:
        if not conn.closed and not conn.autocommit:
            await conn.rollback()
    _take_over(snapshot, rows)


def _fetch(pgconn: pq.abc.PGconn, statement: str) -> list[tuple[str | None, ...]] | None:
    """Run statements and return the last one's rows as texts, None if one fails."""
    result = pgconn.exec_(statement.encode())
    if result.status != pq.ExecStatus.TUPLES_OK:
        return None
    values = [
        [result.get_value(row, column) for column in range(result.nfields)] for row in range(result.ntuples)
    ]
    return [
        tuple(None if value is None else value.decode(errors="replace") for value in row) for row in values
    ]


def _take_over(snapshot: Snapshot, rows: list[tuple[str | None, ...]] | None) -> None:
    if rows is None:
        snapshot.forget("no table to read")
    else:
        snapshot.replace((name, int(k_class or 0), document) for name, k_class, document in rows)


class _Attachment:
    """What a tuned connection carries: the snapshot, and a cursor that sends the settings."""

    __slots__ = ("_conn", "_sender", "async_lock", "lock", "snapshot")

    def __init__(self, snapshot: Snapshot, conn: Any) -> None:
        self.snapshot = snapshot
        # Held while the settings are in force, against statements of other threads or tasks that share the
        # connection: they would be sent in the same pipeline.
        self.lock = threading.RLock()
        self.async_lock = asyncio.Lock()
        self._conn = conn
        self._sender: Any = None

    @property
    def sender(self) -> Any:
        """Return the cursor, an untuned one of psycopg itself."""
        if self._sender is None or self._sender.closed:
            is_async = isinstance(self._conn, psycopg.AsyncConnection)
            self._sender = (psycopg.AsyncCursor if is_async else psycopg.Cursor)(self._conn)
        return self._sender


def _find(cursor: Any, query: Any, params: Any) -> tuple[Any, LocalSettings | None]:
    """Return the query, composed if it has to be looked at, and the settings to send with it."""
    snapshot = cursor._conn._vectuned.snapshot
    if not isinstance(query, str):
        if isinstance(query, Composable):
            query = query.as_string(cursor._conn)
        elif isinstance(query, bytes):
            return query, snapshot.find(query.decode(errors="replace"), params)
        else:  # a template string
            return query, None
    return query, snapshot.find(query, params)


def _as_text(query: Any, conn: Any) -> Any:
    """Return the text of a query, or what it is if it has none."""
    if isinstance(query, Composable):
        return query.as_string(conn)
    return query.decode(errors="replace") if isinstance(query, bytes) else query


def _is_alone(cursor: Any) -> bool | None:
    """Say whether the next statement will be a transaction of its own; None if it cannot have settings."""
    conn = cursor._conn
    status = conn.pgconn.transaction_status
    if conn.pgconn.pipeline_status:
        # Others may be queued behind it in the same implicit transaction.
        return False if conn.pgconn.pipeline_status == pq.PipelineStatus.ON else None
    if status == IDLE:
        return bool(conn.autocommit)
    return False if status == INTRANS else None


class TunedCursor(_Cursor):
    """Mixin of cursors that send learned settings."""

    def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
        """Execute a query as the base class does, with its learned settings if there are any."""
        attachment: _Attachment | None = getattr(self._conn, "_vectuned", None)
        if attachment is None:
            return super().execute(query, params, **options)
        with attachment.lock:
            started = attachment.snapshot.start()
            result = self._execute_tuned(attachment, query, params, options)
            if started:
                attachment.snapshot.record(_as_text(query, self._conn), params, started)
            return result

    def _execute_tuned(
        self, attachment: _Attachment, query: Any, params: Any, options: dict[str, Any]
    ) -> Any:
        if attachment.snapshot.is_due and self._conn.pgconn.transaction_status == IDLE:
            self._refresh(attachment.snapshot)
        query, settings = _find(self, query, params)
        if settings is None:
            return super().execute(query, params, **options)
        counters = attachment.snapshot.counters
        alone = _is_alone(self)
        if alone is None or not psycopg.Pipeline.is_supported():
            counters.count_untouched("failed transaction" if alone is None else "no pipelines")
            return super().execute(query, params, **options)
        sender = attachment.sender
        counters.tuned += 1
        try:
            if self._conn.pgconn.pipeline_status:
                # Not a pipeline within it: the end of that would commit what is queued.
                sender.execute(settings.save_and_apply)
                super().execute(query, params, **options)
                sender.execute(settings.restore)
            else:
                with self._conn.pipeline():
                    sender.execute(settings.apply if alone else settings.save_and_apply)
                    super().execute(query, params, **options)
                    if not alone:
                        sender.execute(settings.restore)
        except psycopg.Error:
            if not (alone and _failed(sender) and self._conn.pgconn.transaction_status == IDLE):
                raise
            counters.tuned -= 1
            counters.count_untouched("settings refused")
            return super().execute(query, params, **options)
        return self

    def _refresh(self, snapshot: Snapshot) -> None:
        if not self._conn.pgconn.pipeline_status and snapshot.claim_refresh():
            refresh(self._conn, snapshot)


class TunedAsyncCursor(_AsyncCursor):
    """Mixin of async cursors that send learned settings."""

    async def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
        """Execute a query as the base class does, with its learned settings if there are any."""
        attachment: _Attachment | None = getattr(self._conn, "_vectuned", None)
        if attachment is None:
            return await super().execute(query, params, **options)
        async with attachment.async_lock:
            started = attachment.snapshot.start()
            result = await self._execute_tuned(attachment, query, params, options)
            if started:
                attachment.snapshot.record(_as_text(query, self._conn), params, started)
            return result

    async def _execute_tuned(
        self, attachment: _Attachment, query: Any, params: Any, options: dict[str, Any]
    ) -> Any:
        if attachment.snapshot.is_due and self._conn.pgconn.transaction_status == IDLE:
            await refresh_async(self._conn, attachment.snapshot)
        query, settings = _find(self, query, params)
        if settings is None:
            return await super().execute(query, params, **options)
        counters = attachment.snapshot.counters
        alone = _is_alone(self)
        if alone is None or not psycopg.AsyncPipeline.is_supported():
            counters.count_untouched("failed transaction" if alone is None else "no pipelines")
            return await super().execute(query, params, **options)
        sender = attachment.sender
        counters.tuned += 1
        try:
            if self._conn.pgconn.pipeline_status:
                # Not a pipeline within it: the end of that would commit what is queued.
                await sender.execute(settings.save_and_apply)
                await super().execute(query, params, **options)
                await sender.execute(settings.restore)
            else:
                async with self._conn.pipeline():
                    await sender.execute(settings.apply if alone else settings.save_and_apply)
                    await super().execute(query, params, **options)
                    if not alone:
                        await sender.execute(settings.restore)
        except psycopg.Error:
            if not (alone and _failed(sender) and self._conn.pgconn.transaction_status == IDLE):
                raise
            counters.tuned -= 1
            counters.count_untouched("settings refused")
            return await super().execute(query, params, **options)
        return self


def _failed(sender: Any) -> bool:
    """Say whether the settings, and not the statement after them, were refused."""
    return sender.pgresult is None
