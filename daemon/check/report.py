"""The report of a check: all that it found, as one document and as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from vectuned.daemon.console import Console

from .catalogue import Server, VectorTable
from .findings import Finding, in_order
from .health import SMALL_TABLE
from .recall import K, Measurement
from .statements import VectorStatement


@dataclass
class Report:
    """All that a check found; `not_measured` says for which tables there was no measuring, and why."""

    server: Server
    tables: list[VectorTable]
    findings: list[Finding] = field(default_factory=list)
    statements: list[VectorStatement] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    not_measured: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def is_healthy(self) -> bool:
        """Whether nothing is a problem."""
        return not any(finding.severity == "problem" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON can hold it."""
        return {
            "healthy": self.is_healthy,
            "server": asdict(self.server) | {"statistics_age": self.server.statistics_age.total_seconds()},
            "tables": [asdict(table) for table in self.tables],
            "findings": [asdict(finding) for finding in in_order(self.findings)],
            "statements": [statement.as_dict() for statement in self.statements],
            "recall": [measurement.as_dict() for measurement in self.measurements],
            "not_measured": self.not_measured,
            "seconds": round(self.seconds, 2),
        }


def count_of(count: int, noun: str) -> str:
    """Write a number of things, such as "1 problem" or "2 problems"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def show_server(console: Console, report: Report) -> None:
    """Print what server, tables and indexes there are."""
    server = report.server
    standby = ", a standby" if server.is_standby else ""
    pgvector = f"pgvector {server.pgvector}" if server.pgvector else "no pgvector"
    console.line(f"Database {server.database}: PostgreSQL {server.version}{standby}, {pgvector}")
    if not report.tables:
        console.line("There is no vector column here: nothing to check.")
        return
    rows = []
    for table in report.tables:
        for index in table.indexes or (None,):
            size = f"{table.bytes / 1e6:,.0f} MB"
            name = f"{table} ({table.type} {table.dimensions or '?'})"
            count = f"{table.rows:,.0f}" if table.rows >= 0 else "?"
            if index is None:
                rows.append((name, count, size, "none", "", ""))
            else:
                what = f"{index.method}, {index.metric}, {index.build}" + (
                    "" if index.is_valid else ", INVALID"
                )
                rows.append((name, count, size, index.name, what, f"{index.bytes / 1e6:,.0f} MB"))
    console.table(("column", "rows", "table", "index", "kind", "size"), rows)
    if report.server.statements_schema is None:
        console.line(
            "pg_stat_statements is not installed here, so the statements in use are not known: "
            "`vectuned observe` reads them from the server's log."
        )


def show_findings(console: Console, findings: Sequence[Finding]) -> None:
    """Print findings, the gravest first."""
    for finding in in_order(list(findings)):
        console.line(f"{finding.severity}: {finding.subject} {finding.message}")
        if finding.advice or finding.statement:
            console.line("    " + " ".join(filter(None, (finding.advice, finding.statement))))


def show_measurement(console: Console, measurement: Measurement) -> None:
    """Print the recall that a measurement found, as it is and with other settings."""
    by = f" filtered by {measurement.filter}" if measurement.filter else ""
    console.line(
        f"\nrecall@{K} of {measurement.queries} searches of {measurement.table}{by}, rows as queries:"
    )
    trials = (measurement.now, *measurement.others)
    console.table(
        ("settings", "path", f"recall@{K}", "at least", "rows", "mean ms", "p99 ms"),
        [
            (
                trial.settings or "as they are now",
                trial.path,
                f"{trial.recall:.3f}",
                f"{trial.recall_bound:.3f}",
                f"{trial.rows_returned:.1f}",
                f"{trial.mean_ms:.2f}",
                f"{trial.p99_ms:.2f}",
            )
            for trial in trials
        ],
        left=2,
    )


def show_summary(console: Console, report: Report, target: float) -> None:
    """Print what was not measured, and the number of findings."""
    for subject, reason in report.not_measured.items():
        console.line(f"not measured: {subject}: {reason}")
    if not report.tables:
        return
    if report.measurements:
        console.line(
            "Rows of the table stood in for queries: real queries lie elsewhere and may find more or less. "
            "`at least` holds with 95 % confidence for queries like these."
        )
    counts = [
        count_of(sum(f.severity == severity for f in report.findings), severity)
        for severity in ("problem", "warning", "note")
    ]
    console.line(f"{', '.join(counts)}; {report.seconds:.0f} s; nothing was written.")
    if any(table.rows >= SMALL_TABLE for table in report.tables) and report.is_healthy:
        console.line(f"No search measured here has a recall under {target:g}.")
