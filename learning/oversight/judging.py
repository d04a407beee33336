"""Judging recorded searches: what is known of them, from the database to a verdict and back."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import psycopg
from psycopg.rows import namedtuple_row

from vectuned.learning.model import ladder
from vectuned.learning.model.tuned_columns import TunedColumn
from vectuned.learning.patterns.optimizer import raise_effort
from vectuned.learning.policy.storage import read_bank
from vectuned.learning.statistics.margin import compare_failures, next_margin
from vectuned.sql.files import queries

from .verdict import Counts, Signals, Verdicts, diversity, judge_signals

_BATCH: Final = 1000
_RECENT: Final = 10_000
_FEWEST: Final = 20  # searches of a class, before it is known what is usual


def judge_searches(conn: psycopg.Connection[Any], tuned: TunedColumn, batch: int = _BATCH) -> int:
    """Judge searches that were replayed, or that users spoke of, since they were judged; return how many.

    Each batch is stored by one statement. What is due is told by flags and counters and not by clocks, so a
    verdict is neither lost nor given twice whatever the clock does; judging again changes nothing.
    """
    total = 0
    usual: dict[tuple[int, bool], tuple[float, float]] | None = None
    cursor: psycopg.Cursor[Any] = conn.cursor(row_factory=namedtuple_row)
    while True:
        values = {"column_id": tuned.column.id, "count": batch}
        rows = cursor.execute(queries()["unjudged"], values).fetchall()
        if not rows:
            return total
        usual = usual if usual is not None else _usual(conn, tuned)
        stored = _store(conn, rows, judge_signals(_signals(tuned, rows, usual), tuned.target_recall))
        total += stored
        if len(rows) < batch or not stored:
            return total


def class_counts(conn: psycopg.Connection[Any], tuned: TunedColumn) -> dict[tuple[int, bool], Counts]:
    """Count the verdicts of the column's window by (class of k, whether filtered)."""
    values = {"column_id": tuned.column.id, "count": tuned.trajectory_window}
    cursor: psycopg.Cursor[Any] = conn.cursor(row_factory=namedtuple_row)
    return {
        (row.k_class, row.filtered): Counts(row.successes, row.failures, row.unknown)
        for row in cursor.execute(queries()["verdict_counts"], values).fetchall()
    }


def update_margins(conn: psycopg.Connection[Any], tuned: TunedColumn) -> dict[int, float]:
    """Move each class's margin of effort by its verdicts since it was last moved; return those that moved.

    Failures beyond the share that the column tolerates raise what serves at once; a margin that successes
    lowered counts from the next publish on. Each move starts the counting anew.
    """
    moved = {}
    cursor: psycopg.Cursor[Any] = conn.cursor(row_factory=namedtuple_row)
    for row in cursor.execute(queries()["margins"], {"column_id": tuned.column.id}).fetchall():
        allowed = 1.0 - min(tuned.max_tail, 0.5)
        if not compare_failures(row.failures, row.successes, target=allowed):
            continue
        margin = next_margin(row.margin, row.failures, row.successes, tuned.learning_rate, target=allowed)
        key = {"column_id": tuned.column.id, "k_class": row.k_class}
        with conn.transaction():
            conn.execute(queries()["set_margin"], {**key, "margin": margin, "latest": row.latest})
            if margin > row.margin:
                _raise(conn, tuned, row.k_class, margin - row.margin)
        if margin != row.margin:
            moved[int(row.k_class)] = margin
    return moved


def _raise(conn: psycopg.Connection[Any], tuned: TunedColumn, k: int, rungs: float) -> None:
    """Serve a class of k with some rungs more, until the next publish does."""
    served = read_bank(conn, tuned).get(k)
    if served is None:
        return
    policy = raise_effort(served[0], rungs)
    key = {"column_id": tuned.column.id, "k_class": k}
    why = f"; {rungs:.2g} rungs more after failures"
    values = {**key, "ef_search": policy.ef_search, "probes": policy.probes, "why": why}
    conn.execute(queries()["raise_effort"], values)
    conn.execute(queries()["raise_patterns"], {**key, "rungs": rungs})


def _usual(conn: psycopg.Connection[Any], tuned: TunedColumn) -> dict[tuple[int, bool], tuple[float, float]]:
    """Return median and 95th percentile of the latency, milliseconds, by (class of k, whether filtered)."""
    values = {"column_id": tuned.column.id, "count": _RECENT, "least": _FEWEST}
    rows = conn.execute(queries()["usual_latency"], values).fetchall()
    return {(row[0], row[1]): (row[2], row[3]) for row in rows}


def _signals(
    tuned: TunedColumn, rows: list[Any], usual: dict[tuple[int, bool], tuple[float, float]]
) -> Signals:
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


def _efforts(tuned: TunedColumn, rows: list[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the position on its ladder that each search was served with; NaN where it had none."""
    rungs = {index.number: index.rungs for index in tuned.indexes}
    found = np.full(len(rows), np.nan)
    for i, row in enumerate(rows):
        if row.ef_search is not None:
            found[i] = ladder.position_of(row.ef_search)
        elif row.probes is not None and row.index_no in rungs:
            found[i] = ladder.position_of(row.probes, rungs[row.index_no])
    return found


def _store(conn: psycopg.Connection[Any], rows: list[Any], verdicts: Verdicts) -> int:
    values = {
        "query_ids": [row.query_id for row in rows],
        "recorded_at": [row.recorded_at for row in rows],
        "recalls": [row.recall for row in rows],
        "outcomes": verdicts.outcome.tolist(),
        "confidences": verdicts.confidence.tolist(),
        "recommendations": verdicts.recommendation.tolist(),
        "revisions": [row.revision for row in rows],
    }
    row = conn.execute(queries()["store_verdicts"], values).fetchone()
    return int(row[0]) if row is not None else 0
