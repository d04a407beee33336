"""The curves of the report: recall of served searches over time, and recall against time by replays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import psycopg

from vectuned.learning.model.arrays import Floats
from vectuned.learning.model.ladder import position_of
from vectuned.learning.model.tuned_columns import TunedColumn
from vectuned.learning.policy.filtering import other_paths
from vectuned.learning.statistics.claims import claim_curve
from vectuned.sql.rows import fetch_rows

from .answers import class_name
from .charts import Line, chart
from .gains import IndexReplays

_PROMISE_POINTS: Final = 60  # times at which a promise is drawn: what a chart can show
_FILTERS: Final = 4  # charts of the most frequent kinds of filter
_PLAIN_SQL: Final = "plain SQL with the default settings"
_MIN_REPLAYS: Final = 10  # a mean of fewer replays is noise


def promise_chart(conn: psycopg.Connection[Any], tuned: TunedColumn, promise: dict[str, Any]) -> str:
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
    title = class_name(promise["k_class"], promise["filter"])
    return chart(
        [line], title=title, x="time of the check (UTC)", y="recall", scale="time", level=tuned.target_recall
    )


def index_charts(
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
            yield _time_chart(lines, class_name(k, None), tuned)


def filter_charts(tuned: TunedColumn, replays: IndexReplays) -> Iterator[str]:
    """Draw recall against time of every access path, for the most frequent kinds of filter.

    Partial indexes are left out: they answer only a part of the searches with a kind of filter.
    """
    replays = [(index, own) for index, own in replays if index.requires is None]
    for (k, shape), count in _count_filters(replays).most_common(_FILTERS):
        if count >= _MIN_REPLAYS:
            yield _time_chart(_filter_lines(replays, k, shape), class_name(k, shape), tuned)


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
        for place, (_, ef) in enumerate(other_paths(index.method)):
            name = _PLAIN_SQL if ef is None else f"iterative scan, {index.effort_name} {ef}"
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
        x="milliseconds per search, in the server",
        y="recall",
        scale="log",
        level=tuned.target_recall,
    )
