"""Replays calls as they were sent: those of joins, subqueries and other statements over more than one table.

The exact answer is what the statement returns without index scans: HNSW and IVFFlat have no other kind. The
same statement then runs with each group of settings that may serve it, in one read-only snapshot.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final

import psycopg

from vectuned.learning.model.scan_settings import (
    CONTINUED_EFFORTS,
    CONTINUED_PROBES,
    EXACT,
    Settings,
    continued_hnsw_settings,
    continued_ivfflat_settings,
    hnsw_settings,
    ivfflat_settings,
)
from vectuned.learning.model.tuned_columns import TunedColumn
from vectuned.learning.statements.guard import find_untrusted, find_volatile
from vectuned.learning.statements.plan import output_distance
from vectuned.learning.statements.preparation import NAME, explain, prepared_statement, quote
from vectuned.learning.statements.tokens import tokenize
from vectuned.sql.files import trusted
from vectuned.sql.rows import execute, fetch_rows, fetch_value

from .lock_watch import LockWaitError, give_way
from .scan import SCAN_TIMEOUT_MS, is_fatal
from .work_timer import WorkTimer

log = logging.getLogger(__name__)

# ef_search of scans that are not continued, above the one in force: doubling, as few statements are replayed.
_EFFORTS: Final = (80, 160, 320, 640)
_PROBES: Final = (3, 8, 20, 50)  # the same of IVFFlat
_EPSILON: Final = 1e-9  # relative, between distances of the same rows: the same function computes both
# Errors whose messages quote names only: no such table, column or function, and no right.
_ABOUT_NAMES: Final = ("42P01", "42703", "42883", "42501")
_MOST_ROWS: Final = 1_000  # rows compared: the largest k that is tuned


@dataclass(frozen=True)
class TextPath:
    """A group of settings that may serve a statement; `effort` is its ef_search or probes, if it has one."""

    name: str
    effort: int | None
    settings: Settings


@dataclass(frozen=True)
class PendingText:
    """A call to replay: `parameters` are the texts of $1, $2 ..., None for NULL."""

    number: int
    k: int
    text: str
    parameters: tuple[str | None, ...]
    search_path: str | None


@dataclass(frozen=True)
class _Answer:
    """What a statement returned: ascending distances if its output has them, else its rows; and the time."""

    distances: list[float] | None
    rows: list[tuple[bytes | None, ...]]
    ms: float

    def recall_of(self, other: _Answer) -> float:
        """Return the share of this answer, the exact one, that another one found."""
        if self.distances and other.distances is not None:
            bound = self.distances[-1] + _EPSILON * max(abs(self.distances[-1]), 1.0)
            found, whole = sum(distance <= bound for distance in other.distances), len(self.distances)
        else:
            found, whole = (Counter(self.rows) & Counter(other.rows)).total(), len(self.rows)
        return min(found / whole, 1.0) if whole else 1.0


def text_paths(tuned: TunedColumn, k: int) -> list[TextPath]:
    """Return the paths that a statement is replayed with, exact search first, others in ascending effort."""
    exact = TextPath("exact", None, EXACT)
    if tuned.indexes and tuned.indexes[0].method == "ivfflat":
        probes = [p for p in _PROBES if p > tuned.default_probes]
        return [
            exact,
            *(TextPath("ivfflat", p, ivfflat_settings(p)) for p in (tuned.default_probes, *probes)),
            *(TextPath("ivfflat_continued", p, continued_ivfflat_settings(p)) for p in CONTINUED_PROBES),
        ]
    efforts = [ef for ef in _EFFORTS if ef > tuned.default_ef]
    return [
        exact,
        *(TextPath("hnsw", ef, hnsw_settings(ef, k)) for ef in (tuned.default_ef, *efforts)),
        *(TextPath("hnsw_continued", ef, continued_hnsw_settings(ef, k)) for ef in CONTINUED_EFFORTS),
    ]


def count_pending_texts(conn: psycopg.Connection[Any], tuned: TunedColumn) -> int:
    """Return how many calls of a column wait to be replayed as text."""
    return int(fetch_value(conn, "count_pending_text_calls", _column(tuned)))


def replay_texts(
    conn: psycopg.Connection[Any],
    tuned: TunedColumn,
    count: int,
    *,
    reader: psycopg.Connection[Any] | None = None,
    progress: Callable[[int], None] | None = None,
    timeout_ms: int = SCAN_TIMEOUT_MS,
    timer: WorkTimer | None = None,
) -> int:
    """Replay up to `count` calls of a column as text, the newest first; return how many.

    `conn` must be in autocommit mode. Each call has a transaction of its own, on `reader` if there is one,
    and no statement of it takes longer than `timeout_ms`. A call without an exact answer, because that takes
    too long or the server refuses it, is not tried again. Ends early when another session waits for a lock.
    """
    rows = fetch_rows(conn, "pending_text_calls", {**_column(tuned), "count": count})
    started, done = perf_counter(), 0
    for row in rows:
        call = PendingText(row.call_no, row.k_class, row.text, tuple(row.parameters or ()), row.search_path)
        outcomes, failure = None, None
        try:
            outcomes = _replay(reader or conn, tuned, call, timeout_ms)
        except LockWaitError:
            break
        except _RefusedError as error:
            failure = str(error)
        values = {
            "call_no": call.number,
            "generations": sorted(tuned.generations),
            "outcomes": None if outcomes is None else json.dumps(outcomes),
            "failure": failure,
        }
        execute(conn, "store_text_replay", values)
        done += 1
        if progress is not None:
            progress(done)
    if done:
        execute(conn, "trim_text_calls", {"column_id": tuned.column.id})
        if timer is not None:
            timer.count_scans(perf_counter() - started, done)
    return done


class _RefusedError(Exception):
    """A call that cannot be replayed; the message says why."""


def _column(tuned: TunedColumn) -> dict[str, Any]:
    return {"column_id": tuned.column.id, "generations": sorted(tuned.generations)}


def _replay(
    conn: psycopg.Connection[Any], tuned: TunedColumn, call: PendingText, timeout_ms: int
) -> list[dict[str, Any]]:
    """Run a call along every path in one snapshot and return the outcomes. Raises _RefusedError."""
    settings = {"timeout_ms": str(timeout_ms), "search_path": call.search_path}
    started = perf_counter()
    try:
        with conn.transaction():
            conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            with give_way(conn) as watch:
                _require_trusted(conn, call)
                with prepared_statement(conn, call.text, settings, set_by="text_call_settings"):
                    run = _TextRun(conn, call, timeout_ms)
                    outcomes = []
                    for path in text_paths(tuned, call.k):
                        watch.check()
                        outcomes.append(run.measure(path))
                    return outcomes
    except (psycopg.Error, UnicodeError) as error:
        if isinstance(error, psycopg.Error) and is_fatal(conn, error, perf_counter() - started, timeout_ms):
            raise
        raise _RefusedError(_describe(error)) from error


def _describe(error: psycopg.Error | UnicodeError) -> str:
    """Return an error in words that hold no values of the call: messages of the server may quote them."""
    if isinstance(error, psycopg.Error) and error.sqlstate in _ABOUT_NAMES and error.diag.message_primary:
        return error.diag.message_primary
    return f"the server refused it: {type(error).__name__}"


def _require_trusted(conn: psycopg.Connection[Any], call: PendingText) -> None:
    """Raise _RefusedError if the call may run what is not trusted, which may have changed since."""
    tokens = tokenize(call.text)
    found = find_untrusted(conn, tokens) or find_volatile(conn, tokens)
    if found is not None:
        raise _RefusedError(f"it may call what is not trusted: {found}")


class _TextRun:
    """Runs one prepared call along paths; the exact one comes first."""

    def __init__(self, conn: psycopg.Connection[Any], call: PendingText, timeout_ms: int) -> None:
        self._conn, self._timeout_ms = conn, timeout_ms
        quoted = ", ".join("NULL" if value is None else quote(value) for value in call.parameters)
        self._execute = trusted(f"EXECUTE {NAME}({quoted})" if quoted else f"EXECUTE {NAME}")
        self._exact: _Answer | None = None
        with conn.transaction(force_rollback=True):
            execute(conn, "text_call_path", {"settings": json.dumps(dict(EXACT))})
            self._distance = output_distance(explain(conn, call.parameters))

    def measure(self, path: TextPath) -> dict[str, Any]:
        """Run the call along a path. A path that takes too long found nothing in that time.

        Raises _RefusedError if the exact one does.
        """
        answer = self._run(path.settings)
        if self._exact is None:
            if answer is None:
                raise _RefusedError(f"its exact answer takes more than {self._timeout_ms} ms")
            self._exact = answer
        return {
            "path": path.name,
            "effort": path.effort,
            "settings": dict(path.settings),
            "recall": 0.0 if answer is None else self._exact.recall_of(answer),
            "ms": float(self._timeout_ms) if answer is None else answer.ms,
        }

    def _run(self, settings: Settings) -> _Answer | None:
        """Run the call with some settings; None if it takes too long."""
        started = perf_counter()
        try:
            with self._conn.transaction(force_rollback=True):
                execute(self._conn, "text_call_path", {"settings": json.dumps(dict(settings))})
                started = perf_counter()
                with self._conn.cursor() as cursor:
                    cursor.execute(self._execute, prepare=False)
                    ms = (perf_counter() - started) * 1000
                    return self._read(cursor, ms)
        except psycopg.errors.QueryCanceled as error:
            if is_fatal(self._conn, error, perf_counter() - started, self._timeout_ms):
                raise
            return None

    def _read(self, cursor: psycopg.Cursor[Any], ms: float) -> _Answer:
        """Read the distances, or else the rows as the server writes them; NULL distances are left out."""
        result, rows = cursor.pgresult, range(min(cursor.rowcount, _MOST_ROWS))
        if result is None:
            return _Answer(None, [], ms)
        # A plan's output has also what is sorted by and not returned, at its end.
        if self._distance is not None and self._distance[0] < result.nfields:
            place, sign = self._distance
            values = [result.get_value(row, place) for row in rows]
            return _Answer(sorted(sign * float(value) for value in values if value is not None), [], ms)
        found = [tuple(result.get_value(row, column) for column in range(result.nfields)) for row in rows]
        return _Answer(None, found, ms)
