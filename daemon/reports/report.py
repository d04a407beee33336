"""The report: what a person asks about all tuned columns, and everything known about them, as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from html import escape
from typing import Any, Final

import psycopg

import vectuned
from vectuned.config.errors import VectunedError
from vectuned.daemon.database.isolation import Failure, attempt
from vectuned.learning.model.tuned_columns import TunedColumn, read_tuned_columns
from vectuned.learning.policy.replays import load_replays
from vectuned.sql.rows import fetch_dicts, fetch_row, fetch_rows, fetch_value

from . import status
from .answers import Answer, Grade, Step, class_name, judge_column, next_steps, worst_first
from .curves import filter_charts, index_charts, promise_chart
from .gains import Figures, Gain, read_gains, total
from .page import compose_page, table

_EVENTS: Final = 50  # newest events
_PATTERNS: Final = 20  # most used patterns; a bank may hold hundreds
_GRADES: Final[Mapping[Grade, str]] = {
    "good": "proven",
    "open": "not proven yet",
    "bad": "under the target",
    "unknown": "not checked",
}


@dataclass(frozen=True)
class Report:
    """The columns of a database as HTML, how many there are, and why some are not shown, by name."""

    title: str
    made: str
    body: str
    columns: int
    failures: dict[str, str]

    @property
    def html(self) -> str:
        """The report as a document of its own, which loads nothing."""
        return compose_page(self.title, join_bodies([self]))


def render_report(conn: psycopg.Connection[Any]) -> Report:
    """Return the report of every tuned column.

    It holds names of tables and columns, filters without their values, and figures; no rows and no queries.
    Recommended statements may contain values that are often filtered by. A column that cannot be shown has a
    section that says why.
    """
    known = {column["id"]: column for column in status.read(conn)}
    daemon = status.read_daemon(conn)
    server = fetch_row(conn, "server_versions")
    sections, overview, failures = [], [], {}
    for tuned in read_tuned_columns(conn):
        if (column := known.get(tuned.column.id)) is None:
            continue
        anchor, answer = f"{server.database}-{tuned.column.id}", judge_column(column)
        section = attempt(conn, partial(_column_section, conn, tuned, column, daemon))
        if isinstance(section, Failure):
            failures[str(tuned.column)] = section.reason
            answer = Answer("unknown", f"Not shown: {section.reason}")
            section = _verdict(answer)
        overview.append((anchor, str(tuned.column), answer))
        heading = f"<h2>{escape(str(tuned.column))}</h2>"
        sections.append(f'<section id="{escape(anchor, quote=True)}">{heading}{section}</section>')
    nothing = "<p>No column is tuned yet:</p>" + _command("vectuned enable RELATION COLUMN")
    return Report(
        f"vectuned: database {server.database}",
        escape(
            f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC · vectuned {vectuned.__version__} · "
            f"PostgreSQL {server.postgresql} · pgvector {server.pgvector}"
        ),
        "\n".join([_overview(overview), *sections]) if sections else nothing,
        len(sections),
        failures,
    )


def _overview(columns: Sequence[tuple[str, str, Answer]]) -> str:
    """Return links to the sections with their answers, if there are several."""
    if len(columns) < 2:
        return ""
    items = [
        f'<li><a href="#{escape(anchor, quote=True)}">{escape(name)}</a> {_badge(answer.grade)} '
        f"{escape(answer.text)}</li>"
        for anchor, name, answer in columns
    ]
    return f'<nav aria-label="columns"><ul>{"".join(items)}</ul></nav>'


def _column_section(
    conn: psycopg.Connection[Any], tuned: TunedColumn, column: dict[str, Any], daemon: Mapping[str, Any]
) -> str:
    if column["error"] is not None:
        raise VectunedError(column["error"])
    replays = [(index, load_replays(conn, tuned, index)) for index in tuned.indexes]
    key = {"relation": column["relation_oid"], "column_name": column["column_name"]}
    advice = fetch_dicts(conn, "recommend", key)
    may_read = fetch_value(conn, "may_read_observations")
    to_adopt = fetch_value(conn, "statements_to_adopt", {"column_id": tuned.column.id}) if may_read else 0
    gains = read_gains(conn, tuned, replays, column["promises"])
    identity = f"{conn.info.dbname}-{tuned.column.id}"
    parts = [
        f'<p class="dim">{escape(_describe(column))}</p>',
        "<h3>Is recall all right, and where is it not?</h3>",
        _verdict(judge_column(column)),
        *(f"<p>Note: {escape(note)}</p>" for note in column["notes"]),
        _recall_table(column),
        "<h3>What did it gain?</h3>",
        _gain_table(gains),
        "<h3>What is there to do?</h3>",
        _steps(next_steps(column, daemon, advice, to_adopt)),
        "<h3>Recall of served searches, by exact checks</h3>",
        *(promise_chart(conn, tuned, promise) for promise in column["promises"]),
        "" if any(row["checks"] for row in column["promises"]) else _NOTHING_CHECKED,
        "<h3>Recall against time, by replays</h3>",
        *index_charts(tuned, replays, column["classes"]),
        *filter_charts(tuned, replays),
    ]
    details = {
        "Policies in service": table(
            ("k up to", "access path", "index", "effort", "recall", "at least", "proven", "reason"),
            (_policy_cells(row) for row in column["classes"]),
        ),
        "Claims": "".join(f"<p>{escape(row['claim'])}</p>" for row in column["promises"] if row["checks"]),
        "Filtered searches": _advice_table(advice, ("filtered search",)),
        "Statements of applications": _advice_table(advice, ("statement",)),
        "Advice": _advice_table(advice, ("index", "filter index", "statistics")),
        "Patterns": _pattern_table(conn, tuned),
        "Events": table(
            ("time (UTC)", "event", "details"),
            (_event_cells(row) for row in fetch_dicts(conn, "events", {**key, "count": _EVENTS})),
        ),
        "Counters": f"<p>{escape(_count(column))}</p>",
    }
    parts += [
        f'<details id="{escape(identity, quote=True)}-{title}"><summary>{title}</summary>{text}</details>'
        for title, text in details.items()
        if text
    ]
    return "\n".join(parts)


_NOTHING_CHECKED: Final = '<p class="none">No served search has been checked yet.</p>'


def _describe(column: Mapping[str, Any]) -> str:
    return (
        f"{column['state']}; target recall {column['target_recall']:g}, at most {column['max_tail']:.1%} of "
        f"searches under 0.8; {column['metric']}, {column['dimensions']} dimensions, index {column['index']}"
    )


def _count(column: Mapping[str, Any]) -> str:
    return (
        f"{column['trajectories']:,} searches recorded, {column['replays']:,} replays, "
        f"{column['awaiting_replay']:,} searches wait to be replayed. Verdicts: {column['successes']:,} "
        f"successes, {column['failures']:,} failures, {column['unknown']:,} unknown; feedback on "
        f"{column['feedback']:,} searches."
    )


def _badge(grade: Grade) -> str:
    return f'<span class="badge {grade}">{_GRADES[grade]}</span>'


def _verdict(answer: Answer) -> str:
    return f'<p class="verdict {answer.grade}">{escape(answer.text)}</p>'


def _recall_table(column: Mapping[str, Any]) -> str:
    """Return what checks say about each kind of search, the worst first."""
    rows = []
    for promise, answer in worst_first(column):
        checked = promise["checks"] > 0
        rows.append(
            (
                class_name(promise["k_class"], promise["filter"]),
                answer.text,
                f"{promise['recall']:.3f}" if checked else "unknown",
                f"{promise['recall_bound']:.3f}" if checked else "unknown",
                f"{promise['below_08']:.1%}" if checked else "unknown",
                f"{promise['checks']:,}",
            )
        )
    headings = ("searches", "recall is", "recall", "at least", "under 0.8", "checks")
    grades = [answer.grade for _, answer in worst_first(column)]
    return table(headings, rows, numbers=range(2, 6), grades=grades) if rows else ""


def _gain_table(gains: Sequence[Gain]) -> str:
    """Return each kind of search with the default settings and as served, and a sentence about all."""
    if not gains:
        return '<p class="none">Not known yet: nothing that serves has been compared with the default.</p>'
    before, now = total(gains)
    sentence = f"Recall {before.recall:.3f} with pgvector's default settings, {now.recall:.3f} with vectuned"
    if before.poor is not None and now.poor is not None:
        sentence += f"; searches with a recall under 0.8: {before.poor:.1%}, {now.poor:.1%} with vectuned"
    if before.ms is not None and now.ms is not None:
        sentence += f"; mean time in the server {before.ms:.2f} ms, {now.ms:.2f} ms with vectuned"
    if not all(gain.checks for gain in gains):
        sentence += (
            ". What is expected follows from replays: no search of that kind has been served and checked yet"
        )
    headings = (
        "searches",
        "replays",
        "recall by default",
        "recall with vectuned",
        "under 0.8 by default",
        "under 0.8 with vectuned",
        "ms by default",
        "ms with vectuned",
    )
    rows = [
        (
            class_name(gain.k_class, gain.shape),
            f"{gain.replays:,}",
            f"{gain.before.recall:.3f}",
            f"{gain.now.recall:.3f}" + ("" if gain.checks else " (expected)"),
            _share(gain.before),
            _share(gain.now),
            _milliseconds(gain.before),
            _milliseconds(gain.now),
        )
        for gain in gains
    ]
    return f"<p>{escape(sentence)}.</p>" + table(headings, rows, numbers=range(1, 8))


def _share(figures: Figures) -> str:
    return "unknown" if figures.poor is None else f"{figures.poor:.1%}"


def _milliseconds(figures: Figures) -> str:
    return "unknown" if figures.ms is None else f"{figures.ms:.2f}"


def _steps(steps: Sequence[Step]) -> str:
    if not steps:
        return "<p>Nothing.</p>"
    items = [f"<li>{escape(step.text)}{_command(step.command)}</li>" for step in steps]
    return f"<ol>{''.join(items)}</ol>"


def _command(text: str) -> str:
    return f'<pre tabindex="0"><code>{escape(text)}</code></pre>' if text else ""


def _policy_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        str(row["k_class"]),
        row["access_path"],
        row["path_index"],
        f"probes {row['probes']}" if row["probes"] is not None else f"ef_search {row['ef_search']}",
        "unknown" if row["expected_recall"] is None else f"{row['expected_recall']:.3f}",
        f"{row['recall_bound']:.3f}",
        "yes" if row["certified"] else "no",
        row["reason"],
    )


def _advice_table(advice: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> str:
    rows = [row for row in advice if row["kind"] in kinds]
    if not rows:
        return ""
    return table(
        ("for", "recommendation", "reason", "statement"),
        ((row["subject"], row["recommendation"], row["reason"], row["statement"] or "") for row in rows),
    )


def _pattern_table(conn: psycopg.Connection[Any], tuned: TunedColumn) -> str:
    patterns = fetch_rows(conn, "patterns", {"column_id": tuned.column.id})
    if not patterns:
        return '<p class="none">None is published: every search of a class has the same effort.</p>'
    most_used = sorted(patterns, key=lambda pattern: -pattern.usage)[:_PATTERNS]
    omitted = f"<p>The most used {_PATTERNS} of {len(patterns)}.</p>" if len(patterns) > _PATTERNS else ""
    return omitted + table(
        ("k up to", "pattern", "effort", "recall", "confidence", "replays", "used by", "since"),
        (_pattern_cells(pattern) for pattern in most_used),
        numbers=range(1, 7),
    )


def _pattern_cells(pattern: Any) -> tuple[str, ...]:
    return (
        str(pattern.k_class),
        str(pattern.pattern_no),
        f"{pattern.effort:.1f}",
        f"{pattern.expected_recall:.3f}",
        f"{pattern.confidence:.2f}",
        f"{pattern.samples:,}",
        f"{pattern.usage / pattern.chances:.1%}" if pattern.chances else "unknown",
        f"{pattern.created_at:%Y-%m-%d %H:%M}",
    )


def _event_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    details = row["details"]
    text = details.get("why") or ", ".join(f"{key}: {value}" for key, value in details.items())
    return (f"{row['happened_at'].astimezone(UTC):%Y-%m-%d %H:%M}", row["action"], text)


def join_bodies(reports: Iterable[Report]) -> str:
    """Return the sections of several databases, each under the database's name."""
    return "\n".join(
        f'<h1>{escape(report.title)}</h1><p class="dim">{report.made}</p>{report.body}' for report in reports
    )
