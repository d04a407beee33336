"""What observing reads from and stores in the database."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

import psycopg

from vectuned.learning.model.column import Metric
from vectuned.learning.model.ladder import k_class
from vectuned.learning.policy.statement_settings import StatementCalls, count_calls
from vectuned.learning.statements.calls import Call, TextCall
from vectuned.sql.client.fingerprint import fingerprint
from vectuned.sql.client.values import value_key, value_slots
from vectuned.sql.rows import execute, fetch_row, fetch_rows, fetch_value

from .sources import Position
from .statements import LoggedStatement

Source = Literal["log", "client"]
_MOST_TEXTS: Final = 1_000  # calls of a column that wait to be replayed as text: some proofs' worth


@dataclass(frozen=True)
class ObservedColumn:
    """A tuned column that calls are stored of."""

    id: int
    table: str
    name: str
    metric: Metric
    dimensions: int


@dataclass(frozen=True)
class TextRecord:
    """A call to store that is replayed as text, with the search_path of the role that sent it."""

    call: TextCall
    statement: LoggedStatement
    search_path: str | None


@dataclass(frozen=True)
class Database:
    """What a database says of itself: whether vectuned is installed, and how roles find tables.

    `search_paths` by role; None for roles that have no own.
    """

    name: str
    is_installed: bool
    search_paths: Mapping[str | None, str]

    def search_path(self, user: str | None) -> str | None:
        """Return the search_path of a role's statements; None for that of the connection."""
        path = self.search_paths.get(user, self.search_paths.get(None))
        if path is None or user is None or "$user" not in path:
            return path
        quoted = '"' + user.replace('"', '""') + '"'
        return path.replace('"$user"', quoted).replace("$user", quoted)


def read_database(conn: psycopg.Connection[Any]) -> Database:
    """Read what observing needs to know of a database."""
    row = fetch_row(conn, "observing")
    paths = {None: row.search_path, **{r.role: r.search_path for r in fetch_rows(conn, "role_search_paths")}}
    return Database(row.database, row.is_installed, paths)


def read_columns(conn: psycopg.Connection[Any]) -> dict[tuple[int, str], ObservedColumn]:
    """Read the tuned columns by relation and name."""
    rows = fetch_rows(conn, "observed_columns")
    return {
        (row.relation, row.column): ObservedColumn(row.id, row.table, row.column, row.metric, row.dimensions)
        for row in rows
    }


def enable(conn: psycopg.Connection[Any], relation: int, column: str) -> str:
    """Tune a column; return what vectuned.enable says. Raises psycopg.Error where that fails."""
    return str(fetch_value(conn, "enable_observed", {"relation": relation, "column": column}))


def read_table(conn: psycopg.Connection[Any], relation: int) -> str:
    """Return the name of a table."""
    return str(fetch_value(conn, "observed_table", {"relation": relation}))


def read_positions(conn: psycopg.Connection[Any]) -> dict[str, Position]:
    """Read how far files were read, by their identity."""
    return {
        row.identity: Position(row.identity, row.head, row.head_length, row.byte_offset)
        for row in fetch_rows(conn, "log_positions")
    }


def store(
    conn: psycopg.Connection[Any],
    calls: Mapping[int, Sequence[tuple[Call, LoggedStatement]]],
    texts: Mapping[int, Sequence[TextRecord]],
    position: Position | None,
    source: Source = "log",
) -> int:
    """Store calls by the id of their column, and how far the log was read, in one transaction.

    Returns how many calls were stored: no more searches wait for a replay than the column's window holds, and
    no more `texts` than _MOST_TEXTS.
    """
    stored = 0
    with conn.transaction():
        for column_id, found in calls.items():
            values = {**_arrays(column_id, found), "source": source}
            stored += int(fetch_value(conn, "record_calls", values))
            count_calls(
                conn,
                _by_statement(
                    column_id, [(statement, k_class(call.k), call.shape or "") for call, statement in found]
                ),
            )
        for column_id, records in texts.items():
            values = {
                "column_id": column_id,
                "source": source,
                "calls": json.dumps([_document(record) for record in records]),
                "most": _MOST_TEXTS,
            }
            stored += int(fetch_value(conn, "record_text_calls", values))
            seen = [(r.statement, k_class(r.call.k), r.call.reason) for r in records]
            count_calls(conn, _by_statement(column_id, seen, as_text=True))
        if position is not None:
            values = {
                "identity": position.identity,
                "head": position.head,
                "head_length": position.head_length,
                "byte_offset": position.offset,
            }
            execute(conn, "save_log_position", values)
    return stored


def save_observation(conn: psycopg.Connection[Any], source: Source, counts: Mapping[str, int]) -> None:
    """Add counts to what observing came to."""
    execute(conn, "save_observation", {"source": source, **counts})


def take_statements(conn: psycopg.Connection[Any], count: int) -> tuple[list[LoggedStatement], int]:
    """Take statements that vectuned.client recorded, and how many were redacted.

    They are back if the transaction fails.
    """
    rows = sorted(
        fetch_rows(conn, "take_statements", {"count": count}), key=lambda row: int(row.statement_no)
    )
    statements = [
        LoggedStatement(
            row.text,
            None if row.parameters is None else tuple(row.parameters),
            row.latency_ms,
            time=row.recorded_at,
            search_path=row.search_path,
        )
        for row in rows
        if row.text is not None
    ]
    return statements, len(rows) - len(statements)


def _arrays(column_id: int, found: Sequence[tuple[Call, LoggedStatement]]) -> dict[str, Any]:
    return {
        "column_id": column_id,
        "recorded_at": [statement.time for _, statement in found],
        # float32 written in full, so that the database reads the same number.
        "queries": [f"[{','.join(map(str, call.vector.tolist()))}]" for call, _ in found],
        "ks": [call.k for call, _ in found],
        "latencies": [statement.duration_ms for _, statement in found],
        "conditions": [call.condition for call, _ in found],
        "shapes": [call.shape for call, _ in found],
        "value_keys": [
            None if call.condition is None else _value_key(statement) for call, statement in found
        ],
    }


def _value_key(statement: LoggedStatement) -> str | None:
    """Return the key of a statement's values, as vectuned.client computes it."""
    return value_key(fingerprint(statement.text), value_slots(statement.text), statement.values or ())


def _document(record: TextRecord) -> dict[str, Any]:
    call, statement = record.call, record.statement
    return {
        "fingerprint": fingerprint(statement.text),
        "k_class": k_class(call.k),
        "shape": call.reason,
        "recorded_at": None if statement.time is None else statement.time.isoformat(),
        "latency_ms": statement.duration_ms,
        "text": call.query,
        "parameters": None if call.values is None else list(call.values),
        "search_path": record.search_path,
    }


def _by_statement(
    column_id: int, found: Iterable[tuple[LoggedStatement, int, str]], *, as_text: bool = False
) -> list[StatementCalls]:
    """Count the calls of each text, class of k and shape."""
    times: dict[tuple[str, int, str], list[datetime]] = {}
    now = datetime.now(UTC)
    for statement, k, shape in found:
        times.setdefault((statement.text, k, shape), []).append(min(statement.time or now, now))
    return [
        StatementCalls(text, column_id, k, shape, len(seen), min(seen), max(seen), as_text)
        for (text, k, shape), seen in times.items()
    ]
