"""Counterfactual replay: what every effort would have given a search, from one continued scan."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final

import numpy as np
import psycopg
from pgvector import Vector

from vectuned.config.errors import VectunedError
from vectuned.sql.loader import queries

from .calibration import Evidence
from .catalogue import Care
from .ladder import K_CLASSES, PROBES, RUNGS, k_class
from .neighbors import Floats, Ints, Singles
from .trajectory import Trajectories
from .truth import Truth, exact_neighbors, recall_at_k, recall_curve

log = logging.getLogger(__name__)

_WIDTH: Final = sum(PROBES)
_LEAST_K: Final = 100
_CHUNK: Final = 250
_STARTS: Final = tuple(sum(PROBES[:place]) for place in range(len(PROBES)))
SCAN_TIMEOUT_MS: Final = 60_000


@dataclass(frozen=True)
class Replays:
    """Hold n replays on one generation of an index.

    `asked` int64 (n,), the class of k each search belonged to; `k_classes` (c,) those with a recall;
    `probes` float64 (n, length) by length, the distances that a search with that ef_search sees, in order,
    padded with +inf; `recall` float64 (n, c, rungs), NaN where a class was not looked at; `blocks` and `ms`
    float64 (n, rungs), index buffers and milliseconds.
    """

    asked: Ints
    k_classes: tuple[int, ...]
    probes: dict[int, Floats]
    recall: Floats
    blocks: Floats
    ms: Floats

    def __len__(self) -> int:
        return len(self.asked)

    def evidence(self, k: int) -> Evidence:
        """Return what the replays that looked at class `k`, one of `k_classes`, say about it."""
        recall = self.recall[:, self.k_classes.index(k)]
        return Evidence(k, self.probes, recall, self.blocks).take(np.isfinite(recall[:, 0]))


def replay(
    conn: psycopg.Connection[Any],
    care: Care,
    trajectories: Trajectories,
    *,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Replay searches, store what they show, and mark them replayed; return how many were looked at.

    The exact answers of a chunk of searches and its scans see one snapshot, in one transaction; `conn` must
    be in autocommit mode. `progress` is told the number done after each search. Where the column's vectors
    are not to be kept, the query is dropped with the same transaction. A search whose scan takes longer
    than a minute is marked replayed, so that it is not tried for ever, but nothing is learned from it.

    The continued scan gives each rung what a search of its own would have found, but not in the order that
    one gives it: its beginning is 10 rows, then 4 more. So what a probe sees comes from short searches.

    Raises VectunedError when the index is gone or was rebuilt, or the plan is not the one to be measured.
    """
    _require_generation(conn, care)
    done = 0
    for start in range(0, len(trajectories), _CHUNK):
        part = slice(start, start + _CHUNK)
        with conn.transaction():
            conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
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
    conn.execute(queries()["limit_statement"], {"milliseconds": str(SCAN_TIMEOUT_MS)})
    classes = [k for k in K_CLASSES if k <= deepest]

    scanned = np.full((len(vectors), RUNGS[-1]), np.inf)
    counts = np.zeros((len(vectors), len(RUNGS)), dtype=np.int64)
    blocks, ms = np.zeros(counts.shape), np.zeros(counts.shape)
    probes = np.full((len(vectors), _WIDTH), np.inf)
    finished = np.zeros(len(vectors), dtype=np.bool_)
    for i, vector in enumerate(vectors):
        row = _scan(conn, care, vector)
        if row is not None:
            finished[i] = True
            scanned[i, : len(row[0] or [])] = row[0] or []
            counts[i], blocks[i], ms[i] = row[1], row[2], row[3]
            for start, seen in zip(_STARTS, row[4:], strict=True):
                probes[i, start : start + len(seen or [])] = seen or []
        done += 1
        if progress is not None:
            progress(done)
    # The scans hold the index against a rebuild, so what is the index now was it throughout.
    _require_generation(conn, care)

    recall = np.stack([recall_curve(scanned, counts, truth, k) for k in classes], axis=1)
    served = _served_recall(trajectories.distances[part], truth, ks)
    with conn.cursor() as cursor:
        cursor.executemany(
            queries()["insert_replay"],
            [
                {
                    "query_id": trajectories.query_ids[part][i], "column_id": care.column.id,
                    "generation": care.generation, "k_class": k_class(int(ks[i])), "k_classes": classes,
                    "probe": probes[i].tolist(),
                    "recall": recall[i].astype(np.float32).tolist(),
                    "blocks": blocks[i].tolist(), "ms": ms[i].tolist(),
                }
                for i in np.flatnonzero(finished)
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


def _scan(conn: psycopg.Connection[Any], care: Care, vector: Singles) -> tuple[Any, ...] | None:
    """Search once more with one continued scan, and shortly for each probe; None if that took too long."""
    values = {"column_id": care.column.id, "query": Vector(vector), "rungs": list(RUNGS)}
    values |= {f"probe_{place}": length for place, length in enumerate(PROBES)}
    started = perf_counter()
    try:
        with conn.transaction():  # a savepoint: one search too slow must not undo the others
            row = conn.execute(queries()["replay_search"], values).fetchone()
    except psycopg.errors.QueryCanceled:
        if (perf_counter() - started) * 1000 < SCAN_TIMEOUT_MS:
            raise  # somebody else cancelled it
        log.warning(
            "a replay on %s took longer than %d ms: passed over", care.column, SCAN_TIMEOUT_MS,
            extra={"action": "replay"},
        )  # fmt: skip
        return None
    except psycopg.errors.ObjectNotInPrerequisiteState as error:
        raise VectunedError(
            f"{error.diag.message_primary}. {error.diag.message_hint or ''}".strip()
        ) from error
    assert row is not None
    return tuple(row)


def _require_generation(conn: psycopg.Connection[Any], care: Care) -> None:
    """Refuse to go on if the index is not the one that `care` knows."""
    row = conn.execute(queries()["generation"], {"column_id": care.column.id}).fetchone()
    now = row[0] if row is not None else None
    if now is None:
        raise VectunedError(
            f"The index of {care.column} is gone: create an HNSW index and call vectuned.enable again."
        )
    if now != care.generation:
        raise VectunedError(
            f"The index of {care.column} was rebuilt meanwhile: read the tuned columns again, then replay."
        )


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
        "width": _WIDTH,
    }  # fmt: skip
    rows = conn.cursor(binary=True).execute(queries()["replays"], values).fetchall()
    # A search for many rows has its chunk looked at for classes that others were not.
    classes = sorted({k for row in rows for k in row[1]})
    recall = np.full((len(rows), len(classes), len(RUNGS)), np.nan)
    for i, row in enumerate(rows):
        recall[i, np.searchsorted(classes, row[1])] = row[3]
    seen = np.array([row[2] for row in rows], dtype=np.float64).reshape(len(rows), _WIDTH)
    ends = [start + length for start, length in zip(_STARTS, PROBES, strict=True)]
    return Replays(
        np.array([row[0] for row in rows], dtype=np.int64),
        tuple(classes),
        {length: seen[:, end - length : end] for length, end in zip(PROBES, ends, strict=True)},
        recall,
        np.array([row[4] for row in rows], dtype=np.float64).reshape(len(rows), len(RUNGS)),
        np.array([row[5] for row in rows], dtype=np.float64).reshape(len(rows), len(RUNGS)),
    )
