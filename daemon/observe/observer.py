"""Counts the statements of a log by what they are, and keeps the calls that can be learned from."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg

from vectuned.learning.statements.calls import Call, TextCall
from vectuned.learning.statements.preparation import NAME
from vectuned.learning.statements.recognition import Recognizer

from .sources import Position
from .statements import LoggedStatement
from .storage import (
    Database,
    ObservedColumn,
    Source,
    TextRecord,
    enable,
    read_columns,
    read_table,
    save_observation,
    store,
)

_MOST_SHAPES: Final = 1_000  # kinds of searches counted one by one
_MOST_REASONS: Final = 200  # reasons counted one by one: a report shows a few; this bounds the memory
_REST: Final = "other reasons"
_REDACTED: Final = "values that may not be stored, because of store_vectors => false"
# Marks in vectuned's own statements: its benchmarks, checks and replays look like searches of an application.
_OWN: Final = ("/* vectuned", NAME)
_LARGEST_K: Final = 1_000  # rows: what a replay looks at


@dataclass
class SearchKind:
    """Searches of one column by one operator whose conditions have one shape, None without a condition.

    Of searches that are replayed `as_text` the shape is the reason for that, and the operator is empty.
    `timed_ms` is the sum of `timed` durations.
    """

    table: str
    column: str
    operator: str
    shape: str | None
    is_tuned: bool = False
    as_text: bool = False
    calls: int = 0
    ks: Counter[int] = field(default_factory=Counter)
    timed: int = 0
    timed_ms: float = 0.0

    @property
    def mean_ms(self) -> float | None:
        """Return the mean duration in milliseconds, None if none was logged."""
        return self.timed_ms / self.timed if self.timed else None

    def add(self, k: int, duration_ms: float | None) -> None:
        """Count a call."""
        self.calls += 1
        self.ks[k] += 1
        if duration_ms is not None:
            self.timed += 1
            self.timed_ms += duration_ms

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {
            "table": self.table,
            "column": self.column,
            "operator": self.operator,
            "condition": self.shape,
            "as_text": self.as_text,
            "is_tuned": self.is_tuned,
            "calls": self.calls,
            "k": dict(sorted(self.ks.items())),
            "mean_ms": self.mean_ms,
        }


class Observer:
    """Takes statements, recognises them, and stores calls of tuned columns.

    With `enables` it tunes the columns of calls. Nothing is kept of statements that are no vector searches.
    vectuned's own statements are ignored.
    """

    def __init__(
        self,
        conn: psycopg.Connection[Any],
        database: Database,
        *,
        enables: bool = False,
        source: Source = "log",
    ) -> None:
        self._conn, self._database, self._enables, self._source = conn, database, enables, source
        self._recognizer = Recognizer(conn)
        self._columns: dict[tuple[int, str], ObservedColumn] = {}
        self._waiting: dict[int, list[tuple[Call, LoggedStatement]]] = defaultdict(list)
        self._waiting_texts: dict[int, list[TextRecord]] = defaultdict(list)
        self._refused: set[tuple[int, str]] = set()
        self.statements = 0
        self.other_databases = 0
        self.no_searches = 0
        self.stored = 0
        self.bytes = 0
        self.kinds: OrderedDict[tuple[int, str, str, str | None], SearchKind] = OrderedDict()
        self.left_out: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.messages: list[str] = []
        self._counted: Counter[str] = Counter()
        self.refresh()

    @property
    def is_storing(self) -> bool:
        """Say whether calls are stored: whether vectuned is installed."""
        return self._database.is_installed

    def save_counts(self, damaged: int = 0) -> None:
        """Add what was counted since the last call to vectuned.observation."""
        if not self._database.is_installed:
            return
        counts = Counter(
            statements=self.statements,
            searches=sum(kind.calls for kind in self.kinds.values()),
            stored=self.stored,
            left_out=self.left_out.total(),
            not_planned=self.failed.total(),
            other_databases=self.other_databases,
            damaged=damaged,
        )
        if counts != self._counted:
            new = {name: count - self._counted[name] for name, count in counts.items()}
            save_observation(self._conn, self._source, new)
            self._counted = counts

    def refresh(self) -> None:
        """Read the tuned columns again."""
        if self._database.is_installed:
            self._columns = read_columns(self._conn)

    def add(self, statements: Sequence[LoggedStatement], position: Position | None = None) -> None:
        """Recognise statements, store the calls among them, and how far the log was read."""
        try:
            for statement in statements:
                self._add(statement)
            has_calls = bool(self._waiting or self._waiting_texts)
            if self._database.is_installed and (has_calls or position is not None):
                self.stored += store(self._conn, self._waiting, self._waiting_texts, position, self._source)
        finally:  # what was not stored is read again
            self._waiting.clear()
            self._waiting_texts.clear()

    def count_redacted(self, statements: int) -> None:
        """Count statements that nothing can be learned from, since their values may not be stored."""
        self.statements += statements
        if statements:
            self.left_out[_REDACTED] += statements

    def _add(self, statement: LoggedStatement) -> None:
        if any(mark in statement.text for mark in _OWN):
            return
        self.statements += 1
        if statement.database not in (None, self._database.name):
            self.other_databases += 1
            return
        path = statement.search_path or self._database.search_path(statement.user)
        found = self._recognizer.recognize(statement.text, statement.values, search_path=path)
        if found is None:
            self.no_searches += 1
            return
        self.bytes += len(statement.text) + sum(len(value or "") + 8 for value in statement.values or ())
        if isinstance(found, Call):
            self._count(found, statement)
            return
        reason = found.reason
        if found.columns and not statement.is_cut:
            self._count_text(found, statement, path)
            return
        if statement.is_cut:
            reason = "a value was cut: log_parameter_max_length is too small"
        _count_reason(self.left_out if found.is_search else self.failed, reason)

    def _count(self, call: Call, statement: LoggedStatement) -> None:
        column = self._find(call.relation, call.column)
        key = (call.relation, call.column, call.operator, call.shape)
        kind = self.kinds.get(key)
        if kind is None:
            if len(self.kinds) >= _MOST_SHAPES:
                key = (0, "", "", None)
                kind = self.kinds.setdefault(key, SearchKind("other searches", "", "", None))
            else:
                kind = SearchKind(f"{call.schema}.{call.table}", call.column, call.operator, call.shape)
                self.kinds[key] = kind
        kind.add(call.k, statement.duration_ms)
        if column is None:
            return
        if column.metric != call.metric:
            reason = f"ordered by {call.operator}, while {kind.table} is tuned for {column.metric}"
            _count_reason(self.left_out, reason)
        elif column.dimensions != len(call.vector):
            _count_reason(self.left_out, f"a vector of {len(call.vector)} dimensions for {kind.table}")
        elif call.k > _LARGEST_K:
            _count_reason(self.left_out, f"more than {_LARGEST_K:,} rows")
        else:
            kind.is_tuned = True
            self._waiting[column.id].append((call, statement))

    def _count_text(self, call: TextCall, statement: LoggedStatement, search_path: str | None) -> None:
        """Count a call that is replayed as text, by the first of its columns that is tuned."""
        columns = [self._find(*key) for key in call.columns]
        column = next((each for each in columns if each is not None), None)
        if column is None:
            _count_reason(self.left_out, call.reason)
            return
        key = (column.id, "", "", call.reason)
        kind = self.kinds.get(key)
        if kind is None and len(self.kinds) < _MOST_SHAPES:
            kind = SearchKind(column.table, column.name, "", call.reason, is_tuned=True, as_text=True)
            self.kinds[key] = kind
        if kind is not None:
            kind.add(call.k, statement.duration_ms)
        self._waiting_texts[column.id].append(TextRecord(call, statement, search_path))

    def _find(self, relation: int, name: str) -> ObservedColumn | None:
        """Return a tuned column; tune it first where that is wanted."""
        key = (relation, name)
        if self._enables and key not in self._columns and key not in self._refused:
            try:
                self.messages.append(enable(self._conn, relation, name))
                self.refresh()
            except psycopg.Error as error:
                if self._conn.closed:
                    raise
                self._refused.add(key)
                why = error.diag.message_primary or str(error)
                self.messages.append(f"{name} of {read_table(self._conn, relation)} cannot be tuned: {why}")
        return self._columns.get(key)


def _count_reason(reasons: Counter[str], reason: str) -> None:
    reasons[reason if reason in reasons or len(reasons) < _MOST_REASONS else _REST] += 1
