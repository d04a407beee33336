"""Searches again through one index: what they saw at every rung of effort."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from itertools import pairwise
from time import perf_counter
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import psycopg
from pgvector import Vector
from psycopg import sql

from vectuned.config.errors import VectunedError
from vectuned.learning.model.arrays import Bools, Floats, Ints, Singles
from vectuned.learning.model.tuned_columns import TunedColumn, TunedIndex
from vectuned.learning.truth.truth import Truth, recall_at_k, recall_curve
from vectuned.sql.files import queries

log = logging.getLogger(__name__)

SCAN_TIMEOUT_MS: Final = 60_000


@dataclass(frozen=True)
class ScanGoal:
    """When a scan may end: it has returned `rows` rows within `distance`.

    A filtered scan must also have returned `filtered_rows` matching rows within `filtered_distance`, unless
    it has already taken longer than the exact answer. Without a goal a scan goes through every rung.
    """

    rows: int | None = None
    distance: float | None = None
    filtered_rows: int | None = None
    filtered_distance: float | None = None

    @classmethod
    def full_recall(cls, truth: Truth, i: int, k: int) -> ScanGoal:
        """Return the goal that search `i` reaches once its recall at k is 1."""
        return cls(*_answer_extent(truth, i, k))

    def with_filtered(self, truth: Truth, i: int, k: int) -> ScanGoal:
        """Add the goal that the matching rows reach a recall at k of 1; `i` indexes `truth`."""
        rows, distance = _answer_extent(truth, i, k)
        return replace(self, filtered_rows=rows, filtered_distance=distance)


def _answer_extent(truth: Truth, i: int, k: int) -> tuple[int, float]:
    """Return the number of rows in the exact answer of search `i` at k, and its largest distance."""
    rows = min(k, int(truth.counts[i]))
    if rows == 0:
        return 0, -np.inf
    return rows, float(truth.distances[i, rows - 1] + truth.tolerances[i, rows - 1])


class IndexScans:
    """Collect what n searches saw through one index.

    `finished` bool (n,); `blocks` and `ms` float64 (n, rungs), index buffers and milliseconds up to each rung
    (of an index that is searched anew: of that search); `cut_short` bool (n, rungs), True where a filtered
    search had not seen its whole answer when its scan was ended; `matches` int64 (n, rungs), rows seen that
    meet the condition; `exact_ms` float64 (n,).
    """

    def __init__(
        self, tuned: TunedColumn, index: TunedIndex, count: int, depth: int, timeout_ms: int = SCAN_TIMEOUT_MS
    ) -> None:
        self.tuned = tuned
        self.timeout_ms = timeout_ms
        self.index = index
        self.depth = depth
        self._rungs = len(index.rungs)
        self._rows: list[Floats | list[Floats]] = [np.empty(0) for _ in range(count)]
        self._matched: list[Bools] = [np.empty(0, dtype=np.bool_) for _ in range(count)]
        self._others: list[list[Floats]] = [[] for _ in range(count)]
        self._counts = np.zeros((count, self._rungs), dtype=np.int64)
        self.finished = np.zeros(count, dtype=np.bool_)
        self.blocks, self.ms = np.zeros((count, self._rungs)), np.zeros((count, self._rungs))
        self.cut_short = np.zeros((count, self._rungs), dtype=np.bool_)
        self.matches = np.zeros((count, self._rungs), dtype=np.int64)
        self.exact_ms = np.full(count, np.nan)
        self.other_ms: list[list[float]] = [[] for _ in range(count)]

    def search(
        self,
        conn: psycopg.Connection[Any],
        i: int,
        vector: Singles,
        k: int,
        condition: sql.Composable | None,
        goal: ScanGoal,
        *,
        thorough: bool = False,
        exact_ms: float | None = None,
    ) -> bool:
        """Search once more and keep what was seen; False if that took too long.

        Raises VectunedError when the plan is not the one to be measured.
        """
        row = _run(
            conn,
            self.tuned,
            self.timeout_ms,
            {
                "column_id": self.tuned.column.id,
                "index_no": self.index.number,
                "query": Vector(vector),
                "rungs": list(self.index.rungs),
                "k": k,
                "depth": self.depth,
                "condition": None if condition is None else condition.as_string(conn),
                "goal": goal.rows,
                "bound": goal.distance,
                "filter_goal": goal.filtered_rows,
                "filter_bound": goal.filtered_distance,
                "thorough": thorough,
                "exact_ms": exact_ms,
            },
        )
        if row is None:
            return False
        seen, counts = np.array(row[0] or [], dtype=np.float64), np.array(row[1], dtype=np.int64)
        self.finished[i] = True
        blocks, ms = row[2], row[3]
        entries = np.array(counts if row[9] is None else row[9], dtype=np.int64)
        if (entries > counts).any():
            counts, blocks, ms = _by_entries(self.index, entries, counts, blocks, ms)
        self._store(i, seen, counts, row[4])
        self.blocks[i], self.ms[i] = _prolonged(blocks, self.index), _prolonged(ms, self.index)
        if condition is not None:
            self.exact_ms[i] = row[5]
            if goal.filtered_rows is not None and goal.filtered_distance is not None:
                last = self._last(i)
                self.cut_short[i, len(row[1]) :] = (
                    np.count_nonzero(last <= goal.filtered_distance) < goal.filtered_rows
                )
        ends = [0, *(row[7] or [])]
        others = np.array(row[6] or [], dtype=np.float64)
        self._others[i] = [others[start:end] for start, end in pairwise(ends)]
        self.other_ms[i] = list(row[8] or [])
        return True

    def _store(self, i: int, seen: Floats, counts: Ints, matched: list[bool] | None) -> None:
        reached = len(counts)
        if not self.index.resumable:
            starts = np.concatenate([[0], counts[:-1]])
            slices = [seen[start:end] for start, end in zip(starts, counts, strict=True)]
            self._rows[i] = slices + slices[-1:] * (self._rungs - reached)
            self.matches[i] = [len(rows) for rows in self._rows[i]]
            return
        self._rows[i] = seen
        self._counts[i, :reached], self._counts[i, reached:] = counts, counts[-1]
        if matched is not None:
            self._matched[i] = np.array(matched, dtype=np.bool_)
            self.matches[i] = np.concatenate([[0], np.cumsum(self._matched[i])])[self._counts[i]]

    def _last(self, i: int) -> Floats:
        """Return the distances of the matching rows seen by the end of a filtered search."""
        rows = self._rows[i]
        if isinstance(rows, list):
            return rows[-1]
        return rows[self._matched[i]]

    def distances(self) -> tuple[Floats, Ints]:
        """Return the distances that unfiltered scans saw, in order, and how many by each rung.

        Float64 (n, most), padded with +inf, and int64 (n, rungs); of an index that can be widened.
        """
        return _padded(self._rows, self.index.rungs[-1]), self._counts

    def recall(self, own: Bools, truth: Truth, k: int) -> Floats:
        """Score the unfiltered searches at `own` (n,) at every rung, by their `truth`. Returns (m, rungs)."""
        return self._curve(np.flatnonzero(own), truth, k, [None] * int(own.sum()))

    def filtered_recall(self, own: Bools, truth: Truth, k: int) -> Floats:
        """Score the filtered searches at `own` (n,) by the matching rows. Returns (m, rungs)."""
        places = np.flatnonzero(own)
        return self._curve(places, truth, k, [self._matched[i] for i in places])

    def _curve(self, places: Ints, truth: Truth, k: int, matched: list[Bools] | list[None]) -> Floats:
        if not self.index.resumable:
            return np.stack(
                [
                    recall_at_k(_padded([self._rows[i][rung] for i in places], self.depth), truth, k)
                    for rung in range(self._rungs)
                ],
                axis=1,
            )
        rows = [
            np.asarray(self._rows[i]) if inside is None else np.where(inside, self._rows[i], np.inf)
            for i, inside in zip(places, matched, strict=True)
        ]
        return recall_curve(_padded(rows, self.index.rungs[-1]), self._counts[places], truth, k)

    def other_recall(self, i: int, number: int, truth: Truth, k: int) -> list[float]:
        """Score what has no rungs, of search `i`, which is the `number`-th of `truth`."""
        one = truth.take(np.array([number]))
        return [float(recall_at_k(_padded([rows], self.depth), one, k)[0]) for rows in self._others[i]]


def _padded(rows: list[Any], width: int) -> Floats:
    table = np.full((len(rows), max([width, *(len(r) for r in rows)])), np.inf)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return table


def _prolonged(costs: list[float], index: TunedIndex) -> Floats:
    """Carry on costs (r,) known up to some rung to all rungs, at the price of effort between the last two."""
    known = np.asarray(costs, dtype=np.float64)
    reached = len(known)
    efforts = np.asarray(index.rungs, dtype=np.float64)
    if reached == len(efforts):
        return known
    before = reached - 2 if reached > 1 else 0
    rise = (known[-1] - known[before]) / max(efforts[reached - 1] - efforts[before], 1.0) or known[
        -1
    ] / efforts[reached - 1]
    return np.concatenate([known, known[-1] + rise * (efforts[reached:] - efforts[reached - 1])])


def _by_entries(
    index: TunedIndex, entries: Ints, counts: Ints, blocks: npt.ArrayLike, ms: npt.ArrayLike
) -> tuple[Ints, Floats, Floats]:
    """Bring what a scan saw through dead rows to what searches would see: their effort counts those as well.

    `entries` and `counts` (reached,): what the index gave by each rung, and the rows among it that exist.
    Returns counts (rungs,), blocks and milliseconds (reached,) by the time the index had given as many as the
    rungs say; counts stay at the last where the scan ended before.
    """
    rungs = np.asarray(index.rungs, dtype=np.float64)
    seen = np.interp(rungs, np.append(0, entries), np.append(0, counts))
    reached = rungs[: len(entries)]
    return (
        np.floor(seen + 1e-6).astype(np.int64),
        np.interp(reached, entries, np.asarray(blocks, dtype=np.float64)),
        np.interp(reached, entries, np.asarray(ms, dtype=np.float64)),
    )


def is_fatal(conn: psycopg.Connection[Any], error: psycopg.Error, seconds: float, timeout_ms: int) -> bool:
    """Say whether an error after some seconds ends the work, and not just the one search that it hit.

    That is a lost connection, a standby that had to end the transaction, and a statement that somebody
    cancelled before its time was out.
    """
    if conn.closed or isinstance(error, psycopg.errors.SerializationFailure):
        return True
    return isinstance(error, psycopg.errors.QueryCanceled) and seconds * 1000 < timeout_ms


def _run(
    conn: psycopg.Connection[Any], tuned: TunedColumn, timeout_ms: int, values: dict[str, Any]
) -> tuple[Any, ...] | None:
    started = perf_counter()
    try:
        with conn.transaction():  # a savepoint: one search too slow must not undo the others
            row = conn.execute(queries()["replay_search"], values).fetchone()
    except psycopg.errors.QueryCanceled as error:
        if is_fatal(conn, error, perf_counter() - started, timeout_ms):
            raise
        log.warning(
            "a replay on %s took longer than %d ms: passed over",
            tuned.column,
            timeout_ms,
            extra={"action": "replay"},
        )
        return None
    except psycopg.errors.ObjectNotInPrerequisiteState as error:
        raise VectunedError(
            f"{error.diag.message_primary}. {error.diag.message_hint or ''}".strip()
        ) from error
    assert row is not None
    return tuple(row)
