"""What vectuned gained: each kind of search with pgvector's default settings, and as it is served now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import psycopg

from vectuned.learning.model.arrays import Floats
from vectuned.learning.model.ladder import interpolate, position_of
from vectuned.learning.model.tuned_columns import TunedColumn, TunedIndex
from vectuned.learning.policy.replays import Replays
from vectuned.learning.statistics.demand import TAIL_RECALL
from vectuned.sql.rows import fetch_rows

_MIN_REPLAYS: Final = 20  # a mean of fewer is noise

IndexReplays = Sequence[tuple[TunedIndex, Replays]]


@dataclass(frozen=True)
class Figures:
    """Mean recall, share of searches with a recall under 0.8 (None: unknown), and mean milliseconds."""

    recall: float
    poor: float | None
    ms: float | None


@dataclass(frozen=True)
class Gain:
    """One kind of search: how many were replayed, with the default settings, and as served now.

    `now.recall` is of `checks` exact checks of served searches; without any, it is expected from replays.
    """

    k_class: int
    shape: str
    replays: int
    before: Figures
    now: Figures
    checks: int


def read_gains(
    conn: psycopg.Connection[Any],
    tuned: TunedColumn,
    replays: IndexReplays,
    promises: Sequence[Mapping[str, Any]],
) -> list[Gain]:
    """Return the gain of each kind of search that something is served for, the most frequent first.

    Times are those of replays in the server, of both settings, so that load and network do not tell.
    """
    if not replays:
        return []
    checked = {(row["k_class"], row["filter"] or ""): row for row in promises if row["checks"]}
    gains = []
    for row in fetch_rows(conn, "served_figures", {"column_id": tuned.column.id}):
        shape = row.shape or ""
        before = (
            _filtered_default(replays, row.k_class, shape) if shape else _default(tuned, replays, row.k_class)
        )
        if before is None:
            continue
        count, figures = before
        promise = checked.get((row.k_class, shape))
        if promise is None:
            now, checks = Figures(row.recall, None, row.ms), 0
        else:
            now, checks = Figures(promise["recall"], promise["below_08"], row.ms), promise["checks"]
        gains.append(Gain(row.k_class, shape, count, figures, now, checks))
    return sorted(gains, key=lambda gain: -gain.replays)


def total(gains: Sequence[Gain]) -> tuple[Figures, Figures]:
    """Return the means of all gains, weighted by the number of replays: before, and now.

    A figure that one of them lacks is unknown for all.
    """
    weights = np.array([gain.replays for gain in gains], dtype=np.float64)

    def mean(values: Sequence[float | None]) -> float | None:
        if any(value is None for value in values):
            return None
        return float(np.average(np.array(values, dtype=np.float64), weights=weights))

    def combine(figures: Sequence[Figures]) -> Figures:
        recall = float(np.average([each.recall for each in figures], weights=weights))
        return Figures(recall, mean([each.poor for each in figures]), mean([each.ms for each in figures]))

    return combine([gain.before for gain in gains]), combine([gain.now for gain in gains])


def _default(tuned: TunedColumn, replays: IndexReplays, k: int) -> tuple[int, Figures] | None:
    """Return the figures of searches without a filter with the default effort of the main index."""
    index, own = replays[0]
    if k not in own.k_classes:
        return None
    sample = own.sample(k)
    if sample.own is not None:
        sample = sample.take(sample.own)
    if len(sample) < _MIN_REPLAYS:
        return None
    place = position_of([tuned.default_effort(index, k)], index.rungs)
    recall, ms = (interpolate(curves, place)[:, 0] for curves in (sample.recall, sample.ms))
    return len(sample), _summarize(recall, ms)


def _filtered_default(replays: IndexReplays, k: int, shape: str) -> tuple[int, Figures] | None:
    """Return the figures of plain SQL as the database plans it: the first of the paths without rungs."""
    _, own = replays[0]
    if k not in own.k_classes:
        return None
    sample = own.filtered_sample(k)
    sample = sample.take(
        sample.shape == shape if sample.own is None else sample.own & (sample.shape == shape)
    )
    recall, ms = sample.other_recall[:, 0], sample.other_ms[:, 0]
    known = np.isfinite(recall) & np.isfinite(ms)  # these paths are tried on a part of the replays
    if np.count_nonzero(known) < _MIN_REPLAYS:
        return None
    return len(sample), _summarize(recall[known], ms[known])


def _summarize(recall: Floats, ms: Floats) -> Figures:
    return Figures(float(recall.mean()), float((recall < TAIL_RECALL).mean()), float(ms.mean()))
