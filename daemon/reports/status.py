"""`vectuned status`: searches recorded, policies in service and promises, for each tuned column."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from time import sleep
from typing import Any, Final

import psycopg

from vectuned.config.errors import DatabaseUnavailableError
from vectuned.config.wording import counted
from vectuned.daemon.console import Console
from vectuned.daemon.database.isolation import Failure, attempt
from vectuned.sql.rows import fetch_dicts, fetch_value

_COLUMN_FIELDS: Final = (
    "id",
    "relation",
    "relation_oid",
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
    "notes",
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
_MB: Final = 1024 * 1024  # bytes
_EVENTS: Final = 5  # newest events per column: what fits below a column without scrolling


def read(conn: psycopg.Connection[Any]) -> list[dict[str, Any]]:
    """Return the status of every tuned column: its settings, its counters, and four lists.

    `classes` holds the policy of each class of k, `promises` what exact checks prove about served searches,
    `events` the newest events, the newest first, `failing` the work on it that failed the last time. If a
    column cannot be read, `error` says why, and it has no counters and only the first list.
    """
    columns: dict[int, dict[str, Any]] = {}
    for row in fetch_dicts(conn, "status"):
        key = {"relation": row["relation_oid"], "column_name": row["column_name"]}
        if (column := columns.get(row["id"])) is None:
            column = {name: row[name] for name in _COLUMN_FIELDS}
            column |= {"error": None, "classes": [], "promises": [], "events": [], "failing": []}
            columns[row["id"]] = column
            details = attempt(conn, partial(_read_details, conn, row["id"], key))
            column |= {"error": details.reason} if isinstance(details, Failure) else details
        if row["k_class"] is not None:
            policy = {name: row[name] for name in row if name not in _COLUMN_FIELDS}
            column["classes"].append({**policy, "state": row["state"]})
    return list(columns.values())


def unread_columns(columns: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Return why columns could not be read, by their names."""
    return {f"{c['relation']}.{c['column_name']}": c["error"] for c in columns if c["error"] is not None}


def _read_details(conn: psycopg.Connection[Any], column_id: int, key: dict[str, Any]) -> dict[str, Any]:
    return {
        **fetch_dicts(conn, "stats", key)[0],
        **fetch_dicts(conn, "table_read", {"column_id": column_id})[0],
        "promises": fetch_dicts(conn, "column_promises", key),
        "events": fetch_dicts(conn, "events", {**key, "count": _EVENTS}),
        "failing": fetch_dicts(conn, "failing_jobs", {"column_id": column_id}),
    }


def show(console: Console, columns: list[dict[str, Any]]) -> None:
    """Print the status of columns as text."""
    if not columns:
        console.line("no tuned columns yet: vectuned enable RELATION COLUMN")
    for column in columns:
        _show_column(console, column)


def read_daemon(conn: psycopg.Connection[Any]) -> dict[str, Any]:
    """Return whether a daemon works on this database (`daemon`), and its `jobs` with their last runs.

    And what observing applications came to by source (`observed`), and which settings are `adopted`.
    """
    may_read = fetch_value(conn, "may_read_observations")
    return {
        "daemon": bool(fetch_value(conn, "daemon_runs")),
        "jobs": fetch_dicts(conn, "jobs"),
        "observed": fetch_dicts(conn, "observations") if may_read else [],
        "adopted": fetch_dicts(conn, "adoptions") if may_read else [],
    }


def show_daemon(console: Console, daemon: dict[str, Any]) -> None:
    """Print what was observed and adopted, and the state of the daemon's jobs if one ever ran, as text."""
    for seen in daemon["observed"]:
        console.line(
            f"observed by {seen['source']}: {seen['statements']:,} statements, {seen['searches']:,} "
            f"searches, {seen['stored']:,} stored, {seen['left_out']:,} left out, "
            f"{seen['not_planned']:,} not planned; {seen['damaged']:,} damaged"
            f" records; the last at {seen['observed_at']:%Y-%m-%d %H:%M}"
        )
    for adopted in daemon["adopted"]:
        whom = "the database" if adopted["role"] is None else f"the role {adopted['role']}"
        values = ", ".join(f"{name} = {value}" for name, value in sorted(adopted["applied"].items()))
        console.line(f"adopted for {whom} at {adopted['applied_at']:%Y-%m-%d %H:%M}: {values}")
        for alarm in adopted["alarms"]:
            console.line(f"  alarm: statement {alarm['fingerprint']} is no longer served so: {alarm['why']}")
    jobs = daemon["jobs"]
    if not jobs:
        return
    last = f"{max(job['last_run'] for job in jobs):%Y-%m-%d %H:%M:%S}"
    failing = [job for job in jobs if job["failures"]]
    if not daemon["daemon"]:
        console.line(f"no daemon works here since {last}: start vectuned run")
    elif partly := [f"{job['name']} of {job['columns_failing']}" for job in jobs if job["columns_failing"]]:
        console.line(f"daemon: the last job ran at {last}; columns that fail: {', '.join(partly)}")
    elif not failing:
        console.line(f"daemon: all {len(jobs)} jobs are fine, the last ran at {last}")
    for job in failing:
        times = "once" if job["failures"] == 1 else f"{job['failures']} times in a row"
        last_success = f"{job['last_success']:%Y-%m-%d %H:%M}" if job["last_success"] else "never"
        next_try = f", next try at {job['next_run']:%H:%M:%S}" if job["next_run"] and daemon["daemon"] else ""
        console.line(
            f"job {job['name']} failed {times}: {job['last_error']} (last success: {last_success}{next_try})"
        )


def _show_column(console: Console, column: dict[str, Any]) -> None:
    console.line(
        f"{column['relation']}.{column['column_name']}: {column['state']}, target recall "
        f"{column['target_recall']:g}, {column['metric']}, {column['dimensions']} dimensions, "
        f"index {column['index']}"
    )
    for note in column["notes"]:
        console.line(f"  note: {note}")
    if column["error"] is not None:
        console.line(f"  not shown: {column['error']}")
        return
    recall = column["recent_recall"]
    # NULL on a standby, which cannot read the unlogged inbox.
    inbox = "" if column["in_inbox"] is None else f"{column['in_inbox']:,} in the inbox, "
    console.line(
        f"  {column['trajectories']:,} searches recorded, {inbox}"
        f"{column['awaiting_replay']:,} to replay, {column['replays']:,} replayed"
        + (f"; recall of the last ones {recall:.3f}" if recall is not None else "")
    )
    if column["read_bytes"]:
        console.line(
            f"  read of the table for exact answers: {column['read_bytes_this_hour'] / _MB:,.1f} MB in this "
            f"hour, {column['read_bytes_last_hour'] / _MB:,.1f} MB in the one before"
        )
    if column["successes"] + column["failures"] + column["unknown"] + column["feedback"]:
        console.line(
            f"  verdicts: {column['successes']:,} successes, {column['failures']:,} failures, "
            f"{column['unknown']:,} unknown; {column['feedback']:,} searches with feedback"
        )
    if column["statements"]:
        console.line(
            f"  applications: {counted(column['statements'], 'statement')}, "
            f"{counted(column['statement_calls'], 'call')}; with proven settings: "
            f"{column['statements_served']:,}"
            + (" (`vectuned adopt` says what they gain)" if column["statements_served"] else "")
            + f"; calls to replay as text: {column['texts_awaiting_replay']:,}"
        )
    if column["refused"]:
        console.line(
            f"  {column['refused']:,} sampled searches were not recorded: the inbox was full or locked "
            "(inbox.max_mb), or a transaction had recorded 32 already"
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
    bound = f"{row['recall_bound']:.3f}"
    if not row["certified"]:
        bound = "unproven" if not row["recall_bound"] else f"{bound} (unproven)"
    tail_bound = row["tail_bound"] if row["certified"] or row["tail_bound"] != 1.0 else None
    return (
        f"  {row['k_class']}",
        row["access_path"],
        row["path_index"],
        row["state"],
        f"probes {row['probes']}" if row["probes"] is not None else f"ef {row['ef_search']}",
        "-" if row["expected_recall"] is None else f"{row['expected_recall']:.3f}",
        bound,
        *("-" if share is None else f"{share:.1%}" for share in (row["tail"], tail_bound)),
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
    """Print the status every `seconds` until interrupted, or `times` times; in place on a terminal.

    As JSON each status is one document on one line. While the database is unavailable, a message says so and
    the connection is tried again. Raises DatabaseUnavailableError if it is unavailable at the start.
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
