"""Reads and writes of replays: the curves of every index, the checks, and the recall of each search."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
import psycopg

from vectuned.config.errors import VectunedError
from vectuned.learning.model.arrays import Bools, Floats
from vectuned.learning.model.ladder import k_class
from vectuned.learning.model.trajectory import Trajectories
from vectuned.learning.model.tuned_columns import TunedColumn, TunedIndex
from vectuned.sql.files import queries
from vectuned.sql.rows import fetch_value, fetch_values

from .batch import ReplayBatch
from .scan import IndexScans


@dataclass(frozen=True)
class ReplayResults:
    """Hold the results of replaying a batch of n searches.

    `scans` by index; `probes` float64 (n, PROBE_WIDTH), what short searches through the main index return,
    None where it is not probed; `version` of the bank in service, None without one; `checked` bool (n,), the
    searches that were repeated as they are served now, and `checks` float64 (n,), their recall, NaN where
    that failed; `done`, how many searches were replayed: the first ones, where the pass ended early.
    """

    scans: dict[TunedIndex, IndexScans]
    probes: Floats | None
    version: int | None
    checked: Bools
    checks: Floats
    done: int


def read_replayed(
    conn: psycopg.Connection[Any], tuned: TunedColumn, searches: Trajectories, index: TunedIndex
) -> set[UUID]:
    """Read which of these searches were already replayed on the present generation of an index."""
    values = {
        "column_id": tuned.column.id,
        "generation": index.generation,
        "query_ids": searches.query_ids,
    }
    return set(fetch_values(conn, "replayed", values))


def read_bank_version(conn: psycopg.Connection[Any], tuned: TunedColumn) -> int | None:
    """Read the version of the bank in service, None without one."""
    version: int | None = fetch_value(conn, "bank_version", {"column_id": tuned.column.id})
    return version


def require_generation(conn: psycopg.Connection[Any], tuned: TunedColumn, index: TunedIndex) -> None:
    """Raise VectunedError if an index was dropped or rebuilt since `tuned` was read."""
    values = {"column_id": tuned.column.id, "index_no": index.number}
    generation = fetch_value(conn, "generation", values)
    if generation is None:
        raise VectunedError(
            f"The index {index.name} of {tuned.column} is gone; the next refresh takes another one."
        )
    if generation != index.generation:
        raise VectunedError(
            f"The index {index.name} of {tuned.column} was rebuilt meanwhile: read the tuned columns again, "
            "then replay."
        )


def store(conn: psycopg.Connection[Any], batch: ReplayBatch, results: ReplayResults) -> None:
    """Store the results of a batch and mark the searches that are done, in the transaction `conn` is in."""
    main = batch.tuned.indexes[0]
    with conn.cursor() as cursor:
        for index, scans in results.scans.items():
            probes = results.probes if index is main else None
            cursor.executemany(queries()["insert_replay"], _replay_rows(batch, scans, probes, results.done))
        cursor.executemany(queries()["insert_check"], _check_rows(batch, results))
        cursor.executemany(queries()["mark_replayed"], _served_rows(batch, results.done))


def _replay_rows(
    batch: ReplayBatch, scans: IndexScans, probes: Floats | None, done: int
) -> Iterator[dict[str, Any]]:
    """Yield the values of insert_replay for the first `done` searches that finished through one index."""
    index, searches = scans.index, batch.searches
    recall, has_recall = _recall(batch, scans)
    filtered_recall = _filtered_recall(batch, scans)
    asked, asked_filtered = _asked_recall(batch, scans)
    matches = np.where(scans.cut_short, -1, scans.matches)
    for i in np.flatnonzero(scans.finished[:done]).tolist():
        known = _known_classes(batch, i)
        filtered, fresh = bool(batch.filtered[i]), scans.fresh[i]
        yield {
            "query_id": searches.query_ids[i],
            "column_id": batch.tuned.column.id,
            "recorded_at": searches.recorded_at[i],
            "generation": index.generation,
            "k": int(batch.ks[i]),
            "k_class": k_class(int(batch.ks[i])),
            "k_classes": batch.classes[:known],
            "probe": [] if probes is None else probes[i].tolist(),
            "recall": recall[i, :known].astype(np.float32).tolist() if has_recall[i] else None,
            "blocks": scans.blocks[i].tolist(),
            "ms": scans.ms[i].tolist(),
            "shape": batch.shapes[i],
            "fraction": min((batch.fractions[i] or 0.0) / index.share, 1.0) if filtered else None,
            "filtered_recall": filtered_recall[i, :known].tolist() if filtered else None,
            "matches": matches[i].tolist() if filtered else None,
            "exact_ms": float(scans.exact_ms[i]) if filtered else None,
            "other_recall": _other_recall(batch, scans, i),
            "other_ms": scans.other_ms[i] or None,
            "takes_index": scans.takes_index[i],
            "fresh_place": None if fresh is None else fresh[0],
            "fresh_ms": None if fresh is None else fresh[1],
            "asked_recall": asked[i].tolist() if has_recall[i] else None,
            "asked_filtered_recall": asked_filtered[i].tolist() if filtered else None,
        }


def _known_classes(batch: ReplayBatch, i: int) -> int:
    """Return how many classes of k a replay knows: one that ended early knows none above its own."""
    if batch.complete[i]:
        return len(batch.classes)
    return batch.classes.index(k_class(int(batch.ks[i]))) + 1


def _recall(batch: ReplayBatch, scans: IndexScans) -> tuple[Floats, Bools]:
    """Score the searches without their filters: (n, classes, rungs), and bool (n,), which have a recall."""
    scored = _scored(batch, scans)
    recall = np.full((len(batch), len(batch.classes), len(scans.index.rungs)), np.nan)
    if scored.any():
        truth = batch.truth.take(scored)
        recall[scored] = np.stack([scans.recall(scored, truth, k) for k in batch.classes], axis=1)
    return recall, scored


def _asked_recall(batch: ReplayBatch, scans: IndexScans) -> tuple[Floats, Floats]:
    """Score every search at its own k, without and with its filter: (n, rungs) each, NaN where unknown."""
    scored = _scored(batch, scans)
    recall = np.full((len(batch), len(scans.index.rungs)), np.nan)
    filtered_recall = np.full(recall.shape, np.nan)
    if scored.any():
        recall[scored] = scans.recall(scored, batch.truth.take(scored), batch.ks[scored])
    filtered = scans.finished & batch.filtered
    if filtered.any() and batch.filtered_truth is not None:
        truth = batch.filtered_truth.take(filtered[batch.filtered])
        filtered_recall[filtered] = scans.filtered_recall(filtered, truth, batch.ks[filtered])
    return recall, filtered_recall


def _scored(batch: ReplayBatch, scans: IndexScans) -> Bools:
    """Say which searches have a recall without their filter, bool (n,).

    A filtered search has none where the index applied the filter itself, as restarted scans do, or lacks
    rows, as a partial index does.
    """
    index = scans.index
    return scans.finished & (~batch.filtered | (index.resumable and index.requires is None))


def _filtered_recall(batch: ReplayBatch, scans: IndexScans) -> Floats:
    """Score the filtered searches by their matching rows: (n, classes, rungs), NaN for the others."""
    scored = scans.finished & batch.filtered
    recall = np.full((len(batch), len(batch.classes), len(scans.index.rungs)), np.nan)
    if scored.any() and batch.filtered_truth is not None:
        truth = batch.filtered_truth.take(scored[batch.filtered])
        recall[scored] = np.stack([scans.filtered_recall(scored, truth, k) for k in batch.classes], axis=1)
    return recall


def _other_recall(batch: ReplayBatch, scans: IndexScans, i: int) -> list[float] | None:
    """Score the access paths without rungs at the search's own k, which is how many rows they return.

    None where none was tried.
    """
    if not scans.other_ms[i] or batch.filtered_truth is None:
        return None
    place = int(batch.filtered_place[i])
    return scans.other_recall(i, place, batch.filtered_truth, int(batch.ks[i]))


def _check_rows(batch: ReplayBatch, results: ReplayResults) -> Iterator[dict[str, Any]]:
    """Yield the values of insert_check for the searches that were repeated."""
    for i in np.flatnonzero(results.checked[: results.done]).tolist():
        recall = float(results.checks[i])
        yield {
            "column_id": batch.tuned.column.id,
            "query_id": batch.searches.query_ids[i],
            "recorded_at": batch.searches.recorded_at[i],
            "k_class": k_class(int(batch.ks[i])),
            "shape": batch.shapes[i] or "",
            "version": results.version,
            "recall": None if np.isnan(recall) else recall,
            "hardness": _last_distance(batch, i),
            "filter": batch.searches.filters[i],
        }


def _last_distance(batch: ReplayBatch, i: int) -> float | None:
    """Return the distance of the last row of the exact answer to search `i`, None without rows."""
    truth, place = batch.truth, i
    if batch.filtered[i] and batch.filtered_truth is not None:
        truth, place = batch.filtered_truth, int(batch.filtered_place[i])
    rows = min(int(batch.ks[i]), int(truth.counts[place]))
    return float(truth.distances[place, rows - 1]) if rows else None


def _served_rows(batch: ReplayBatch, done: int) -> Iterator[dict[str, Any]]:
    """Yield the values of mark_replayed for the first `done` searches: the recall each was served with."""
    searches, valid = batch.searches, batch.valid
    recall = batch.recall(searches.distances)
    for i in range(done):
        yield {
            "query_id": searches.query_ids[i],
            "recorded_at": searches.recorded_at[i],
            # The answer of a call is unknown, as is the exact one to a filter that no longer fits the table.
            "recall": float(recall[i]) if valid[i] and searches.answered[i] else None,
            "keep": batch.tuned.store_vectors,
        }
