"""Watch the health of tuned columns: an event when something new is wrong with one, or nothing any more."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

import psycopg

from vectuned.learning.model.events import record_event
from vectuned.learning.model.tuned_columns import TunedColumn
from vectuned.sql.rows import fetch_value

from .catalogue import read_server, read_tables
from .findings import Finding, in_order
from .health import check_table, check_version

log = logging.getLogger(__name__)

_TOLD: Final = ("problem", "warning")  # severities that are events; notes are for `vectuned check`


def watch_health(conn: psycopg.Connection[Any], columns: Sequence[TunedColumn]) -> int:
    """Read the catalogues and record an event for each column whose illnesses have changed; return how many.

    An event `health` holds all findings of the column; none means that it is well again. An error of the
    server is only logged: what else the daemon does for its tables does not depend on this.
    """
    try:
        return _watch(conn, columns)
    except psycopg.DatabaseError as error:
        if conn.closed or conn.broken:
            raise
        log.warning("cannot look for what is wrong with indexes: %s", error, extra={"action": "health"})
        return 0


def _watch(conn: psycopg.Connection[Any], columns: Sequence[TunedColumn]) -> int:
    server = read_server(conn)
    found = {
        (table.schema, table.table, table.column): [
            finding
            for finding in in_order([*check_version(server, [table]), *check_table(server, table)])
            if finding.severity in _TOLD
        ]
        for table in read_tables(conn)
    }
    changed = 0
    for tuned in columns:
        column = tuned.column
        findings = found.get((column.schema, column.table, column.name))
        if findings is not None and _is_news(conn, column.id, findings):
            _report(conn, tuned, findings)
            changed += 1
    return changed


def _is_news(conn: psycopg.Connection[Any], column_id: int, findings: list[Finding]) -> bool:
    known = fetch_value(conn, "known_illnesses", {"column_id": column_id}) or []
    return sorted(f"{finding.code} {finding.subject}" for finding in findings) != known


def _report(conn: psycopg.Connection[Any], tuned: TunedColumn, findings: list[Finding]) -> None:
    sentences = [f"{finding.subject} {finding.message}" for finding in findings]
    why = "; ".join(sentences) or "nothing is wrong with its table and indexes any more"
    details = {
        "why": why,
        "findings": [
            {
                "code": finding.code,
                "severity": finding.severity,
                "subject": finding.subject,
                "message": finding.message,
                "statement": finding.statement,
            }
            for finding in findings
        ],
    }
    record_event(conn, tuned.column.id, "health", details)
    level = logging.WARNING if findings else logging.INFO
    log.log(level, "%s: %s", tuned.column, why, extra={"action": "health"})
