"""`vectuned report`: everything known of the tuned columns in one HTML file that needs nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from importlib import resources
from string import Template
from typing import Any, Final

import numpy as np
import psycopg
from psycopg.rows import dict_row, namedtuple_row

import vectuned
from vectuned.learning.model.arrays import Floats
from vectuned.learning.model.ladder import position_of
from vectuned.learning.model.tuned_columns import TunedColumn, TunedIndex, read_tuned_columns
from vectuned.learning.policy.filtering import OTHER_PATHS
from vectuned.learning.policy.replays import Replays, load_replays
from vectuned.learning.statistics.sequential import claim_from_checks
from vectuned.sql.files import queries

from . import status
from .charts import Line, chart

_STEPS: Final = 60
_EVENTS: Final = 50
_PATTERNS: Final = 20
_SHAPES: Final = 4
_FEWEST: Final = 10

Seen = Sequence[tuple[TunedIndex, Replays]]


def render_report(conn: psycopg.Connection[Any]) -> str:
    """Return the report of every tuned column as an HTML document.

    It holds names of tables and columns, filters without their values, and figures; no rows and no queries.
    Advice may name values that filters ask for often, as it is a statement to be run.
    """
    known = {(column["relation"], column["column_name"]): column for column in status.read(conn)}
    parts = []
    for tuned in read_tuned_columns(conn):
        relation = conn.execute(
            queries()["relation_text"], {"relation": tuned.column.relation.as_string(conn)}
        )
        row = relation.fetchone()
        if row is not None and (row[0], tuned.column.name) in known:
            parts.append(_column(conn, tuned, known[row[0], tuned.column.name]))
    row = conn.execute(queries()["about_server"]).fetchone()
    assert row is not None
    database, server, extension = row
    template = Template(resources.files(__package__).joinpath("report.html").read_text("utf-8"))
    return template.substitute(
        title=escape(f"vectuned: {database}"),
        made=escape(
            f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC · vectuned {vectuned.__version__} · PostgreSQL {server} "
            f"· pgvector {extension}"
        ),
        body="\n".join(parts) or "<p>No column is tuned yet: vectuned enable RELATION COLUMN</p>",
    )


def _column(conn: psycopg.Connection[Any], tuned: TunedColumn, column: dict[str, Any]) -> str:
    seen = [(index, load_replays(conn, tuned, index)) for index in tuned.indexes]
    checked = any(promise["checks"] for promise in column["promises"])
    key = {"relation": column["relation"], "column_name": column["column_name"]}
    cursor = conn.cursor(row_factory=dict_row)
    advice = cursor.execute(queries()["recommend"], key).fetchall()
    events = cursor.execute(queries()["events"], {**key, "count": _EVENTS}).fetchall()
    return "\n".join(
        [
            f"<h2>{escape(str(tuned.column))}</h2>",
            f"<p>{escape(_summary(column))}</p>",
            "<h3>Recall of the searches served, by exact checks</h3>",
            *(_promise(conn, tuned, row) for row in column["promises"]),
            "" if checked else '<p class="none">No served search was checked yet.</p>',
            "<h3>Recall against time, by replays</h3>",
            *_curves(tuned, seen, column["classes"]),
            *_filtered_curves(tuned, seen),
            "<h3>What serves, and why</h3>",
            _table(
                ("k up to", "access path", "index", "effort", "recall", "at least", "proven", "why"),
                (_serving(row) for row in column["classes"]),
            ),
            _advised("Filtered searches", advice, ("filtered search",)),
            _advised("Advice", advice, ("index", "filter index", "statistics")),
            "<h3>Patterns</h3>",
            _patterns(conn, tuned),
            "<h3>Events</h3>",
            _table(("time (UTC)", "what", "details"), (_event(row) for row in events)),
        ]
    )


def _summary(column: dict[str, Any]) -> str:
    behind = "" if column["behind"] is None else f" Behind: {column['behind']}."
    return (
        f"{column['state']}; target recall {column['target_recall']:g}, at most {column['max_tail']:.1%} of "
        f"searches under 0.8; {column['metric']}, {column['dimensions']} dimensions, "
        f"index {column['index']}. "
        f"{column['trajectories']:,} searches recorded, {column['replays']:,} replays, "
        f"{column['awaiting_replay']:,} wait. Verdicts: {column['successes']:,} successes, "
        f"{column['failures']:,} failures, {column['unknown']:,} unknown; feedback on {column['feedback']:,} "
        f"searches.{behind}"
    )


def _promise(conn: psycopg.Connection[Any], tuned: TunedColumn, promise: dict[str, Any]) -> str:
    """Draw the mean of the checks so far and what they proved, at some sixty times since it began anew."""
    key = {"column_id": tuned.column.id, "k_class": promise["k_class"], "shape": promise["filter"] or ""}
    checks = conn.execute(queries()["checks_since"], key).fetchall()
    if not checks:
        return ""
    recall = np.array([row[1] for row in checks], dtype=np.float64)
    ends = np.unique(np.linspace(1, len(checks), min(_STEPS, len(checks))).astype(int))
    said = [claim_from_checks(recall[:end], promise["confidence"]) for end in ends]
    line = Line(
        "mean so far, and what is proven of it",
        np.array([checks[end - 1][0].timestamp() for end in ends]),
        np.array([each.mean for each in said]),
        lower=np.array([each.lower for each in said]),
    )
    name = _kind(promise["k_class"], promise["filter"])
    drawn = chart(
        [line], title=name, x="time of the check (UTC)", y="recall", scale="time", level=tuned.target_recall
    )
    return f"<p>{escape(promise['claim'])}</p>{drawn}"


def _curves(tuned: TunedColumn, seen: Seen, classes: Sequence[dict[str, Any]]) -> Iterable[str]:
    """Draw recall against time of every index, for each class of k that is asked for."""
    for k in _asked(seen):
        serving = next((row for row in classes if row["k_class"] == k), None)
        lines = []
        for index, replays in seen:
            if replays.count_replays(k) < _FEWEST:
                continue
            sample = replays.sample(k)
            name = f"{index.name}, {'ef_search' if index.method == 'hnsw' else 'probes'}"
            chosen = None
            if serving is not None and serving["path_index"] == index.name:
                fixed = serving["probes"] or serving["ef_search"]
                chosen = round(float(position_of(fixed, index.rungs)))
            lines.append(_curve(name, index.rungs, sample.ms.mean(0), sample.recall.mean(0), chosen))
        if lines:
            yield _against_time(lines, _kind(k, None), tuned)


def _filtered_curves(tuned: TunedColumn, seen: Seen) -> Iterable[str]:
    """Draw the same of the kinds of filter asked for most, with the ways that have no effort to choose.

    Not of partial indexes: what they answer is not all that a kind of filter asks.
    """
    seen = [(index, replays) for index, replays in seen if index.requires is None]
    counts: Counter[tuple[int, str]] = Counter()
    for k in _asked(seen):
        for _, replays in seen:
            if k in replays.k_classes:
                counts.update((k, str(shape)) for shape in replays.filtered_sample(k).shape)
    for (k, shape), count in counts.most_common(_SHAPES):
        if count < _FEWEST:
            break
        lines = []
        for index, replays in seen:
            if k not in replays.k_classes:
                continue
            sample = replays.filtered_sample(k)
            sample = sample.take(sample.shape == shape)
            if len(sample) < _FEWEST:
                continue
            lines.append(
                _curve(
                    f"first rows of {index.name}",
                    index.rungs,
                    sample.scan_ms.mean(0),
                    sample.recall.mean(0),
                )
            )
            if index is not seen[0][0]:
                continue
            lines.append(_point("exact, through the filter's index", sample.exact_ms, np.ones(len(sample))))
            for place, (path, ef) in enumerate(OTHER_PATHS):
                name = path if ef is None else f"{path} {ef}"
                lines.append(_point(name, sample.other_ms[:, place], sample.other_recall[:, place]))
        yield _against_time(lines, _kind(k, shape), tuned)


def _asked(seen: Seen) -> list[int]:
    return sorted({int(k) for _, replays in seen for k in replays.search_classes})


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


def _against_time(lines: Sequence[Line], name: str, tuned: TunedColumn) -> str:
    return chart(
        lines,
        title=name,
        x=f"milliseconds a search, in the server ({name})",
        y="recall",
        scale="log",
        level=tuned.target_recall,
    )


def _kind(k: int, shape: str | None) -> str:
    return f"up to {k} rows" + (f", filtered by {shape}" if shape else "")


def _serving(row: dict[str, Any]) -> tuple[str, ...]:
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


def _advised(title: str, advice: Sequence[dict[str, Any]], kinds: Sequence[str]) -> str:
    rows = [row for row in advice if row["kind"] in kinds]
    if not rows:
        return ""
    return f"<h3>{escape(title)}</h3>" + _table(
        ("for", "what", "why", "statement"),
        ((row["subject"], row["recommendation"], row["reason"], row["statement"] or "") for row in rows),
    )


def _patterns(conn: psycopg.Connection[Any], tuned: TunedColumn) -> str:
    cursor: psycopg.Cursor[Any] = conn.cursor(row_factory=namedtuple_row)
    rows = cursor.execute(queries()["patterns"], {"column_id": tuned.column.id}).fetchall()
    if not rows:
        return '<p class="none">None are published: every search of a class has the same effort.</p>'
    shown = sorted(rows, key=lambda row: -row.usage)[:_PATTERNS]
    more = "" if len(rows) <= _PATTERNS else f"<p>The most used {_PATTERNS} of {len(rows)}.</p>"
    return more + _table(
        ("k up to", "pattern", "effort", "recall", "confidence", "replays", "met by", "since"),
        (
            (
                str(row.k_class),
                str(row.pattern_no),
                f"{row.effort:.1f}",
                f"{row.expected_recall:.3f}",
                f"{row.confidence:.2f}",
                f"{row.samples:,}",
                f"{row.usage / row.chances:.1%}" if row.chances else "unknown",
                f"{row.created_at:%Y-%m-%d %H:%M}",
            )
            for row in shown
        ),
    )


def _event(row: dict[str, Any]) -> tuple[str, ...]:
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
