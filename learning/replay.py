"""Counterfactual replay: what every effort would have given a search, from one continued scan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import psycopg
from pgvector import Vector

from vectuned.config.errors import VectunedError
from vectuned.sql.loader import queries

from .calibration import Evidence
from .catalogue import Care
from .ladder import K_CLASSES, PROBES, RUNGS, k_class
from .neighbors import Floats, Ints
from .trajectory import Trajectories
from .truth import Truth, exact_neighbors, recall_at_k, recall_curve

_DEPTH: Final = PROBES[-1]
_LEAST_K: Final = 100
_CHUNK: Final = 250
_SCAN_TIMEOUT_MS: Final = 60_000


@dataclass(frozen=True)
class Replays:
    """Hold n replays on one generation of an index.

    `asked` int64 (n,), the class of k each search belonged to; `k_classes` (c,) those with a recall;
    `probes` float64 (n, 112), distances in the order the scan gave them, padded with +inf;
    `recall` float64 (n, c, rungs), `blocks` and `ms` float64 (n, rungs), index buffers and milliseconds.
    """

    asked: Ints
    k_classes: tuple[int, ...]
    probes: Floats
    recall: Floats
    blocks: Floats
    ms: Floats

    def __len__(self) -> int:
        return len(self.asked)

    def evidence(self, k: int) -> Evidence:
        """Return what these replays say about the class `k`, one of `k_classes`."""
        return Evidence(k, self.probes, self.recall[:, self.k_classes.index(k)], self.blocks)


def replay(
    conn: psycopg.Connection[Any],
    care: Care,
    trajectories: Trajectories,
    *,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Replay searches, store what they show, and mark them replayed; return how many.

    The exact answers of a chunk of searches and its scans see one snapshot, in one transaction; `conn` must
    be in autocommit mode. `progress` is told the number done after each search. Where the column's vectors
    are not to be kept, the query is dropped with the same transaction.

    Raises VectunedError when the index is gone or the plan is not the one to be measured.
    """
    if care.generation is None:
        raise VectunedError(
            f"The index of {care.column} is gone: create an HNSW index and call vectuned.enable again."
        )
    done = 0
    for start in range(0, len(trajectories), _CHUNK):
        part = slice(start, start + _CHUNK)
        with conn.transaction():
            conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            conn.execute(f"SET LOCAL statement_timeout = {_SCAN_TIMEOUT_MS}")
            done = _replay_chunk(conn, care, trajectories, part, done, progress)
    return done


def _replay_chunk(
    conn: psycopg.Connection[Any],
    care: Care,
    trajectories: Trajectories,
    part: slice,
    done: int,
    progress: Callable[[int], None] | None,
) -> int:
    vectors, ks = trajectories.vectors[part], np.array(trajectories.ks[part], dtype=np.int64)
    deepest = max(_LEAST_K, k_class(int(ks.max())))
    conn.execute("SET LOCAL statement_timeout = 0")  # the table may be large; the stream shows progress
    truth = exact_neighbors(conn, care.column, vectors, deepest)
    conn.execute(f"SET LOCAL statement_timeout = {_SCAN_TIMEOUT_MS}")
    classes = [k for k in K_CLASSES if k <= deepest]

    scanned = np.full((len(vectors), RUNGS[-1]), np.inf)
    counts = np.zeros((len(vectors), len(RUNGS)), dtype=np.int64)
    blocks, ms = np.zeros(counts.shape), np.zeros(counts.shape)
    statement = queries()["replay_search"]
    for i, vector in enumerate(vectors):
        values = {"column_id": care.column.id, "query": Vector(vector), "rungs": list(RUNGS)}
        row = conn.execute(statement, values).fetchone()
        assert row is not None
        distances = row[0] or []
        scanned[i, : len(distances)] = distances
        counts[i], blocks[i], ms[i] = row[1], row[2], row[3]
        done += 1
        if progress is not None:
            progress(done)

    recall = np.stack([recall_curve(scanned, counts, truth, k) for k in classes], axis=1)
    served = _served_recall(trajectories.distances[part], truth, ks)
    with conn.cursor() as cursor:
        cursor.executemany(
            queries()["insert_replay"],
            [
                {
                    "query_id": trajectories.query_ids[part][i], "column_id": care.column.id,
                    "generation": care.generation, "k_class": k_class(int(ks[i])), "k_classes": classes,
                    "probe": scanned[i, : min(_DEPTH, int(counts[i, -1]))].tolist(),
                    "recall": recall[i].astype(np.float32).tolist(),
                    "blocks": blocks[i].tolist(), "ms": ms[i].tolist(),
                }
                for i in range(len(vectors))
            ],
        )  # fmt: skip
        cursor.executemany(
            queries()["mark_replayed"],
            [
                {
                    "query_id": trajectories.query_ids[part][i],
                    "recorded_at": trajectories.recorded_at[part][i],
                    "recall": float(served[i]),
                    "keep": care.store_vectors,
                }
                for i in range(len(vectors))
            ],
        )
    return done


def _served_recall(distances: list[list[float]], truth: Truth, ks: Ints) -> Floats:
    width = max((len(d) for d in distances), default=0)
    returned = np.full((len(distances), max(width, 1)), np.inf)
    for i, values in enumerate(distances):
        returned[i, : len(values)] = values
    return recall_at_k(returned, truth, ks)


def load(conn: psycopg.Connection[Any], care: Care) -> Replays:
    """Read the newest replays on the index as it is now, up to the column's trajectory window."""
    values = {
        "column_id": care.column.id, "generation": care.generation, "count": care.trajectory_window,
    }  # fmt: skip
    rows = conn.cursor(binary=True).execute(queries()["replays"], values).fetchall()
    if not rows:
        empty = np.zeros((0, len(RUNGS)))
        return Replays(
            np.zeros(0, dtype=np.int64), (), np.zeros((0, _DEPTH)), np.zeros((0, 0, len(RUNGS))), empty, empty
        )
    common = min((row[1] for row in rows), key=len)
    probes = np.full((len(rows), _DEPTH), np.inf)
    for i, row in enumerate(rows):
        probes[i, : len(row[2])] = row[2]
    recall = np.array([row[3][: len(common)] for row in rows], dtype=np.float64)
    return Replays(
        np.array([row[0] for row in rows], dtype=np.int64),
        tuple(common),
        probes,
        recall,
        np.array([row[4] for row in rows], dtype=np.float64),
        np.array([row[5] for row in rows], dtype=np.float64),
    )
