"""Counterfactual replay: what every effort of every index would have given a search."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, LiteralString, cast

import numpy as np
import psycopg
from pgvector import Vector
from psycopg import sql

from vectuned.config.errors import VectunedError
from vectuned.sql.loader import queries

from .catalogue import Care, TunedIndex
from .evidence import WIDTH
from .ladder import K_CLASSES, PROBES, k_class
from .neighbors import Bools, Floats, Ints, Singles
from .scan import SCAN_TIMEOUT_MS, Aim, Scans
from .served import search_again
from .trajectory import Trajectories
from .truth import Truth, exact_neighbors, recall_at_k

log = logging.getLogger(__name__)

_LEAST_K: Final = 100
_CHUNK: Final = 1000
_DEEP_CHUNK: Final = 200
_STARTS: Final = tuple(sum(PROBES[:place]) for place in range(len(PROBES)))


def replay(
    conn: psycopg.Connection[Any],
    care: Care,
    trajectories: Trajectories,
    *,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Replay searches through every index, store what they show, and mark them replayed; return how many.

    The exact answers of a chunk of searches and its scans see one snapshot, in one transaction; `conn` must
    be in autocommit mode. `progress` is told the number done after each search. Where the column's vectors
    are not to be kept, the query is dropped with the same transaction. A search whose scan takes longer
    than a minute is marked replayed, so that it is not tried for ever, but nothing is learned from it. A
    partial index is tried with the filters that it answers; what was replayed on an index before is not
    replayed on it again.

    The continued scan of an HNSW index gives each rung what a search of its own would have found, but not in
    the order that one gives it: its beginning is 10 rows, then 4 more. So what a probe sees comes from short
    searches.

    Raises VectunedError when the main index is gone or was rebuilt, or the plan is not the one to be
    measured; of another index that is logged, and the others go on.
    """
    if not care.indexes:
        raise VectunedError(
            f"The index of {care.column} is gone: create an HNSW or IVFFlat index and call vectuned.enable "
            "again."
        )
    _require_generation(conn, care, care.indexes[0])
    done = 0
    chunk = _CHUNK if max(trajectories.ks, default=1) <= _LEAST_K else _DEEP_CHUNK
    for start in range(0, len(trajectories), chunk):
        part = slice(start, start + chunk)
        with conn.transaction():
            conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            _Chunk.of(conn, care, trajectories, part).replay(done, progress)
        done += len(trajectories.ks[part])
    return done


@dataclass(frozen=True)
class _Chunk:
    """Searches that are replayed in one transaction, and their exact answers.

    `filtered` bool (n,); `truth` is of all, `filtered_truth` of the filtered ones, whose place in it is
    `place` (n,); `complete` bool (n,), those that go through every rung.
    """

    conn: psycopg.Connection[Any]
    care: Care
    searches: Trajectories
    ks: Ints
    classes: list[int]
    conditions: list[sql.Composable | None]
    shapes: list[str | None]
    filtered: Bools
    place: Ints
    truth: Truth
    filtered_truth: Truth | None
    complete: Bools

    @classmethod
    def of(cls, conn: psycopg.Connection[Any], care: Care, trajectories: Trajectories, part: slice) -> _Chunk:
        searches = trajectories.take(part)
        ks = np.array(searches.ks, dtype=np.int64)
        deepest = max(_LEAST_K, k_class(int(ks.max())))
        conn.execute("SET LOCAL statement_timeout = 0")  # the table may be large; the stream shows progress
        conditions, shapes = compile_filters(conn, care, searches.filters)
        filtered = np.array([condition is not None for condition in conditions], dtype=np.bool_)
        truth = exact_neighbors(conn, care.column, searches.vectors, deepest)
        filtered_truth = _filtered_truth(conn, care, searches.vectors, conditions, deepest)
        conn.execute(queries()["limit_statement"], {"milliseconds": str(SCAN_TIMEOUT_MS)})
        classes = [k for k in K_CLASSES if k <= deepest]
        return cls(
            conn, care, searches, ks, classes, conditions, shapes, filtered, np.cumsum(filtered) - 1, truth,
            filtered_truth, _to_complete(conn, care, len(searches)),
        )  # fmt: skip

    def replay(self, done: int, progress: Callable[[int], None] | None) -> None:
        """Search again through every index, the main one first, then store and mark."""
        count = len(self.searches)
        scans = {index: Scans(self.care, index, count, self.classes[-1]) for index in self.care.indexes}
        before = {index: self._replayed(index) for index in scans}
        main = self.care.indexes[0]
        failed: set[TunedIndex] = set()
        probes = np.full((count, WIDTH), np.inf) if main.probed else None
        for i in range(count):
            for index, scan in scans.items():
                if (
                    index in failed
                    or not self._applies(index, i)
                    or self.searches.query_ids[i] in before[index]
                ):
                    continue
                try:
                    self._search(scan, i, scans[main].exact_ms[i])
                except VectunedError as error:
                    if index is main:
                        raise
                    log.warning("%s is passed over: %s", index.name, error, extra={"action": "replay"})
                    failed.add(index)
            if probes is not None and scans[main].finished[i]:
                probes[i] = self._probes(self.searches.vectors[i])
            if progress is not None:
                progress(done + i + 1)
        # The scans hold an index against a rebuild, so what it is now it was throughout.
        for index in scans:
            _require_generation(self.conn, self.care, index)
        for scan in scans.values():
            self._store(scan, probes if scan.index is main else None)
        self._check()
        self._mark()

    def _replayed(self, index: TunedIndex) -> set[Any]:
        values = {
            "column_id": self.care.column.id, "generation": index.generation,
            "query_ids": self.searches.query_ids,
        }  # fmt: skip
        return {row[0] for row in self.conn.execute(queries()["replayed"], values).fetchall()}

    def _applies(self, index: TunedIndex, i: int) -> bool:
        """Say whether an index can answer a search: a partial one only what asks for what it holds."""
        if index.requires is None:
            return True
        text = self.searches.filters[i]
        return self.filtered[i] and text is not None and _contains(text, index.requires)

    def _search(self, scan: Scans, i: int, exact_ms: float) -> None:
        aim = Aim()
        k = int(self.ks[i])
        if not self.complete[i]:
            goal, bound = _goal(self.truth, i, k)
            aim = Aim(goal, bound)
            if self.filtered[i] and self.filtered_truth is not None:
                aim = Aim(goal, bound, *_goal(self.filtered_truth, int(self.place[i]), k))
        scan.search(
            self.conn, i, self.searches.vectors[i], k, self.conditions[i], aim,
            thorough=bool(self.complete[i] and self.filtered[i] and scan.index is self.care.indexes[0]),
            exact_ms=float(exact_ms) if np.isfinite(exact_ms) else None,
        )  # fmt: skip

    def _probes(self, vector: Singles) -> Floats:
        values = {"column_id": self.care.column.id, "query": Vector(vector)}
        values |= {f"probe_{place}": length for place, length in enumerate(PROBES)}
        row = self.conn.execute(queries()["probe_search"], values).fetchone()
        seen = np.full(WIDTH, np.inf)
        for start, distances in zip(_STARTS, row or (), strict=True):
            seen[start : start + len(distances or [])] = distances or []
        return seen

    def _store(self, scan: Scans, probes: Floats | None) -> None:
        """Store what the scans through one index showed."""
        index, count, rungs = scan.index, len(self.searches), len(scan.index.rungs)
        recall = np.full((count, len(self.classes), rungs), np.nan)
        # What is searched anew applies the filter, and a partial index lacks rows: both know nothing without.
        bare = scan.finished & (~self.filtered | (not index.anew and index.requires is None))
        if bare.any():
            truth = self.truth.take(bare)
            recall[bare] = np.stack([scan.recall(bare, truth, k) for k in self.classes], axis=1)
        filtered_recall = np.full(recall.shape, np.nan)
        own = scan.finished & self.filtered
        if own.any() and self.filtered_truth is not None:
            truth = self.filtered_truth.take(own[self.filtered])
            filtered_recall[own] = np.stack(
                [scan.filtered_recall(own, truth, k) for k in self.classes], axis=1
            )
        matches = np.where(scan.given_up, -1, scan.matches)
        rows = []
        for i in (int(place) for place in np.flatnonzero(scan.finished)):
            # A scan that ended early knows nothing of classes above its own.
            known = (
                len(self.classes) if self.complete[i] else self.classes.index(k_class(int(self.ks[i]))) + 1
            )
            filtered, fraction = bool(self.filtered[i]), self.searches.fractions[i]
            others = None
            if scan.other_ms[i] and self.filtered_truth is not None:
                number = int(self.place[i])
                others = [scan.other_recall(i, number, self.filtered_truth, k) for k in self.classes[:known]]
            rows.append({
                "query_id": self.searches.query_ids[i], "column_id": self.care.column.id,
                "generation": index.generation, "k_class": k_class(int(self.ks[i])),
                "k_classes": self.classes[:known],
                "probe": [] if probes is None else probes[i].tolist(),
                "recall": recall[i, :known].astype(np.float32).tolist() if bare[i] else None,
                "blocks": scan.blocks[i].tolist(), "ms": scan.ms[i].tolist(),
                "shape": self.shapes[i],
                "fraction": min((fraction or 0.0) / index.share, 1.0) if filtered else None,
                "filtered_recall": filtered_recall[i, :known].tolist() if filtered else None,
                "matches": matches[i].tolist() if filtered else None,
                "exact_ms": float(scan.exact_ms[i]) if filtered else None,
                "other_recall": others, "other_ms": scan.other_ms[i] or None,
            })  # fmt: skip
        with self.conn.cursor() as cursor:
            cursor.executemany(queries()["insert_replay"], rows)

    def _recall(self, distances: list[list[float]]) -> Floats:
        """Compute the recall (n,) of answers, each to its own k and filter."""
        recall = _served_recall(distances, self.truth, self.ks)
        if self.filtered_truth is not None:
            answers = [d for d, own in zip(distances, self.filtered, strict=True) if own]
            recall[self.filtered] = _served_recall(answers, self.filtered_truth, self.ks[self.filtered])
        return recall

    def _check(self) -> None:
        """Check what the searches are served with now; those replayed before have been learned from."""
        searches = self.searches
        own = np.array([
            fresh and self.filtered[i] == (searches.filters[i] is not None)
            for i, fresh in enumerate(searches.fresh)
        ], dtype=np.bool_)  # fmt: skip
        answers = [
            search_again(self.conn, self.care, searches, i) if own[i] else None for i in range(len(searches))
        ]
        recall = self._recall([answer or [] for answer in answers])
        recall[[answer is None for answer in answers]] = np.nan
        with self.conn.cursor() as cursor:
            cursor.executemany(
                queries()["insert_check"],
                [
                    {
                        "column_id": self.care.column.id, "query_id": searches.query_ids[i],
                        "k_class": k_class(int(self.ks[i])), "shape": self.shapes[i] or "",
                        "recall": None if np.isnan(recall[i]) else float(recall[i]),
                    }
                    for i in (int(place) for place in np.flatnonzero(own))
                ],
            )  # fmt: skip

    def _mark(self) -> None:
        """Mark the searches replayed, with the recall that each was served with."""
        searches = self.searches
        served = self._recall(searches.distances)
        with self.conn.cursor() as cursor:
            cursor.executemany(
                queries()["mark_replayed"],
                [
                    {
                        "query_id": searches.query_ids[i],
                        "recorded_at": searches.recorded_at[i],
                        # Of a filter that no longer fits the table nothing is known.
                        "recall": None
                        if self.filtered[i] != (searches.filters[i] is not None)
                        else float(served[i]),
                        "keep": self.care.store_vectors,
                    }
                    for i in range(len(searches))
                ],
            )


def compile_filters(
    conn: psycopg.Connection[Any], care: Care, filters: list[str | None]
) -> tuple[list[sql.Composable | None], list[str | None]]:
    """Compile filters to SQL and shapes, each different one once; one that no longer fits counts as none.

    Whether its values still fit is seen when the statement is planned, here for no rows.
    """
    compiled: dict[str | None, tuple[sql.Composable | None, str | None]] = {None: (None, None)}
    for text in {text for text in filters if text is not None}:
        try:
            with conn.transaction():
                values = {"column_id": care.column.id, "filter": text}
                row = conn.execute(queries()["compile_filter"], values).fetchone()
                compiled[text] = (None, None)
                if row is not None and row[0] is not None:
                    condition = sql.SQL(cast(LiteralString, row[0]))
                    check = sql.SQL("SELECT FROM {} AS t WHERE {} LIMIT 0").format(
                        care.column.relation, condition
                    )
                    conn.execute(check, prepare=False)
                    compiled[text] = (condition, row[1])
        except psycopg.errors.Error as error:
            log.warning(
                "a filter on %s is passed over: %s", care.column, error.diag.message_primary,
                extra={"action": "replay"},
            )  # fmt: skip
            compiled[text] = (None, None)
    return [compiled[text][0] for text in filters], [compiled[text][1] for text in filters]


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
    generations = [index.generation for index in care.indexes if index.requires is None]
    values = {"column_id": care.column.id, "generations": generations}
    row = conn.execute(queries()["count_complete"], values).fetchone()
    missing = 2 * care.min_samples - (int(row[0]) if row is not None else 0)
    number = np.arange(count)
    return np.asarray((number < missing) | (number % 4 == 0))


def _goal(truth: Truth, i: int, k: int) -> tuple[int, float]:
    """Return how many rows a scan must have seen, and how far at most, for recall 1 in its class of k."""
    goal = min(k_class(k), int(truth.counts[i]))
    if goal == 0:
        return 0, -np.inf
    return goal, float(truth.distances[i, goal - 1] + truth.tolerances[i, goal - 1])


def _contains(filter_text: str, requires: str) -> bool:
    """Say whether a filter, both as JSON, asks for everything that a partial index is limited to."""
    asked = json.loads(filter_text)
    return all(name in asked and asked[name] == value for name, value in json.loads(requires).items())


def _require_generation(conn: psycopg.Connection[Any], care: Care, index: TunedIndex) -> None:
    """Refuse to go on if an index is not the one that `care` knows."""
    values = {"column_id": care.column.id, "index_no": index.number}
    row = conn.execute(queries()["generation"], values).fetchone()
    now = row[0] if row is not None else None
    if now is None:
        raise VectunedError(
            f"The index {index.name} of {care.column} is gone: create one and call vectuned.enable again."
        )
    if now != index.generation:
        raise VectunedError(
            f"The index {index.name} of {care.column} was rebuilt meanwhile: read the tuned columns again, "
            "then replay."
        )


def _served_recall(distances: list[list[float]], truth: Truth, ks: Ints) -> Floats:
    width = max((len(d) for d in distances), default=0)
    returned = np.full((len(distances), max(width, 1)), np.inf)
    for i, values in enumerate(distances):
        returned[i, : len(values)] = values
    return recall_at_k(returned, truth, ks)
