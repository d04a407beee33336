"""`vectuned check`: finds within a minute what is wrong with a database's vector searches; writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from time import monotonic
from typing import Any, Final, TypeVar

import psycopg

from vectuned.config.errors import VectunedError
from vectuned.daemon.console import Console
from vectuned.learning.replay.lock_watch import LockWaitError, LockWatch, give_way
from vectuned.sql.rows import execute

from .catalogue import Server, VectorTable, read_server, read_tables
from .findings import Finding
from .health import check_table, check_version
from .recall import K, Measurement, RecallCheck
from .report import Report, show_findings, show_measurement, show_server, show_summary
from .sampled import check_inside
from .statements import check_statement, read_statements, unused_operator_classes

T = TypeVar("T")

# Share of filtered searches that may come back with fewer rows than exist before it is called a problem.
_SHORT: Final = 0.01


def check(
    conn: psycopg.Connection[Any], console: Console, *, seconds: float, target: float, seed: int = 0
) -> Report:
    """Look at the catalogue, the statements and the recall of a database, and print what is found.

    conn: in autocommit mode; everything runs in read-only transactions. seconds: after that no measurement
    is begun. target: recall@10 below which a measurement is a problem.
    """
    began = monotonic()
    with _snapshot(conn):
        server = read_server(conn)
        tables = read_tables(conn) if server.pgvector else []
        report = Report(server, tables)
        show_server(console, report)
        report.findings += check_version(server, tables)
        for table in tables:
            report.findings += check_table(server, table)
        report.statements = read_statements(conn, server, tables)
        for statement in report.statements:
            report.findings += check_statement(statement, tables)
        report.findings += unused_operator_classes(report.statements, tables)
    show_findings(console, report.findings)
    for table in tables:
        _measure(conn, console, report, table, target, began + seconds, seed)
    report.seconds = monotonic() - began
    show_summary(console, report, target)
    return report


def _measure(
    conn: psycopg.Connection[Any],
    console: Console,
    report: Report,
    table: VectorTable,
    target: float,
    deadline: float,
    seed: int,
) -> None:
    if reason := _unmeasurable(report.server, table):
        report.not_measured[str(table)] = reason
        return
    try:
        with _snapshot(conn) as watch:
            searches = RecallCheck(conn, report.server, table, target, deadline, seed)
            _measure_table(conn, watch, console, report, searches)
    except LockWaitError as error:
        report.not_measured[str(table)] = str(error)


def _measure_table(
    conn: psycopg.Connection[Any],
    watch: LockWatch,
    console: Console,
    report: Report,
    searches: RecallCheck,
) -> None:
    """Measure the searches of one table, without a filter and by each of its columns, in one snapshot."""
    table = searches.table
    if not searches.fits():
        report.not_measured[str(table)] = (
            f"an exact pass over {table.bytes / 1e6:,.0f} MB may take {searches.pass_seconds:,.0f} s: "
            f"give more --seconds"
        )
        return
    # Rows on other servers are read only once, for the exact answers, and not for this check as well.
    inside = not table.foreign
    found = _attempt(conn, lambda: list(check_inside(conn, report.server, table)) if inside else [])
    watch.check()
    if isinstance(found, str):
        report.not_measured[f"the inside of the indexes of {table}"] = found
    else:
        report.findings += found
        show_findings(console, found)
    columns: list[str | None] = [None, *searches.filter_columns()]
    for column in columns:
        watch.check()
        if not searches.fits():
            report.not_measured[f"{table} by {column}"] = "no time was left: give more --seconds"
            continue
        subject = f"{table} by {column}" if column else str(table)
        measurement = _attempt(conn, partial(searches.measure, column))
        watch.check()  # a measurement that was cancelled for another session says nothing
        if isinstance(measurement, str):
            report.not_measured[subject] = measurement
            continue
        report.measurements.append(measurement)
        found = list(_judge(measurement, searches.target))
        report.findings += found
        show_measurement(console, measurement)
        show_findings(console, found)


def _attempt(conn: psycopg.Connection[Any], work: Callable[[], T]) -> T | str:
    """Measure within a savepoint; return why it failed where it did, so that the check goes on."""
    try:
        with conn.transaction():
            return work()
    except VectunedError as error:
        return str(error)
    except psycopg.Error as error:
        if conn.closed:
            raise
        return str(error.diag.message_primary or error).strip()


def _unmeasurable(server: Server, table: VectorTable) -> str:
    if not table.is_readable:
        return f"the role {server.role} may not read it: GRANT SELECT ON {table.quoted} TO {server.role}"
    unknown = [part.quoted for part in table.foreign if part.rows < 0]
    if not table.searched and table.foreign:
        return (
            "its indexes are on other servers: run `vectuned check` there for the searches of each partition"
        )
    if not table.searched:
        return "no valid index over all its rows, so searches are exact"
    if unknown:
        return f"the number of rows of {', '.join(unknown)} is not known here: ANALYZE {unknown[0]}"
    if table.rows < K:
        return "it holds fewer than ten rows, or was never analyzed"
    return ""


def _judge(measurement: Measurement, target: float) -> Iterator[Finding]:
    """Say what a measurement means, with what would help."""
    now = measurement.now
    subject = measurement.table + (f" by {measurement.filter}" if measurement.filter else "")
    if now.recall >= target and now.short <= _SHORT:
        return
    short = (
        f"; {now.short:.0%} of the searches return fewer rows than match, "
        f"{now.rows_returned:.1f} of {K} on average"
        if now.short > _SHORT
        else ""
    )
    yield Finding(
        "problem",
        "low-recall",
        subject,
        f"is searched with recall@{K} {now.recall:.2f}, where {target:g} is wanted{short}",
        _advice(measurement, target),
    )


def _advice(measurement: Measurement, target: float) -> str:
    """Say what to do about a low recall."""
    best, index = measurement.best(target), measurement.index
    if best:
        advice = (
            f"{best.settings}: recall {best.recall:.2f} at {best.mean_ms:.1f} ms instead of "
            f"{measurement.now.mean_ms:.1f} ms; after `vectuned migrate`, "
            "`vectuned enable` learns what each search needs"
        )
    elif measurement.others:
        advice = "no setting tried here reaches the target: another index may, see `vectuned advise`"
    elif measurement.servers:
        advice = (
            "settings of a session do not reach other servers: tune each partition on its own server, with a "
            f"target of {1 - (1 - target) / measurement.partitions:.4g}, and put the settings that `vectuned "
            "status` shows there into the options of its foreign server"
        )
    else:
        advice = "no time was left to try other settings: give more --seconds"
    if index.method == "ivfflat" and measurement.filter is None:
        advice += (
            f"; if {index.name} was built before most rows were there, its lists divide them badly: "
            f"REINDEX INDEX CONCURRENTLY {index.quoted}"
        )
    return advice


@contextmanager
def _snapshot(conn: psycopg.Connection[Any]) -> Iterator[LockWatch]:
    """Begin a read-only transaction with one snapshot, ended when another session waits for a lock of it."""
    with conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        # Exact passes may take a while; each search has a limit of its own.
        execute(conn, "check_setting", {"name": "statement_timeout", "value": "0"})
        with give_way(conn) as watch:
            yield watch
