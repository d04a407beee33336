"""Counterfactual replay: what every effort would have given a search, from one continued scan."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final, LiteralString, cast

import numpy as np
import psycopg
from pgvector import Vector
from psycopg import sql

from vectuned.config.errors import VectunedError
from vectuned.sql.loader import queries

from .calibration import Evidence
from .catalogue import Care
from .filtering import FilteredEvidence
from .ladder import K_CLASSES, PROBES, RUNGS, k_class
from .neighbors import Bools, Floats, Ints, Singles
from .trajectory import Trajectories
from .truth import Truth, exact_neighbors, recall_at_k, recall_curve

log = logging.getLogger(__name__)

_WIDTH: Final = sum(PROBES)
_LEAST_K: Final = 100
_CHUNK: Final = 1000
_STARTS: Final = tuple(sum(PROBES[:place]) for place in range(len(PROBES)))
SCAN_TIMEOUT_MS: Final = 60_000


@dataclass(frozen=True)
class Replays:
    """Hold n replays on one generation of an index.

    `asked` int64 (n,), the class of k each search belonged to; `k_classes` (c,) those with a recall;
    `probes` float64 (n, length) by length, the distances that a search with that ef_search sees, in order,
    padded with +inf; `recall` float64 (n, c, rungs), NaN where a class was not looked at; `blocks` and `ms`
    float64 (n, rungs), index buffers and milliseconds.

    Of filtered searches also: `fraction` float64 (n,) of rows thought to match, NaN where there was no
    filter; `filtered_recall` (n, c, rungs) of the matching rows among the first of the scan; `matches`
    int64 (n, rungs), how many those were, -1 where the scan was given up before; `exact_ms` float64 (n,),
    of the exact answer through the filter.
    """

    asked: Ints
    k_classes: tuple[int, ...]
    probes: dict[int, Floats]
    recall: Floats
    blocks: Floats
    ms: Floats
    fraction: Floats
    filtered_recall: Floats
    matches: Ints
    exact_ms: Floats

    def __len__(self) -> int:
        return len(self.asked)

    def evidence(self, k: int) -> Evidence:
        """Return what the replays that looked at class `k`, one of `k_classes`, say about it."""
        recall = self.recall[:, self.k_classes.index(k)]
        return Evidence(k, self.probes, recall, self.blocks).take(np.isfinite(recall[:, 0]))

    def filtered_evidence(self, k: int) -> FilteredEvidence:
        """Return what the filtered replays that looked at class `k` say about it."""
        recall = self.filtered_recall[:, self.k_classes.index(k)]
        own = np.isfinite(self.fraction) & np.isfinite(recall[:, 0])
        return FilteredEvidence(
            k,
            self.fraction[own],
            recall[own],
            self.matches[own] < k,
            self.matches[own] >= 0,
            self.ms[own],
            self.exact_ms[own],
        )


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
    conditions = _conditions(conn, care, trajectories.filters[part])
    lost = [
        condition is None and text is not None
        for condition, text in zip(conditions, trajectories.filters[part], strict=True)
    ]
    truth = exact_neighbors(conn, care.column, vectors, deepest)
    filtered = np.array([condition is not None for condition in conditions], dtype=np.bool_)
    filtered_truth = _filtered_truth(conn, care, vectors, conditions, deepest)
    conn.execute(queries()["limit_statement"], {"milliseconds": str(SCAN_TIMEOUT_MS)})
    classes = [k for k in K_CLASSES if k <= deepest]

    scanned = np.full((len(vectors), RUNGS[-1]), np.inf)
    counts = np.zeros((len(vectors), len(RUNGS)), dtype=np.int64)
    blocks, ms = np.zeros(counts.shape), np.zeros(counts.shape)
    probes = np.full((len(vectors), _WIDTH), np.inf)
    matched = np.zeros(scanned.shape, dtype=np.bool_)
    exact_ms = np.zeros(len(vectors))
    finished = np.zeros(len(vectors), dtype=np.bool_)
    given_up = np.zeros(counts.shape, dtype=np.bool_)
    complete = _to_complete(conn, care, len(vectors))
    goals = _goals(truth, ks)
    filter_goals = None if filtered_truth is None else _goals(filtered_truth, ks[filtered])
    place = np.cumsum(filtered) - 1
    for i, vector in enumerate(vectors):
        aim: dict[str, Any] = {"goal": None, "bound": None, "filter_goal": None, "filter_bound": None}
        if not complete[i]:
            aim |= {"goal": int(goals[0][i]), "bound": float(goals[1][i])}
            if filtered[i] and filter_goals is not None:
                own = place[i]
                aim |= {"filter_goal": int(filter_goals[0][own]), "filter_bound": float(filter_goals[1][own])}
        row = _scan(conn, care, vector, conditions[i], int(ks[i]), aim)
        if row is not None:
            finished[i] = True
            scanned[i, : len(row[0] or [])] = row[0] or []
            reached = len(row[1])
            counts[i, :reached], counts[i, reached:] = row[1], row[1][-1]
            blocks[i], ms[i] = _prolonged(row[2]), _prolonged(row[3])
            if filtered[i]:
                matched[i, : len(row[4] or [])] = row[4] or []
                exact_ms[i] = row[5]
                if aim["filter_goal"] is not None:
                    near = np.count_nonzero(matched[i] & (scanned[i] <= aim["filter_bound"]))
                    given_up[i, reached:] = near < aim["filter_goal"]
            for start, seen in zip(_STARTS, row[6:], strict=True):
                probes[i, start : start + len(seen or [])] = seen or []
        done += 1
        if progress is not None:
            progress(done)
    # The scans hold the index against a rebuild, so what is the index now was it throughout.
    _require_generation(conn, care)

    recall = np.stack([recall_curve(scanned, counts, truth, k) for k in classes], axis=1)
    # A scan that ended early knows nothing of classes above its own.
    known = [len(classes) if complete[i] else classes.index(k_class(int(ks[i]))) + 1 for i in range(len(ks))]
    served = _served_recall(trajectories.distances[part], truth, ks)
    filtered_recall = np.zeros((len(vectors), len(classes), len(RUNGS)))
    if filtered_truth is not None:
        inside = np.where(matched, scanned, np.inf)[filtered]
        curves = [recall_curve(inside, counts[filtered], filtered_truth, k) for k in classes]
        filtered_recall[filtered] = np.stack(curves, axis=1)
        answers = [d for d, own in zip(trajectories.distances[part], filtered, strict=True) if own]
        served[filtered] = _served_recall(answers, filtered_truth, ks[filtered])
    seen_matches = np.take_along_axis(
        np.cumsum(np.pad(matched, ((0, 0), (1, 0))), axis=1, dtype=np.int64), counts, axis=1
    )
    seen_matches[given_up] = -1
    with conn.cursor() as cursor:
        cursor.executemany(
            queries()["insert_replay"],
            [
                {
                    "query_id": trajectories.query_ids[part][i], "column_id": care.column.id,
                    "generation": care.generation, "k_class": k_class(int(ks[i])),
                    "k_classes": classes[: known[i]],
                    "probe": probes[i].tolist(),
                    "recall": recall[i, : known[i]].astype(np.float32).tolist(),
                    "blocks": blocks[i].tolist(), "ms": ms[i].tolist(),
                    "fraction": trajectories.fractions[part][i] if filtered[i] else None,
                    "filtered_recall": filtered_recall[i, : known[i]].tolist() if filtered[i] else None,
                    "matches": seen_matches[i].tolist() if filtered[i] else None,
                    "exact_ms": float(exact_ms[i]) if filtered[i] else None,
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
                    "recall": None if lost[i] else float(served[i]),
                    "keep": care.store_vectors,
                }
                for i in range(len(vectors))
            ],
        )
    return done


def _conditions(
    conn: psycopg.Connection[Any], care: Care, filters: list[str | None]
) -> list[sql.Composable | None]:
    """Compile filters to SQL, each different one once; one that no longer fits the table counts as none.

    Whether its values still fit is seen when the statement is planned, here for no rows.
    """
    compiled: dict[str, sql.Composable | None] = {}
    for text in {text for text in filters if text is not None}:
        try:
            with conn.transaction():
                values = {"column_id": care.column.id, "filter": text}
                row = conn.execute(queries()["compile_filter"], values).fetchone()
                condition = None
                if row is not None and row[0] is not None:
                    condition = sql.SQL(cast(LiteralString, row[0]))
                    check = sql.SQL("SELECT FROM {} AS t WHERE {} LIMIT 0").format(
                        care.column.relation, condition
                    )
                    conn.execute(check, prepare=False)
            compiled[text] = condition
        except psycopg.errors.Error as error:
            log.warning(
                "a filter on %s is passed over: %s", care.column, error.diag.message_primary,
                extra={"action": "replay"},
            )  # fmt: skip
            compiled[text] = None
    return [None if text is None else compiled[text] for text in filters]


def _filtered_truth(
    conn: psycopg.Connection[Any],
    care: Care,
    vectors: Singles,
    conditions: list[sql.Composable | None],
    deepest: int,
) -> Truth | None:
    """Compute the exact answers of the filtered searches among `vectors`; None if there are none."""
    own = [i for i, condition in enumerate(conditions) if condition is not None]
    if not own:
        return None
    present = [condition for condition in conditions if condition is not None]
    texts = [condition.as_string(conn) for condition in present]
    distinct = dict(zip(texts, present, strict=True))
    position = {text: place for place, text in enumerate(distinct)}
    return exact_neighbors(
        conn, care.column, vectors[own], deepest,
        filters=list(distinct.values()), filter_of=np.array([position[text] for text in texts]),
    )  # fmt: skip


def _to_complete(conn: psycopg.Connection[Any], care: Care, count: int) -> Bools:
    """Say which of `count` replays are to go through every rung: the first ones, then one of four.

    The others end where the answers of their own class of k are complete, which takes a third of the time.
    """
    values = {"column_id": care.column.id, "generation": care.generation}
    row = conn.execute(queries()["count_complete"], values).fetchone()
    missing = 2 * care.min_samples - (int(row[0]) if row is not None else 0)
    number = np.arange(count)
    return np.asarray((number < missing) | (number % 4 == 0))


def _goals(truth: Truth, ks: Ints) -> tuple[Ints, Floats]:
    """Return how many rows a scan must have seen, and how far at most, for recall 1 in its class of k."""
    goals = np.minimum([k_class(int(k)) for k in ks], truth.counts).astype(np.int64)
    last = (np.arange(len(ks)), np.maximum(goals - 1, 0))
    return goals, np.where(goals > 0, truth.distances[last] + truth.tolerances[last], -np.inf)


def _prolonged(costs: list[float]) -> Floats:
    """Carry on costs (r,) known up to some rung to all rungs, at the price of a row between the last two."""
    known = np.asarray(costs, dtype=np.float64)
    reached = len(known)
    if reached == len(RUNGS):
        return known
    efs = np.asarray(RUNGS, dtype=np.float64)
    before = reached - 2 if reached > 1 else 0
    rise = (known[-1] - known[before]) / max(efs[reached - 1] - efs[before], 1.0) or known[-1] / efs[
        reached - 1
    ]
    return np.concatenate([known, known[-1] + rise * (efs[reached:] - efs[reached - 1])])


def _scan(
    conn: psycopg.Connection[Any],
    care: Care,
    vector: Singles,
    condition: sql.Composable | None,
    k: int,
    aim: dict[str, Any],
) -> tuple[Any, ...] | None:
    """Search once more with one continued scan, and shortly for each probe; None if that took too long."""
    values = {
        "column_id": care.column.id, "query": Vector(vector), "rungs": list(RUNGS), "k": k,
        "condition": None if condition is None else condition.as_string(conn), **aim,
    }  # fmt: skip
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
    filtered_recall = np.full(recall.shape, np.nan)
    matches = np.zeros((len(rows), len(RUNGS)), dtype=np.int64)
    for i, row in enumerate(rows):
        places = np.searchsorted(classes, row[1])
        recall[i, places] = row[3]
        if row[6] is not None:
            filtered_recall[i, places], matches[i] = row[7], row[8]
    seen = np.array([row[2] for row in rows], dtype=np.float64).reshape(len(rows), _WIDTH)
    ends = [start + length for start, length in zip(_STARTS, PROBES, strict=True)]
    return Replays(
        np.array([row[0] for row in rows], dtype=np.int64),
        tuple(classes),
        {length: seen[:, end - length : end] for length, end in zip(PROBES, ends, strict=True)},
        recall,
        np.array([row[4] for row in rows], dtype=np.float64).reshape(len(rows), len(RUNGS)),
        np.array([row[5] for row in rows], dtype=np.float64).reshape(len(rows), len(RUNGS)),
        np.array([row[6] for row in rows], dtype=np.float64),  # None becomes NaN
        filtered_recall,
        matches,
        np.array([row[9] for row in rows], dtype=np.float64),
    )
