"""Scans of one index that repeat recorded searches: recall and cost at every rung of effort."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from itertools import pairwise
from time import perf_counter
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import psycopg
from psycopg import sql

from vectuned.config.errors import VectunedError
from vectuned.learning.model.arrays import Bools, Floats, Ints, Singles
from vectuned.learning.model.tuned_columns import TunedColumn, TunedIndex
from vectuned.learning.model.vectors import Vector
from vectuned.learning.truth.recall import recall_at_k, recall_curve
from vectuned.learning.truth.truth import Truth
from vectuned.sql.rows import fetch_row

log = logging.getLogger(__name__)

SCAN_TIMEOUT_MS: Final = 60_000  # milliseconds; ends a replay that would hold up all others


@dataclass(frozen=True)
class ScanGoal:
    """When a scan may end: it has returned `rows` rows within `distance`.

    A filtered scan must also have returned `filtered_rows` matching rows within `filtered_distance`, unless
    it has already taken half as long again as the exact answer. Without a goal a scan goes through every
    rung.
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
    """Return the number of rows in the exact answer of search `i` at k, and its largest distance.

    Rows that tie with the last one are counted too: without them, they could stand in for nearer rows that
    the scan has yet to return.
    """
    rows = min(k, int(truth.counts[i]))
    if rows == 0:
        return 0, -np.inf
    distance = float(truth.distances[i, rows - 1] + truth.tolerances[i, rows - 1])
    return int(np.count_nonzero(truth.distances[i] <= distance)), distance


class IndexScans:
    """Collect what n searches returned and cost through one index.

    `finished` bool (n,), the searches with a result; `blocks` and `ms` float64 (n, rungs), index buffers and
    milliseconds up to each rung, or of the search at that rung where scans cannot be continued; `cut_short`
    bool (n, rungs), the rungs that a filtered scan did not reach because it was ended for its time, before it
    had returned the whole answer; `matches` int64 (n, rungs), rows returned that meet the condition;
    `exact_ms` float64 (n,), NaN without a filter; `other_ms`, milliseconds of the access paths without rungs;
    `takes_index`, whether the planner takes a vector index with the settings of each of these, None where
    that was not asked; `fresh`, where a scan was continued, the place of a rung and the milliseconds of a
    search by itself there.
    """

    def __init__(
        self, tuned: TunedColumn, index: TunedIndex, count: int, depth: int, timeout_ms: int = SCAN_TIMEOUT_MS
    ) -> None:
        """Prepare for `count` searches, at most `depth` rows each where scans cannot be continued."""
        self.tuned = tuned
        self.timeout_ms = timeout_ms
        self.index = index
        self.depth = depth
        self._rungs = len(index.rungs)
        # The distances of a scan, or of the search at each rung where scans cannot be continued.
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
        self.takes_index: list[list[bool] | None] = [None] * count
        self.fresh: list[tuple[int, float] | None] = [None] * count

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
        """Run search `i` through the index and keep its result; False if it took too long.

        `thorough` also tries the access paths without rungs; `exact_ms` saves measuring the exact answer
        where that is known. Raises VectunedError when the plan does not scan the index.
        """
        row = _replay_search(
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
        self.finished[i] = True
        self._store_rungs(i, row)
        self._store_other_paths(i, row)
        if row.fresh_place is not None:
            self.fresh[i] = (row.fresh_place, row.fresh_ms)
        if condition is not None:
            self.exact_ms[i] = row.exact_ms
            self._mark_cut_short(i, len(row.counts), goal)
        return True

    def _store_rungs(self, i: int, row: Any) -> None:
        """Keep the distances by rung, and the costs."""
        distances = np.array(row.distances or [], dtype=np.float64)
        counts, blocks, ms = np.array(row.counts, dtype=np.int64), row.blocks, row.ms
        entries = np.array(counts if row.entries is None else row.entries, dtype=np.int64)
        if (entries > counts).any():
            counts, blocks, ms = _count_dead_rows(self.index, entries, counts, blocks, ms)
        if self.index.resumable:
            self._store_continued(i, distances, counts, row.matched)
        else:
            self._store_restarted(i, distances, counts)
        self.blocks[i], self.ms[i] = _extrapolate(blocks, self.index), _extrapolate(ms, self.index)

    def _store_continued(self, i: int, distances: Floats, counts: Ints, matched: list[bool] | None) -> None:
        """Keep a scan that was continued from rung to rung; rungs it did not reach count its last rows."""
        self._rows[i] = distances
        self._counts[i, : len(counts)], self._counts[i, len(counts) :] = counts, counts[-1]
        if matched is not None:
            self._matched[i] = np.array(matched, dtype=np.bool_)
            self.matches[i] = np.concatenate([[0], np.cumsum(self._matched[i])])[self._counts[i]]

    def _store_restarted(self, i: int, distances: Floats, counts: Ints) -> None:
        """Keep one search for each rung; rungs that were not tried repeat the last one."""
        starts = np.concatenate([[0], counts[:-1]])
        rows = [distances[start:end] for start, end in zip(starts, counts, strict=True)]
        rows += rows[-1:] * (self._rungs - len(rows))
        self._rows[i] = rows
        self.matches[i] = [len(each) for each in rows]

    def _store_other_paths(self, i: int, row: Any) -> None:
        """Keep the distances and the costs of the access paths without rungs."""
        distances = np.array(row.other_distances or [], dtype=np.float64)
        self._others[i] = [distances[start:end] for start, end in pairwise([0, *(row.other_counts or [])])]
        self.other_ms[i] = list(row.other_ms or [])
        self.takes_index[i] = row.takes_index

    def _mark_cut_short(self, i: int, reached: int, goal: ScanGoal) -> None:
        """Mark the rungs after the first `reached` if the scan ended before the filtered goal was met."""
        if goal.filtered_rows is None or goal.filtered_distance is None:
            return
        found = np.count_nonzero(self._matching(i) <= goal.filtered_distance)
        self.cut_short[i, reached:] = found < goal.filtered_rows

    def _matching(self, i: int) -> Floats:
        """Return the distances of the matching rows that a filtered search had returned at its end."""
        rows = self._rows[i]
        if isinstance(rows, list):
            return rows[-1]
        return rows[self._matched[i]]

    def distances(self) -> tuple[Floats, Ints]:
        """Return the distances of continued scans in the order of the scan, and their number by each rung.

        Float64 (n, most), padded with +inf, and int64 (n, rungs).
        """
        return _pad(self._rows, self.index.rungs[-1]), self._counts

    def recall(self, chosen: Bools, truth: Truth, k: int | Ints) -> Floats:
        """Score the searches at `chosen` (n,) at every rung, without filters. Returns (m, rungs).

        `truth` holds the exact answers of the m chosen searches.
        """
        places = np.flatnonzero(chosen)
        return self._curves(places, truth, k, [None] * len(places))

    def filtered_recall(self, chosen: Bools, truth: Truth, k: int | Ints) -> Floats:
        """Score the filtered searches at `chosen` (n,) by their matching rows. Returns (m, rungs)."""
        places = np.flatnonzero(chosen)
        return self._curves(places, truth, k, [self._matched[i] for i in places])

    def _curves(self, places: Ints, truth: Truth, k: int | Ints, matched: list[Bools] | list[None]) -> Floats:
        if not self.index.resumable:
            return np.stack(
                [
                    recall_at_k(_pad([self._rows[i][rung] for i in places], self.depth), truth, k)
                    for rung in range(self._rungs)
                ],
                axis=1,
            )
        rows = [
            np.asarray(self._rows[i]) if inside is None else np.where(inside, self._rows[i], np.inf)
            for i, inside in zip(places, matched, strict=True)
        ]
        return recall_curve(_pad(rows, self.index.rungs[-1]), self._counts[places], truth, k)

    def other_recall(self, i: int, number: int, truth: Truth, k: int) -> list[float]:
        """Score the access paths without rungs that search `i` tried; `number` indexes `truth`."""
        one = truth.take(np.array([number]))
        return [float(recall_at_k(_pad([rows], self.depth), one, k)[0]) for rows in self._others[i]]


def _pad(rows: list[Any], width: int) -> Floats:
    """Lay arrays of distances out as the rows of a table, padded with +inf to `width` or the longest."""
    table = np.full((len(rows), max([width, *(len(r) for r in rows)])), np.inf)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return table


def _extrapolate(costs: npt.ArrayLike, index: TunedIndex) -> Floats:
    """Extend costs (reached,) to all rungs, at the price that effort had between the last two rungs."""
    known = np.asarray(costs, dtype=np.float64)
    reached = len(known)
    efforts = np.asarray(index.rungs, dtype=np.float64)
    if reached == len(efforts):
        return known
    before = reached - 2 if reached > 1 else 0
    price = (known[-1] - known[before]) / max(efforts[reached - 1] - efforts[before], 1.0)
    if price == 0.0:  # with a single rung, or where the last one was free: the mean price
        price = known[-1] / efforts[reached - 1]
    return np.concatenate([known, known[-1] + price * (efforts[reached:] - efforts[reached - 1])])


def _count_dead_rows(
    index: TunedIndex, entries: Ints, counts: Ints, blocks: npt.ArrayLike, ms: npt.ArrayLike
) -> tuple[Ints, Floats, Floats]:
    """Correct a continued scan for dead rows in the index, which searches spend their effort on too.

    `entries` and `counts` (reached,): entries returned by the index up to each rung, and the live rows among
    them. Returns counts (rungs,), and blocks and milliseconds (reached,), at the points where the index had
    returned as many entries as each rung says. After the end of the scan the counts stay at the last.
    """
    rungs = np.asarray(index.rungs, dtype=np.float64)
    live = np.interp(rungs, np.append(0, entries), np.append(0, counts))
    reached = rungs[: len(entries)]
    return (
        np.floor(live + 1e-6).astype(np.int64),  # interpolation may fall short of a whole number by rounding
        np.interp(reached, entries, np.asarray(blocks, dtype=np.float64)),
        np.interp(reached, entries, np.asarray(ms, dtype=np.float64)),
    )


def is_fatal(conn: psycopg.Connection[Any], error: psycopg.Error, seconds: float, timeout_ms: int) -> bool:
    """Return whether an error after some seconds ends all work, not only the search that met it.

    These are a lost connection, a standby that had to end the transaction, and a statement that was cancelled
    before its timeout.
    """
    if conn.closed or isinstance(error, psycopg.errors.SerializationFailure):
        return True
    return isinstance(error, psycopg.errors.QueryCanceled) and seconds * 1000 < timeout_ms


def _replay_search(
    conn: psycopg.Connection[Any], tuned: TunedColumn, timeout_ms: int, values: dict[str, Any]
) -> Any:
    """Run the statement that replays a search and return its row; None if it ran into the timeout."""
    started = perf_counter()
    try:
        with conn.transaction():  # a savepoint: one search too slow must not undo the others
            return fetch_row(conn, "replay_search", values)
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
