"""What replays show, written down: the curves of every index, the checks, and what each search was worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg

from vectuned.learning.model.arrays import Bools, Floats
from vectuned.learning.model.ladder import k_class
from vectuned.learning.model.tuned_columns import TunedIndex
from vectuned.sql.files import queries

from .batch import ReplayBatch
from .scan import IndexScans


@dataclass(frozen=True)
class ReplayResults:
    """Hold what a chunk of n searches showed.

    `scans` by index; `probes` float64 (n, width) of the main index, None where it is not probed; `version` of
    the bank that served, None without one; `checked` bool (n,), the searches that were answered as they are
    served now, with a recall of `checks` float64 (n,), NaN where that was given up.
    """

    scans: dict[TunedIndex, IndexScans]
    probes: Floats | None
    version: int | None
    checked: Bools
    checks: Floats


def store(conn: psycopg.Connection[Any], chunk: ReplayBatch, shown: ReplayResults) -> None:
    """Store what a chunk showed, and mark its searches replayed. Runs in the transaction `conn` is in."""
    main = chunk.tuned.indexes[0]
    for index, scan in shown.scans.items():
        rows = _rows(chunk, scan, shown.probes if index is main else None)
        with conn.cursor() as cursor:
            cursor.executemany(queries()["insert_replay"], rows)
    _store_checks(conn, chunk, shown)
    _mark(conn, chunk)


def _rows(chunk: ReplayBatch, scan: IndexScans, probes: Floats | None) -> list[dict[str, Any]]:
    """Lay out what the scans through one index showed."""
    index, count, rungs = scan.index, len(chunk), len(scan.index.rungs)
    recall = np.full((count, len(chunk.classes), rungs), np.nan)
    # What is searched anew applies the filter, and a partial index lacks rows: both know nothing without.
    bare = scan.finished & (~chunk.filtered | (index.resumable and index.requires is None))
    if bare.any():
        truth = chunk.truth.take(bare)
        recall[bare] = np.stack([scan.recall(bare, truth, k) for k in chunk.classes], axis=1)
    filtered_recall = np.full(recall.shape, np.nan)
    own = scan.finished & chunk.filtered
    if own.any() and chunk.filtered_truth is not None:
        truth = chunk.filtered_truth.take(own[chunk.filtered])
        filtered_recall[own] = np.stack([scan.filtered_recall(own, truth, k) for k in chunk.classes], axis=1)
    matches = np.where(scan.cut_short, -1, scan.matches)
    rows = []
    for i in (int(place) for place in np.flatnonzero(scan.finished)):
        # A scan that ended early knows nothing of classes above its own.
        known = (
            len(chunk.classes) if chunk.complete[i] else chunk.classes.index(k_class(int(chunk.ks[i]))) + 1
        )
        filtered, fraction = bool(chunk.filtered[i]), chunk.searches.fractions[i]
        others = None
        if scan.other_ms[i] and chunk.filtered_truth is not None:
            number = int(chunk.place[i])
            others = [scan.other_recall(i, number, chunk.filtered_truth, k) for k in chunk.classes[:known]]
        rows.append(
            {
                "query_id": chunk.searches.query_ids[i],
                "column_id": chunk.tuned.column.id,
                "generation": index.generation,
                "k_class": k_class(int(chunk.ks[i])),
                "k_classes": chunk.classes[:known],
                "probe": [] if probes is None else probes[i].tolist(),
                "recall": recall[i, :known].astype(np.float32).tolist() if bare[i] else None,
                "blocks": scan.blocks[i].tolist(),
                "ms": scan.ms[i].tolist(),
                "shape": chunk.shapes[i],
                "fraction": min((fraction or 0.0) / index.share, 1.0) if filtered else None,
                "filtered_recall": filtered_recall[i, :known].tolist() if filtered else None,
                "matches": matches[i].tolist() if filtered else None,
                "exact_ms": float(scan.exact_ms[i]) if filtered else None,
                "other_recall": others,
                "other_ms": scan.other_ms[i] or None,
            }
        )
    return rows


def _store_checks(conn: psycopg.Connection[Any], chunk: ReplayBatch, shown: ReplayResults) -> None:
    searches, checks = chunk.searches, shown.checks
    with conn.cursor() as cursor:
        cursor.executemany(
            queries()["insert_check"],
            [
                {
                    "column_id": chunk.tuned.column.id,
                    "query_id": searches.query_ids[i],
                    "k_class": k_class(int(chunk.ks[i])),
                    "shape": chunk.shapes[i] or "",
                    "version": shown.version,
                    "recall": None if np.isnan(checks[i]) else float(checks[i]),
                }
                for i in (int(place) for place in np.flatnonzero(shown.checked))
            ],
        )


def _mark(conn: psycopg.Connection[Any], chunk: ReplayBatch) -> None:
    """Mark the searches replayed, with the recall that each was served with."""
    searches = chunk.searches
    served, understood = chunk.recall(searches.distances), chunk.understood
    with conn.cursor() as cursor:
        cursor.executemany(
            queries()["mark_replayed"],
            [
                {
                    "query_id": searches.query_ids[i],
                    "recorded_at": searches.recorded_at[i],
                    # Of a filter that no longer fits the table nothing is known.
                    "recall": float(served[i]) if understood[i] else None,
                    "keep": chunk.tuned.store_vectors,
                }
                for i in range(len(searches))
            ],
        )
