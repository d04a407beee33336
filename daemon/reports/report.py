"""`vectuned report`: the status, history and advice of all tuned columns in one self-contained HTML file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from html import escape
from importlib import resources
from string import Template
from typing import Any, Final

import numpy as np
import psycopg

import vectuned
from vectuned.config.errors import VectunedError
from vectuned.daemon.database.isolation import Failure, attempt
from vectuned.learning.model.arrays import Floats
from vectuned.learning.model.ladder import position_of
from vectuned.learning.model.tuned_columns import TunedColumn, TunedIndex, read_tuned_columns
from vectuned.learning.policy.filtering import other_paths
from vectuned.learning.policy.replays import Replays, load_replays
from vectuned.learning.statistics.claims import claim_curve
from vectuned.sql.rows import fetch_dicts, fetch_row, fetch_rows

from . import status
from .charts import Line, chart

_PROMISE_POINTS: Final = 60  # times at which a promise is drawn: what a chart can show
_EVENTS: Final = 50  # newest events
_PATTERNS: Final = 20  # most used patterns; a bank may hold hundreds
_FILTERS: Final = 4  # charts of the most frequent kinds of filter
_MIN_REPLAYS: Final = 10  # a mean of fewer replays is noise

IndexReplays = Sequence[tuple[TunedIndex, Replays]]


@dataclass(frozen=True)
class Report:
    """The report as an HTML document, of how many columns, and why some could not be shown, by name."""

    html: str
    columns: int
    failures: dict[str, str]


def render_report(conn: psycopg.Connection[Any]) -> Report:
    """Return the report of every tuned column.

    It holds names of tables and columns, filters without their values, and figures; no rows and no queries.
    Recommended statements may contain values that are often filtered by. A column that cannot be shown has a
    section that says why.
    """
    known = {column["id"]: column for column in status.read(conn)}
    sections, failures = [], {}
    for tuned in read_tuned_columns(conn):
        if (column := known.get(tuned.column.id)) is None:
            continue
        section = attempt(conn, partial(_column_section, conn, tuned, column))
        if isinstance(section, Failure):
            failures[str(tuned.column)] = section.reason
            section = f"<h2>{escape(str(tuned.column))}</h2><p>Not shown: {escape(section.reason)}</p>"
        sections.append(section)
    server = fetch_row(conn, "server_versions")
    template = Template(resources.files(__package__).joinpath("report.html").read_text("utf-8"))
    html = template.substitute(
        title=escape(f"vectuned: {server.database}"),
        made=escape(
            f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC · vectuned {vectuned.__version__} · "
            f"PostgreSQL {server.postgresql} · pgvector {server.pgvector}"
        ),
        body="\n".join(sections) or "<p>No column is tuned yet: vectuned enable RELATION COLUMN</p>",
    )
    return Report(html, len(sections), failures)


def _column_section(conn: psycopg.Connection[Any], tuned: TunedColumn, column: dict[str, Any]) -> str:
    if column["error"] is not None:
        raise VectunedError(column["error"])
    replays = [(index, load_replays(conn, tuned, index)) for index in tuned.indexes]
    checked = any(promise["checks"] for promise in column["promises"])
    key = {"relation": column["relation_oid"], "column_name": column["column_name"]}
    advice = fetch_dicts(conn, "recommend", key)
    events = fetch_dicts(conn, "events", {**key, "count": _EVENTS})
    return "\n".join(
        [
            f"<h2>{escape(str(tuned.column))}</h2>",
            f"<p>{escape(_summarize(column))}</p>",
            *(f"<p>Note: {escape(note)}</p>" for note in column["notes"]),
            "<h3>Recall of served searches, by exact checks</h3>",
            *(_promise_chart(conn, tuned, promise) for promise in column["promises"]),
            "" if checked else '<p class="none">No served search has been checked yet.</p>',
            "<h3>Recall against time, by replays</h3>",
            *_index_charts(tuned, replays, column["classes"]),
            *_filter_charts(tuned, replays),
            "<h3>Policies in service</h3>",
            _table(
                ("k up to", "access path", "index", "effort", "recall", "at least", "proven", "reason"),
                (_policy_cells(row) for row in column["classes"]),
            ),
            _advice_section("Filtered searches", advice, ("filtered search",)),
            _advice_section("Statements of applications", advice, ("statement",)),
            _advice_section("Advice", advice, ("index", "filter index", "statistics")),
            "<h3>Patterns</h3>",
            _pattern_table(conn, tuned),
            "<h3>Events</h3>",
            _table(("time (UTC)", "event", "details"), (_event_cells(row) for row in events)),
        ]
    )


def _summarize(column: dict[str, Any]) -> str:
    behind = "" if column["behind"] is None else f" Behind: {column['behind']}."
    return (
        f"{column['state']}; target recall {column['target_recall']:g}, at most {column['max_tail']:.1%} of "
        f"searches under 0.8; {column['metric']}, {column['dimensions']} dimensions, "
        f"index {column['index']}. "
        f"{column['trajectories']:,} searches recorded, {column['replays']:,} replays, "
        f"{column['awaiting_replay']:,} searches wait to be replayed. Verdicts: {column['successes']:,} "
        f"successes, {column['failures']:,} failures, {column['unknown']:,} unknown; feedback on "
        f"{column['feedback']:,} searches.{behind}"
    )


def _promise_chart(conn: psycopg.Connection[Any], tuned: TunedColumn, promise: dict[str, Any]) -> str:
    """Draw the mean recall of the checks since the promise started over, and its proven lower bound."""
    key = {"column_id": tuned.column.id, "k_class": promise["k_class"], "shape": promise["filter"] or ""}
    checks = fetch_rows(conn, "checks_of_promise", key)
    if not checks:
        return ""
    recall = np.array([check.recall for check in checks], dtype=np.float64)
    means, lower = claim_curve(
        recall, promise["confidence"], np.array([check.hardness for check in checks], dtype=np.float64)
    )
    ends = np.unique(np.linspace(0, len(checks) - 1, min(_PROMISE_POINTS, len(checks))).astype(int))
    line = Line(
        "mean so far, and its proven lower bound",
        np.array([checks[end].checked_at.timestamp() for end in ends]),
        means[ends],
        lower=lower[ends],
    )
    title = _class_name(promise["k_class"], promise["filter"])
    svg = chart(
        [line], title=title, x="time of the check (UTC)", y="recall", scale="time", level=tuned.target_recall
    )
    return f"<p>{escape(promise['claim'])}</p>{svg}"


def _index_charts(
    tuned: TunedColumn, replays: IndexReplays, classes: Sequence[dict[str, Any]]
) -> Iterator[str]:
    """Draw recall against time of every index, for each class of k that is searched for."""
    for k in _searched_classes(replays):
        policy = next((row for row in classes if row["k_class"] == k), None)
        lines = []
        for index, own in replays:
            if own.count_replays(k) < _MIN_REPLAYS:
                continue
            sample = own.sample(k)
            name = f"{index.name}, {'ef_search' if index.method == 'hnsw' else 'probes'}"
            chosen = None
            if policy is not None and policy["path_index"] == index.name:
                fixed = policy["probes"] or policy["ef_search"]
                chosen = round(float(position_of(fixed, index.rungs)))
            lines.append(_curve(name, index.rungs, sample.ms.mean(0), sample.recall.mean(0), chosen))
        if lines:
            yield _time_chart(lines, _class_name(k, None), tuned)


def _filter_charts(tuned: TunedColumn, replays: IndexReplays) -> Iterator[str]:
    """Draw recall against time of every access path, for the most frequent kinds of filter.

    Partial indexes are left out: they answer only a part of the searches with a kind of filter.
    """
    replays = [(index, own) for index, own in replays if index.requires is None]
    for (k, shape), count in _count_filters(replays).most_common(_FILTERS):
        if count >= _MIN_REPLAYS:
            yield _time_chart(_filter_lines(replays, k, shape), _class_name(k, shape), tuned)


def _count_filters(replays: IndexReplays) -> Counter[tuple[int, str]]:
    """Count the replays of each class of k and kind of filter."""
    counts: Counter[tuple[int, str]] = Counter()
    for k in _searched_classes(replays):
        for _, own in replays:
            if k in own.k_classes:
                counts.update((k, str(shape)) for shape in own.filtered_sample(k).shape)
    return counts


def _filter_lines(replays: IndexReplays, k: int, shape: str) -> list[Line]:
    """Return a curve for each index, and a point for each path without a choice of effort."""
    lines = []
    for index, own in replays:
        if k not in own.k_classes:
            continue
        sample = own.filtered_sample(k)
        sample = sample.take(sample.shape == shape)
        if len(sample) < _MIN_REPLAYS:
            continue
        name = f"first rows of {index.name}"
        lines.append(_curve(name, index.rungs, sample.scan_ms.mean(0), sample.recall.mean(0)))
        # The other paths do not depend on the index: they are drawn once.
        if index is not replays[0][0]:
            continue
        lines.append(_point("exact, through the filter's index", sample.exact_ms, np.ones(len(sample))))
        for place, (path, ef) in enumerate(other_paths(index.method)):
            name = path if ef is None else f"{path} {ef}"
            lines.append(_point(name, sample.other_ms[:, place], sample.other_recall[:, place]))
    return lines


def _searched_classes(replays: IndexReplays) -> list[int]:
    return sorted({int(k) for _, own in replays for k in own.search_classes})


def _curve(name: str, rungs: Sequence[int], ms: Floats, recall: Floats, chosen: int | None = None) -> Line:
    points = zip(rungs, recall, ms, strict=True)
    labels = [f"{name} {rung}: recall {r:.3f}, {t:.2f} ms" for rung, r, t in points]
    return Line(name, ms, recall, labels, chosen=chosen)


def _point(name: str, ms: Floats, recall: Floats) -> Line:
    known = np.isfinite(ms) & np.isfinite(recall)
    if not known.any():
        return Line(name, np.empty(0), np.empty(0))
    x, y = ms[known].mean(), recall[known].mean()
    return Line(name, np.array([x]), np.array([y]), [f"{name}: recall {y:.3f}, {x:.2f} ms"])


def _time_chart(lines: Sequence[Line], name: str, tuned: TunedColumn) -> str:
    return chart(
        lines,
        title=name,
        x=f"milliseconds per search, in the server ({name})",
        y="recall",
        scale="log",
        level=tuned.target_recall,
    )


def _class_name(k: int, shape: str | None) -> str:
    return f"up to {k} rows" + (f", filtered by {shape}" if shape else "")


def _policy_cells(row: dict[str, Any]) -> tuple[str, ...]:
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


def _advice_section(title: str, advice: Sequence[dict[str, Any]], kinds: Sequence[str]) -> str:
    rows = [row for row in advice if row["kind"] in kinds]
    if not rows:
        return ""
    return f"<h3>{escape(title)}</h3>" + _table(
        ("for", "recommendation", "reason", "statement"),
        ((row["subject"], row["recommendation"], row["reason"], row["statement"] or "") for row in rows),
    )


def _pattern_table(conn: psycopg.Connection[Any], tuned: TunedColumn) -> str:
    patterns = fetch_rows(conn, "patterns", {"column_id": tuned.column.id})
    if not patterns:
        return '<p class="none">None is published: every search of a class has the same effort.</p>'
    most_used = sorted(patterns, key=lambda pattern: -pattern.usage)[:_PATTERNS]
    omitted = f"<p>The most used {_PATTERNS} of {len(patterns)}.</p>" if len(patterns) > _PATTERNS else ""
    return omitted + _table(
        ("k up to", "pattern", "effort", "recall", "confidence", "replays", "used by", "since"),
        (
            (
                str(pattern.k_class),
                str(pattern.pattern_no),
                f"{pattern.effort:.1f}",
                f"{pattern.expected_recall:.3f}",
                f"{pattern.confidence:.2f}",
                f"{pattern.samples:,}",
                f"{pattern.usage / pattern.chances:.1%}" if pattern.chances else "unknown",
                f"{pattern.created_at:%Y-%m-%d %H:%M}",
            )
            for pattern in most_used
        ),
    )


def _event_cells(row: dict[str, Any]) -> tuple[str, ...]:
    details = row["details"]
    text = details.get("why") or ", ".join(f"{key}: {value}" for key, value in details.items())
    return (f"{row['happened_at'].astimezone(UTC):%Y-%m-%d %H:%M}", row["action"], text)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    if not lines:
        return '<p class="none">None.</p>'
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
