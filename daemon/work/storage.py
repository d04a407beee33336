"""All statements of the work on tuned columns, one function each; see `sql/tuner/queries/daemon/work.sql`."""

from __future__ import annotations

from typing import Any

import psycopg

from vectuned.daemon.pacing.refresh_plan import TableState
from vectuned.learning.model.tuned_columns import TunedColumn
from vectuned.sql.rows import execute, fetch_row, fetch_rows, fetch_value, fetch_values

Connection = psycopg.Connection[Any]


# Tuned columns


def refresh_column(conn: Connection, tuned: TunedColumn) -> bool:
    """Update what is recorded of a column's indexes; return whether they have changed."""
    return bool(fetch_value(conn, "refresh_column", {"column_id": tuned.column.id}))


def read_table_states(conn: Connection) -> dict[int, TableState]:
    """Return the state of the table of every enabled column, by the column's id, from one statement."""
    return {
        row.column_id: TableState(row.digest, row.rows, row.changes)
        for row in fetch_rows(conn, "column_states")
    }


def refresh_missing(conn: Connection) -> int:
    """Follow columns whose table or column is missing, and forget those missing for a day; return changes."""
    return int(fetch_value(conn, "refresh_missing"))


def reopen_searches(
    conn: Connection, tuned: TunedColumn, generation: int, requires: str | None, count: int
) -> int:
    """Queue the newest searches for replay on a new index; return how many."""
    values = {"column_id": tuned.column.id, "generation": generation, "requires": requires, "count": count}
    return execute(conn, "replay_again", values)


def missing_rights(conn: Connection, tuned: TunedColumn) -> str | None:
    """Return why this role cannot learn about a column, with the statement that helps; None if it can."""
    reason: str | None = fetch_value(conn, "missing_rights", {"column_id": tuned.column.id})
    return reason


def read_columns_waiting(conn: Connection) -> set[int]:
    """Return the ids of the columns with searches that wait to be replayed."""
    return set(fetch_values(conn, "columns_waiting"))


def add_table_read(conn: Connection, tuned: TunedColumn, count: int) -> None:
    """Add bytes that were read of a column's table for exact answers."""
    execute(conn, "add_table_read", {"column_id": tuned.column.id, "bytes": count})


def count_waiting(conn: Connection, tuned: TunedColumn) -> int:
    """Return how many searches of a column wait to be replayed."""
    return int(fetch_value(conn, "count_waiting", {"column_id": tuned.column.id}))


def skip_old_searches(conn: Connection, tuned: TunedColumn) -> int:
    """Skip the replay of searches beyond a column's window, and delete their vectors; return how many."""
    values = {"column_id": tuned.column.id, "window": tuned.trajectory_window}
    return execute(conn, "skip_old_searches", values)


def read_recording(conn: Connection, tuned: TunedColumn) -> Any:
    """Return the share recorded now (`share`), its limit (`record_at_most`), and the number in store."""
    return fetch_row(conn, "recording", {"column_id": tuned.column.id})


def limit_recording(conn: Connection, tuned: TunedColumn, share: float | None) -> None:
    """Set the largest share of a column's searches that is recorded; None for no limit."""
    execute(conn, "limit_recording", {"column_id": tuned.column.id, "share": share})


def trim_trajectories(conn: Connection, tuned: TunedColumn, size: int) -> int:
    """Delete the oldest recorded searches of a column beyond `size` bytes; return how many."""
    return int(fetch_value(conn, "trim_trajectories", {"column_id": tuned.column.id, "bytes": size}))


def read_learning_state(conn: Connection, tuned: TunedColumn) -> Any:
    """Return the replays not learned from (`fresh`), if any are `known`, and if the bank is `current`."""
    values = {
        "column_id": tuned.column.id,
        "generations": tuned.generations,
        "target_recall": tuned.target_recall,
        "max_tail": tuned.max_tail,
    }
    return fetch_row(conn, "learning_state", values)


def record_event_end(conn: Connection, column_id: int | None, began: str, ended: str) -> None:
    """Record the event `ended` if `began` was recorded and has not ended yet."""
    execute(conn, "record_event_end", {"column_id": column_id, "began": began, "ended": ended})


# The inbox


def bound_inbox(conn: Connection, size: int) -> None:
    """Set the size in bytes at which searches stop being recorded."""
    execute(conn, "bound_inbox", {"bytes": size})


def cap_efforts(conn: Connection, cap: int) -> None:
    """Set the highest ef_search or number of probes that may serve any column, 0 for no cap."""
    execute(conn, "cap_efforts", {"cap": cap})


def vacuum_inbox(conn: Connection) -> None:
    """Vacuum the inbox, if this role may; otherwise autovacuum does it later."""
    if fetch_value(conn, "may_vacuum_inbox"):
        execute(conn, "vacuum_inbox")


def sees_other_sessions(conn: Connection) -> bool:
    """Return whether this role sees the statements of other roles' sessions."""
    return bool(fetch_value(conn, "sees_other_sessions"))


# Retention


def delete_old_records(conn: Connection, days: int) -> None:
    """Delete old requests, events and statements, except the newest event of each kind."""
    execute(conn, "delete_old_requests", {"days": days})
    execute(conn, "delete_old_events", {"days": days})
    execute(conn, "delete_old_statements", {"days": days})


def trim_replays(conn: Connection, tuned: TunedColumn) -> None:
    """Delete the replays beyond a column's window, and those on indexes that are gone."""
    values = {"column_id": tuned.column.id, "window": tuned.trajectory_window}
    execute(conn, "trim_replays", {**values, "generations": tuned.generations})


def maintain_partitions(conn: Connection, days: int, lock_timeout_ms: int) -> None:
    """Create the partitions of the next days and drop those older than `days`."""
    with conn.transaction():
        execute(conn, "set_local_lock_timeout", {"milliseconds": str(lock_timeout_ms)})
        execute(conn, "maintain_partitions", {"days": days})


# Columns that fail


def read_column_failures(conn: Connection, job: str) -> dict[int, str]:
    """Return the columns whose last run of a job failed, by id, each with its error."""
    return {row.column_id: row.error for row in fetch_rows(conn, "column_failures_of_job", {"job": job})}


def write_column_failure(conn: Connection, tuned: TunedColumn, job: str, error: str) -> None:
    """Record that a job failed on a column."""
    with conn.transaction():
        execute(conn, "write_column_failure", {"column_id": tuned.column.id, "job": job, "error": error})
        execute(conn, "count_failing_columns", {"job": job})


def delete_column_failure(conn: Connection, tuned: TunedColumn, job: str) -> None:
    """Record that a job succeeded again on a column."""
    with conn.transaction():
        execute(conn, "delete_column_failure", {"column_id": tuned.column.id, "job": job})
        execute(conn, "count_failing_columns", {"job": job})
