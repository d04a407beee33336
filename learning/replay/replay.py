"""Counterfactual replay: what a search would have returned and cost at every effort of every index."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from time import perf_counter
from typing import Any, Final

import numpy as np
import psycopg

from vectuned.config.errors import VectunedError
from vectuned.learning.model.arrays import Floats, Singles
from vectuned.learning.model.ladder import PROBE_WIDTH, PROBES, k_class
from vectuned.learning.model.trajectory import Trajectories
from vectuned.learning.model.tuned_columns import TunedColumn, TunedIndex
from vectuned.learning.model.vectors import Vector
from vectuned.sql.rows import execute, fetch_row

from .batch import MIN_DEPTH, ReplayBatch, choose_complete
from .lock_watch import LockWaitError, LockWatch, give_way
from .recheck import search_again
from .scan import SCAN_TIMEOUT_MS, IndexScans, ScanGoal
from .storage import ReplayResults, read_bank_version, read_replayed, require_generation, store
from .work_timer import WorkTimer

log = logging.getLogger(__name__)

# Searches in one snapshot: more share one pass over the table, but hold the snapshot longer.
_BATCH: Final = 1000
_DEEP_BATCH: Final = 200  # the same for a k above MIN_DEPTH, whose exact answers take ten times the memory
_PROBE_STARTS: Final = tuple(
    sum(PROBES[:place]) for place in range(len(PROBES))
)  # offsets in a row of probes


def replay(
    conn: psycopg.Connection[Any],
    tuned: TunedColumn,
    trajectories: Trajectories,
    *,
    reader: psycopg.Connection[Any] | None = None,
    progress: Callable[[int], None] | None = None,
    timeout_ms: int = SCAN_TIMEOUT_MS,
    timer: WorkTimer | None = None,
) -> int:
    """Replay searches through every index, store the results, mark them replayed; return their number.

    The exact answers of a batch of searches and its scans see one snapshot, in one read-only transaction; a
    transaction after it stores the results and, unless the column stores vectors, deletes the query vectors.
    `conn` must be in autocommit mode. `progress` is called with the number done after each search. A search
    whose scan takes longer than `timeout_ms` is marked replayed, so that it is not tried again, but nothing
    is learned from it. A partial index is replayed only with the filters that it answers. A search is not
    replayed a second time on the same generation of an index.

    At each rung the continued scan of an HNSW index has returned what a fresh search returns, but not in the
    same order: its first rows are those of 10, followed by 4 more, and so on. Therefore the signature comes
    from separate short searches, the probes.

    With a `reader`, a connection to a standby in autocommit mode, exact answers and scans see a snapshot
    there, and `conn` stores the results on the primary; the caller must make sure that the standby has caught
    up. `timer` records the time that each part of the work takes.

    When another session waits for a lock that a pass holds, the pass ends within a second or two: what was
    replayed by then is stored, and fewer searches than given are returned. That is checked once a second.

    Without an index over all rows, searches that no partial index can answer are checked but not replayed.

    Raises VectunedError when the main index is gone or was rebuilt, or when the plan does not scan the index
    that is replayed. For an index other than the main one that is logged, and the others go on. Raises
    LockWaitError if another session waits before anything was replayed.
    """
    if not tuned.indexes:
        raise VectunedError(
            f"The index of {tuned.column} is gone: create an HNSW or IVFFlat index over all rows; the next "
            "refresh takes it."
        )
    require_generation(conn, tuned, tuned.indexes[0])
    timer = timer or WorkTimer()
    done = 0
    size = _BATCH if max(trajectories.ks, default=1) <= MIN_DEPTH else _DEEP_BATCH
    for start in range(0, len(trajectories), size):
        searches = trajectories.take(slice(start, start + size))
        batch, results = _replay_batch(
            conn, reader or conn, tuned, searches, timeout_ms, timer, progress and _offset(progress, done)
        )
        with conn.transaction():
            for index in tuned.indexes:
                require_generation(conn, tuned, index)
            store(conn, batch, results)
        done += results.done
        if results.done < len(searches):
            break
    return done


def _offset(progress: Callable[[int], None], before: int) -> Callable[[int], None]:
    """Return a progress function that adds what was done before."""
    return lambda done: progress(before + done)


def _replay_batch(
    conn: psycopg.Connection[Any],
    reader: psycopg.Connection[Any],
    tuned: TunedColumn,
    searches: Trajectories,
    timeout_ms: int,
    timer: WorkTimer,
    progress: Callable[[int], None] | None,
) -> tuple[ReplayBatch, ReplayResults]:
    """Replay searches in one snapshot of `reader`, until another session waits for a lock of it.

    The snapshot is released before the results are stored, so storing them holds no lock on the table.
    """
    with reader.transaction():
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        with give_way(reader) as watch:
            snapshot = _SnapshotReplay(conn, reader, tuned, searches, timeout_ms, timer)
            snapshot.run(watch, progress)
        return snapshot.batch, snapshot.finish()


class _SnapshotReplay:
    """Replay a batch of searches in the snapshot of the transaction that `reader` is in."""

    def __init__(
        self,
        conn: psycopg.Connection[Any],
        reader: psycopg.Connection[Any],
        tuned: TunedColumn,
        searches: Trajectories,
        timeout_ms: int,
        timer: WorkTimer,
    ) -> None:
        # Read on the primary: a standby may not have received the latest replays yet.
        self._replayed = {index: read_replayed(conn, tuned, searches, index) for index in tuned.indexes}
        complete = choose_complete(conn, tuned, len(searches))
        self._reader, self._tuned, self._timer = reader, tuned, timer
        self._timeout_ms = timeout_ms
        with timer.read():
            self.batch = ReplayBatch.prepare(reader, tuned, searches, complete, timer.count_read)
        count, main = len(self.batch), tuned.indexes[0]
        self._scans = {
            index: IndexScans(tuned, index, count, self.batch.classes[-1], timeout_ms)
            for index in tuned.indexes
        }
        self._failed: set[TunedIndex] = set()
        self._probes = (
            np.full((count, PROBE_WIDTH), np.inf) if main.probed and main.requires is None else None
        )
        # Searches that were replayed before are not checked: what is served may have been learned from them.
        # Calls are served by the settings of their application, not by vectuned.search.
        fresh, answered = (np.array(part, dtype=np.bool_) for part in (searches.fresh, searches.answered))
        self._checked = self.batch.valid & fresh & answered
        self._answers: list[list[float] | None] = [None] * count
        self._done = 0

    def run(self, watch: LockWatch, progress: Callable[[int], None] | None) -> None:
        """Search through every index, the main one first, and then as searches are served now.

        Ends early when another session waits, but raises LockWaitError if nothing was done by then.
        """
        execute(self._reader, "limit_statement", {"milliseconds": str(self._timeout_ms)})
        started = perf_counter()
        try:
            for i in range(len(self.batch)):
                watch.check()
                self._replay_search(i)
                self._done = i + 1
                if progress is not None:
                    progress(self._done)
        except (LockWaitError, psycopg.errors.QueryCanceled):
            if not (watch.wanted and self._done):
                raise
        self._timer.count_scans(perf_counter() - started, self._done)

    def finish(self) -> ReplayResults:
        """Return the results of the searches that are done, in the same transaction."""
        # The scans lock an index against a rebuild, so its generation now is that of all of them.
        for index in self._scans:
            require_generation(self._reader, self._tuned, index)
        version = read_bank_version(self._reader, self._tuned)
        checks = self.batch.recall([answer or [] for answer in self._answers])
        checks[[answer is None for answer in self._answers]] = np.nan
        return ReplayResults(self._scans, self._probes, version, self._checked, checks, self._done)

    def _replay_search(self, i: int) -> None:
        """Run search `i` through every index that can answer it, its probes, and as it is served now."""
        main = self._tuned.indexes[0]
        for index in self._tuned.indexes:
            if index in self._failed or not self._is_due(index, i):
                continue
            try:
                self._search(self._scans[index], i, self._scans[main].exact_ms[i])
            except VectunedError as error:
                if index is main and index.requires is None:
                    raise
                log.warning("%s is passed over: %s", index.name, error, extra={"action": "replay"})
                self._failed.add(index)
        if self._probes is not None and self._scans[main].finished[i]:
            self._probes[i] = self._probe(self.batch.searches.vectors[i])
        if self._checked[i]:
            searches = self.batch.searches
            self._answers[i] = search_again(self._reader, self._tuned, searches, i, self._timeout_ms)

    def _is_due(self, index: TunedIndex, i: int) -> bool:
        """Return whether an index can answer search `i` and has not replayed it yet."""
        searches = self.batch.searches
        if searches.query_ids[i] in self._replayed[index]:
            return False
        if index.requires is None:
            return True
        text = searches.filters[i]
        return bool(self.batch.filtered[i]) and text is not None and _implies(text, index.requires)

    def _search(self, scans: IndexScans, i: int, exact_ms: float) -> None:
        """Run search `i` through one index; `exact_ms` is NaN where the exact answer was not timed yet."""
        batch = self.batch
        complete, filtered = bool(batch.complete[i]), bool(batch.filtered[i])
        scans.search(
            self._reader,
            i,
            batch.searches.vectors[i],
            int(batch.ks[i]),
            batch.conditions[i],
            ScanGoal() if complete else self._goal(i),
            thorough=complete and filtered and scans.index is self._tuned.indexes[0],
            exact_ms=float(exact_ms) if np.isfinite(exact_ms) else None,
        )

    def _goal(self, i: int) -> ScanGoal:
        """Return the goal of a replay that ends early: the whole answer for its own class of k."""
        batch, k = self.batch, k_class(int(self.batch.ks[i]))
        goal = ScanGoal.full_recall(batch.truth, i, k)
        if batch.filtered[i] and batch.filtered_truth is not None:
            goal = goal.with_filtered(batch.filtered_truth, int(batch.filtered_place[i]), k)
        return goal

    def _probe(self, vector: Singles) -> Floats:
        """Return the distances of the probes of a query, side by side: (PROBE_WIDTH,), padded with +inf."""
        values = {"column_id": self._tuned.column.id, "query": Vector(vector)}
        values |= {f"probe_{place}": length for place, length in enumerate(PROBES)}
        with self._reader.transaction():  # a savepoint: a cancelled probe must not undo the others
            row = fetch_row(self._reader, "probe_search", values)
        probes = np.full(PROBE_WIDTH, np.inf)
        for place, start in enumerate(_PROBE_STARTS):
            distances = getattr(row, f"probe_{place}") or []
            probes[start : start + len(distances)] = distances
        return probes


def _implies(filter_text: str, requires: str) -> bool:
    """Return whether a filter implies the filter of a partial index, both as JSON objects."""
    conditions = json.loads(filter_text)
    return all(
        name in conditions and conditions[name] == value for name, value in json.loads(requires).items()
    )
