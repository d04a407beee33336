"""What observing reads from and stores in the database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg

from vectuned.learning.model.column import Metric
from vectuned.learning.model.ladder import k_class
from vectuned.learning.policy.statement_settings import StatementCalls, count_calls
from vectuned.learning.statements.calls import Call
from vectuned.sql.rows import execute, fetch_row, fetch_rows, fetch_value

from .sources import Position
from .statements import LoggedStatement


@dataclass(frozen=True)
class ObservedColumn:
    """A tuned column that calls are stored of."""

    id: int
    metric: Metric
    dimensions: int


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
    return {(row.relation, row.column): ObservedColumn(row.id, row.metric, row.dimensions) for row in rows}


def enable(conn: psycopg.Connection[Any], call: Call) -> str:
    """Tune the column of a call; return what vectuned.enable says. Raises psycopg.Error where that fails."""
    return str(fetch_value(conn, "enable_observed", {"relation": call.relation, "column": call.column}))


def read_positions(conn: psycopg.Connection[Any]) -> dict[str, Position]:
    """Read how far files were read, by their identity."""
    return {
        row.identity: Position(row.identity, row.head, row.head_length, row.byte_offset)
        for row in fetch_rows(conn, "log_positions")
    }


def store(
    conn: psycopg.Connection[Any],
    calls: Mapping[int, Sequence[tuple[Call, LoggedStatement]]],
    position: Position | None,
) -> int:
    """Store calls by the id of their column, and how far the log was read, in one transaction.

    Returns how many calls were stored as trajectories: no more searches wait for a replay than the column's
    window holds.
    """
    stored = 0
    with conn.transaction():
        for column_id, found in calls.items():
            stored += int(fetch_value(conn, "record_calls", _arrays(column_id, found)))
            count_calls(conn, _by_statement(column_id, found))
        if position is not None:
            values = {
                "identity": position.identity,
                "head": position.head,
                "head_length": position.head_length,
                "byte_offset": position.offset,
            }
            execute(conn, "save_log_position", values)
    return stored


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
    }


def _by_statement(column_id: int, found: Sequence[tuple[Call, LoggedStatement]]) -> list[StatementCalls]:
    """Count the calls of each text, class of k and shape."""
    times: dict[tuple[str, int, str], list[datetime]] = {}
    now = datetime.now(UTC)
    for call, statement in found:
        key = (statement.text, k_class(call.k), call.shape or "")
        times.setdefault(key, []).append(min(statement.time or now, now))
    return [
        StatementCalls(text, column_id, k, shape, len(seen), min(seen), max(seen))
        for (text, k, shape), seen in times.items()
    ]
