"""Judging of recorded searches: from signals in the database to stored verdicts, and to margins of effort."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
import psycopg

from vectuned.learning.model import ladder
from vectuned.learning.model.arrays import Floats
from vectuned.learning.model.tuned_columns import TunedColumn
from vectuned.learning.patterns.optimizer import raise_effort
from vectuned.learning.policy.storage import read_bank
from vectuned.learning.statistics.margin import compare_failures, next_margin
from vectuned.sql.rows import execute, fetch_rows, fetch_value

from .verdict import Signals, Verdicts, diversity, judge_signals

_BATCH: Final = 1000  # searches judged by one statement: their distances stay within a few MB
_LATENCY_WINDOW: Final = 10_000  # newest searches that the usual latency is taken from
_MIN_SEARCHES: Final = 20  # of a class of searches, before its usual latency is known
# An upper limit of the share of failures that raises no margin, also where a column tolerates a larger tail.
_MAX_FAILURE_SHARE: Final = 0.5

_UsualLatency = dict[tuple[int, bool], tuple[float, float]]


def judge_searches(conn: psycopg.Connection[Any], tuned: TunedColumn, batch: int = _BATCH) -> int:
    """Judge searches that were replayed, or got feedback, since they were last judged; return their number.

    Each batch is stored by one statement. Flags and counters, not clocks, say which searches are due, so no
    verdict is lost or given twice whatever the clock does; judging again changes nothing.
    """
    total = 0
    usual: _UsualLatency | None = None
    while True:
        rows = fetch_rows(conn, "searches_to_judge", {"column_id": tuned.column.id, "count": batch})
        if not rows:
            return total
        usual = usual if usual is not None else _read_usual_latency(conn, tuned)
        stored = _store(conn, rows, judge_signals(_signals(tuned, rows, usual), tuned.target_recall))
        total += stored
        if len(rows) < batch or not stored:
            return total


def update_margins(conn: psycopg.Connection[Any], tuned: TunedColumn) -> dict[int, float]:
    """Update each class's margin of effort by the verdicts since its last change; return those that changed.

    More failures than the column tolerates raise the effort that serves at once. A margin that successes
    lowered counts from the next publish on. Each change starts the counting again.
    """
    changed = {}
    for row in fetch_rows(conn, "margins", {"column_id": tuned.column.id}):
        target = 1.0 - min(tuned.max_tail, _MAX_FAILURE_SHARE)
        if not compare_failures(row.failures, row.successes, target=target):
            continue
        margin = next_margin(row.margin, row.failures, row.successes, tuned.learning_rate, target=target)
        key = {"column_id": tuned.column.id, "k_class": row.k_class}
        with conn.transaction():
            execute(conn, "set_margin", {**key, "margin": margin, "latest": row.latest})
            if margin > row.margin:
                _raise_served_effort(conn, tuned, row.k_class, margin - row.margin)
        if margin != row.margin:
            changed[int(row.k_class)] = margin
    return changed


def _raise_served_effort(conn: psycopg.Connection[Any], tuned: TunedColumn, k: int, rungs: float) -> None:
    """Serve a class of k with some rungs more until the next publish."""
    served = read_bank(conn, tuned).get(k)
    if served is None:
        return
    policy = raise_effort(served[0], rungs)
    if tuned.max_effort is not None and policy.fixed_ef > tuned.max_effort:
        policy = replace(policy, fixed_ef=max(served[0].fixed_ef, tuned.max_effort))
    key = {"column_id": tuned.column.id, "k_class": k}
    why = f"; {rungs:.2g} rungs more after failures"
    values = {**key, "ef_search": policy.ef_search, "probes": policy.probes, "why": why}
    execute(conn, "raise_effort", values)
    execute(conn, "raise_patterns", {**key, "rungs": rungs})


def _read_usual_latency(conn: psycopg.Connection[Any], tuned: TunedColumn) -> _UsualLatency:
    """Return median and 95th percentile of the latency, milliseconds, by (class of k, whether filtered)."""
    values = {"column_id": tuned.column.id, "count": _LATENCY_WINDOW, "least": _MIN_SEARCHES}
    rows = fetch_rows(conn, "usual_latency", values)
    return {(row.k_class, row.filtered): (row.usual, row.slow) for row in rows}


def _signals(tuned: TunedColumn, rows: list[Any], usual: _UsualLatency) -> Signals:
    """Return what is known of the searches in `rows`."""
    returned = np.array([len(row.distances) for row in rows], dtype=np.int64)
    distances = np.full((len(rows), max(int(returned.max()), 1)), np.nan)
    for i, row in enumerate(rows):
        distances[i, : len(row.distances)] = row.distances
    times = np.array([usual.get((row.k_class, row.filtered), (np.nan, np.nan)) for row in rows])
    return Signals(
        recall=np.array([np.nan if row.recall is None else row.recall for row in rows]),
        k=np.array([row.k for row in rows], dtype=np.int64),
        returned=returned,
        matching=np.full(len(rows), np.nan),
        diversity=diversity(distances),
        latency_ms=np.array([row.latency_ms for row in rows], dtype=np.float64),
        usual_ms=times[:, 0],
        slow_ms=times[:, 1],
        relevant=np.array([row.relevant for row in rows], dtype=np.int64),
        irrelevant=np.array([row.irrelevant for row in rows], dtype=np.int64),
        effort=_efforts(tuned, rows),
        exact=np.array([row.access_path.startswith("exact") for row in rows]),
        certified=np.array([row.certified for row in rows]),
        index_missing=np.array([row.index_missing for row in rows]),
    )


def _efforts(tuned: TunedColumn, rows: list[Any]) -> Floats:
    """Return the position on its ladder that each search was served with; NaN where it had none."""
    rungs = {index.number: index.rungs for index in tuned.indexes}
    efforts = np.full(len(rows), np.nan)
    for i, row in enumerate(rows):
        if row.ef_search is not None:
            efforts[i] = ladder.position_of(row.ef_search)
        elif row.probes is not None and row.index_no in rungs:
            efforts[i] = ladder.position_of(row.probes, rungs[row.index_no])
    return efforts


def _store(conn: psycopg.Connection[Any], rows: list[Any], verdicts: Verdicts) -> int:
    """Store the verdicts on the searches in `rows`; return how many were stored."""
    values = {
        "query_ids": [row.query_id for row in rows],
        "recorded_at": [row.recorded_at for row in rows],
        "recalls": [row.recall for row in rows],
        "outcomes": verdicts.outcome.tolist(),
        "confidences": verdicts.confidence.tolist(),
        "recommendations": verdicts.recommendation.tolist(),
        "revisions": [row.revision for row in rows],
    }
    return int(fetch_value(conn, "store_verdicts", values))
