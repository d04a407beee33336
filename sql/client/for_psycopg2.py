"""Cursors of psycopg2 that send learned settings along with the statements they are for.

Settings and statement go out as one text of the simple protocol: one round trip. Only the last result of such
a text can be fetched, so in a longer transaction the values before are put back in front of the next
statement of the connection.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

import psycopg2
from psycopg2 import extensions
from psycopg2.sql import Composable

from .snapshot import BOUND, LOAD, PROBE, PROBED, LocalSettings, Snapshot

IDLE: Final = extensions.TRANSACTION_STATUS_IDLE
INTRANS: Final = extensions.TRANSACTION_STATUS_INTRANS

_Cursor: Any = extensions.cursor if TYPE_CHECKING else object


class _Attachment:
    """What a tuned connection carries: the snapshot, and settings of its transaction to be put back."""

    __slots__ = ("pending", "snapshot")

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.pending: LocalSettings | None = None


class _Factory:
    """Makes the cursors of one connection: its objects take no attributes, so their factory holds them."""

    def __init__(self, base: Any, snapshot: Snapshot) -> None:
        self.base = base
        self._class = cursor_class(base)
        self._attachment = _Attachment(snapshot)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        cursor = self._class(*arguments, **options)
        cursor._vectuned = self._attachment
        return cursor


def tune_connection(conn: Any, snapshot: Snapshot) -> None:
    """Give a connection cursors that send learned settings, and the snapshot a first copy if it can."""
    base = conn.cursor_factory or extensions.cursor
    conn.cursor_factory = _Factory(base.base if isinstance(base, _Factory) else base, snapshot)
    if conn.info.transaction_status == IDLE and snapshot.claim_refresh():
        refresh(conn, snapshot)


@cache
def cursor_class(base: type[Any]) -> type[Any]:
    """Return the class of tuned cursors that extends a class of cursors."""
    return type(f"Tuned{base.__name__}", (TunedCursor, base), {"__module__": __name__})


def refresh(conn: Any, snapshot: Snapshot) -> None:
    """Read the snapshot over a connection that is in no transaction; a failure is only counted."""
    rows = None
    try:
        with extensions.cursor(conn) as reader:
            reader.execute(PROBE)
            if reader.fetchone() == (PROBED,):
                reader.execute(f"{BOUND}; {LOAD}")
                rows = reader.fetchall()
    except psycopg2.Error:
        rows = None
    finally:
        if not conn.closed and not conn.autocommit:
            conn.rollback()
    if rows is None:
        snapshot.forget("no table to read")
    else:
        snapshot.replace(rows)


class TunedCursor(_Cursor):  # type: ignore[misc]  # psycopg2 has no types
    """Mixin of cursors that send learned settings."""

    _vectuned: _Attachment

    def execute(self, query: Any, vars: Any = None) -> None:
        """Execute a query as the base class does, with its learned settings if there are any."""
        snapshot = self._vectuned.snapshot
        started = snapshot.start()
        self._execute_tuned(query, vars)
        if started:
            text = query.as_string(self.connection) if isinstance(query, Composable) else query
            snapshot.record(text, vars, started)

    def _execute_tuned(self, query: Any, vars: Any) -> None:
        attachment, status = self._vectuned, self.connection.info.transaction_status
        snapshot = attachment.snapshot
        if status == IDLE:
            attachment.pending = None
            if snapshot.is_due and snapshot.claim_refresh():
                refresh(self.connection, snapshot)
        if isinstance(query, Composable):
            query = query.as_string(self.connection)
        text = query.decode(errors="replace") if isinstance(query, bytes) else query
        settings = snapshot.find(text, vars) if isinstance(text, str) else None
        if settings is not None and (self.name is not None or status not in (IDLE, INTRANS)):
            snapshot.counters.count_untouched(
                "server-side cursor" if self.name is not None else "failed transaction"
            )
            settings = None
        if self.name is not None:
            self._put_back()
        if settings is None and (attachment.pending is None or status != INTRANS):
            super().execute(query, vars)
            return
        before = attachment.pending.restore + "; " if attachment.pending is not None else ""
        alone = status == IDLE and self.connection.autocommit
        if settings is not None:
            before += (settings.apply if alone else settings.save_and_apply) + "; "
            snapshot.counters.tuned += 1
        # Settings saved by a statement that fails are gone with its transaction.
        attachment.pending = None if alone else settings
        super().execute(before.encode() + self.mogrify(query, vars))

    def executemany(self, query: Any, vars_list: Any) -> None:
        """Execute a query for each of several parameters, as the base class does."""
        self._put_back()
        super().executemany(query, vars_list)

    def callproc(self, *arguments: Any) -> Any:
        """Call a function, as the base class does."""
        self._put_back()
        return super().callproc(*arguments)

    def copy_expert(self, *arguments: Any, **options: Any) -> None:
        """Copy, as the base class does."""
        self._put_back()
        super().copy_expert(*arguments, **options)

    def _put_back(self) -> None:
        """Put back the settings of the transaction, where the next statement cannot bring that along."""
        pending, self._vectuned.pending = self._vectuned.pending, None
        if pending is not None and self.connection.info.transaction_status == INTRANS:
            with extensions.cursor(self.connection) as sender:
                sender.execute(pending.restore)
