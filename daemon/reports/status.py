"""What `vectuned status` says: of each tuned column what was recorded, what serves, and what is promised."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from time import sleep
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row

from vectuned.config.errors import DatabaseUnavailableError
from vectuned.daemon.console import Console
from vectuned.sql.files import queries

_OF_THE_COLUMN: Final = (
    "relation",
    "column_name",
    "enabled",
    "metric",
    "dimensions",
    "index",
    "target_recall",
    "max_tail",
    "sample_rate",
    "alert",
    "state",
)
_HEADINGS: Final = (
    "  k up to",
    "access path",
    "index",
    "state",
    "effort",
    "recall",
    "at least",
    "under 0.8",
    "at most",
    "samples",
    "patterns",
    "saving",
)
_EVENTS: Final = 5


def read(conn: psycopg.Connection[Any]) -> list[dict[str, Any]]:
    """Return the status of every tuned column.

    Each with its settings and counters, and lists of its `classes` of k and what serves them, of `promises`,
    what exact checks prove of the searches served, and of its latest `events`, the newest first.
    """
    cursor = conn.cursor(row_factory=dict_row)
    columns: dict[tuple[str, str], dict[str, Any]] = {}
    for row in cursor.execute(queries()["status"]).fetchall():
        key = {"relation": row["relation"], "column_name": row["column_name"]}
        column = columns.get((row["relation"], row["column_name"]))
        if column is None:
            column = {name: row[name] for name in _OF_THE_COLUMN}
            columns[row["relation"], row["column_name"]] = column
            column |= cursor.execute(queries()["stats"], key).fetchone() or {}
            column["classes"] = []
            column["promises"] = cursor.execute(queries()["said"], key).fetchall()
            column["events"] = cursor.execute(queries()["events"], {**key, "count": _EVENTS}).fetchall()
        if row["k_class"] is not None:
            own = {name: row[name] for name in row if name not in _OF_THE_COLUMN}
            column["classes"].append({**own, "state": row["state"]})
    return list(columns.values())


def show(console: Console, columns: list[dict[str, Any]]) -> None:
    """Print the status of columns for people."""
    if not columns:
        console.line("no tuned columns yet: vectuned enable RELATION COLUMN")
    for column in columns:
        _show_column(console, column)


def read_daemon(conn: psycopg.Connection[Any]) -> dict[str, Any]:
    """Return whether a daemon works here, as `daemon`, and how its `jobs` went, by name."""
    row = conn.execute(queries()["daemon_runs"]).fetchone()
    jobs = conn.cursor(row_factory=dict_row).execute(queries()["jobs"]).fetchall()
    return {"daemon": row is not None and bool(row[0]), "jobs": jobs}


def show_daemon(console: Console, daemon: dict[str, Any]) -> None:
    """Print for people how the daemon's jobs go; nothing where none ever ran."""
    jobs = daemon["jobs"]
    if not jobs:
        return
    last = f"{max(job['last_run'] for job in jobs):%Y-%m-%d %H:%M:%S}"
    failing = [job for job in jobs if job["failures"]]
    if not daemon["daemon"]:
        console.line(f"no daemon works here since {last}: start vectuned run")
    elif not failing:
        console.line(f"daemon: all {len(jobs)} jobs are fine, the last ran at {last}")
    for job in failing:
        times = "once" if job["failures"] == 1 else f"{job['failures']} times in a row"
        succeeded = f"{job['last_success']:%Y-%m-%d %H:%M}" if job["last_success"] else "never"
        again = f", next try at {job['next_run']:%H:%M:%S}" if job["next_run"] and daemon["daemon"] else ""
        console.line(
            f"job {job['name']} failed {times}: {job['last_error']} (last success: {succeeded}{again})"
        )


def _show_column(console: Console, column: dict[str, Any]) -> None:
    console.line(
        f"{column['relation']}.{column['column_name']}: {column['state']}, target recall "
        f"{column['target_recall']:g}, {column['metric']}, {column['dimensions']} dimensions, "
        f"index {column['index']}"
    )
    recall = column["recent_recall"]
    # On a standby nobody knows.
    inbox = "" if column["in_inbox"] is None else f"{column['in_inbox']:,} in the inbox, "
    console.line(
        f"  {column['trajectories']:,} searches recorded, {inbox}"
        f"{column['awaiting_replay']:,} to replay, {column['replays']:,} replayed"
        + (f"; recall of the last ones {recall:.3f}" if recall is not None else "")
    )
    if column["successes"] + column["failures"] + column["unknown"] + column["feedback"]:
        console.line(
            f"  verdicts: {column['successes']:,} successes, {column['failures']:,} failures, "
            f"{column['unknown']:,} unknown; {column['feedback']:,} searches with feedback"
        )
    if column["behind"] is not None:
        console.line(f"  behind: {column['behind']}")
    if column["alert"]:
        console.line("  more searches are recorded and checked until what serves is proven again")
    if column["classes"]:
        console.table(_HEADINGS, [_class_row(row) for row in column["classes"]], left=3)
    for promise in column["promises"]:
        if promise["checks"]:
            console.line(f"  {promise['claim']}")
    for event in column["events"]:
        if "why" in event["details"]:
            console.line(
                f"  {event['happened_at']:%Y-%m-%d %H:%M} {event['action']}: {event['details']['why']}"
            )


def _class_row(row: dict[str, Any]) -> tuple[str, ...]:
    unproven = "" if row["certified"] else " (unproven)"
    return (
        f"  {row['k_class']}",
        row["access_path"],
        row["path_index"],
        row["state"],
        f"probes {row['probes']}" if row["probes"] is not None else f"ef {row['ef_search']}",
        "unknown" if row["expected_recall"] is None else f"{row['expected_recall']:.3f}",
        f"{row['recall_bound']:.3f}{unproven}",
        *("unknown" if row[name] is None else f"{row[name]:.1%}" for name in ("tail", "tail_bound")),
        f"{row['samples']:,}",
        str(row["patterns"]),
        "" if row["saving"] is None else f"{row['saving']:.2f}",
    )


def watch(
    console: Console,
    open_conn: Callable[[], psycopg.Connection[Any]],
    seconds: float,
    times: int | None = None,
) -> None:
    """Show the status every some seconds until interrupted or as many `times`, on a terminal in place.

    As JSON it is one document a line. While the database is unavailable that is said and it is tried again;
    that it is at the start is an error, DatabaseUnavailableError.
    """
    conn = open_conn()
    try:
        with console.frames() as frame:
            for number in itertools.count(1):
                with frame():
                    try:
                        if conn.closed:
                            conn = open_conn()
                        columns, daemon = read(conn), read_daemon(conn)
                        console.record({"time": datetime.now(UTC), "columns": columns, **daemon})
                        console.line(
                            f"{datetime.now():%Y-%m-%d %H:%M:%S}, every {seconds:g} s, Ctrl-C to end"
                        )
                        show(console, columns)
                        show_daemon(console, daemon)
                    except (DatabaseUnavailableError, psycopg.OperationalError) as error:
                        console.record({"time": datetime.now(UTC), "error": str(error).strip()})
                        console.line(f"{str(error).strip()} Trying again every {seconds:g} s.")
                if number == times:
                    break
                sleep(seconds)
    finally:
        conn.close()
