"""Counterfactual replay: what a search would have returned and cost at every effort of every index."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import psycopg

from vectuned.config.errors import VectunedError
from vectuned.learning.model.arrays import Bools, Floats, Singles
from vectuned.learning.model.ladder import PROBE_WIDTH, PROBES, k_class
from vectuned.learning.model.trajectory import Trajectories
from vectuned.learning.model.tuned_columns import TunedColumn, TunedIndex
from vectuned.learning.model.vectors import Vector
from vectuned.sql.rows import execute, fetch_row

from .batch import MIN_DEPTH, ReplayBatch, choose_complete
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

    The exact answers of a batch of searches and its scans see one snapshot, in one transaction; `conn` must
    be in autocommit mode. `progress` is called with the number done after each search. Unless the column
    stores vectors, the same transaction deletes the query vectors. A search whose scan takes longer than
    `timeout_ms` is marked replayed, so that it is not tried again, but nothing is learned from it. A partial
    index is replayed only with the filters that it answers. A search is not replayed a second time on the
    same generation of an index.

    At each rung the continued scan of an HNSW index has returned what a fresh search returns, but not in the
    same order: its first rows are those of 10, followed by 4 more, and so on. Therefore the signature comes
    from separate short searches, the probes.

    With a `reader`, a connection to a standby in autocommit mode, exact answers and scans see a snapshot
    there, and `conn` stores the results afterwards in a transaction on the primary; the caller must make
    sure that the standby has caught up. `timer` records the time that each part of the work takes.

    Raises VectunedError when the main index is gone or was rebuilt, or when the plan does not scan the index
    that is replayed. For an index other than the main one that is logged, and the others go on.
    """
    if not tuned.indexes:
        raise VectunedError(
            f"The index of {tuned.column} is gone: create an HNSW or IVFFlat index and call vectuned.enable "
            "again."
        )
    require_generation(conn, tuned, tuned.indexes[0])
    timer = timer or WorkTimer()
    done = 0
    size = _BATCH if max(trajectories.ks, default=1) <= MIN_DEPTH else _DEEP_BATCH
    for start in range(0, len(trajectories), size):
        searches = trajectories.take(slice(start, start + size))
        if reader is None:
            with conn.transaction():
                conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                snapshot = _SnapshotReplay(conn, conn, tuned, searches, timeout_ms, timer)
                store(conn, snapshot.batch, snapshot.run(done, progress))
        else:
            with reader.transaction():
                reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                snapshot = _SnapshotReplay(conn, reader, tuned, searches, timeout_ms, timer)
                results = snapshot.run(done, progress)
            with conn.transaction():
                for index in tuned.indexes:
                    require_generation(conn, tuned, index)
                store(conn, snapshot.batch, results)
        done += len(searches)
    return done


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
            self.batch = ReplayBatch.prepare(reader, tuned, searches, complete)

    def run(self, done: int, progress: Callable[[int], None] | None) -> ReplayResults:
        """Search through every index, the main one first, and then as searches are served now."""
        execute(self._reader, "limit_statement", {"milliseconds": str(self._timeout_ms)})
        with self._timer.scan(len(self.batch)):
            scans, probes = self._scan_indexes(done, progress)
            # The scans lock an index against a rebuild, so its generation now is that of all of them.
            for index in scans:
                require_generation(self._reader, self._tuned, index)
            version = read_bank_version(self._reader, self._tuned)
            checked, checks = self._check_served()
        return ReplayResults(scans, probes, version, checked, checks)

    def _scan_indexes(
        self, done: int, progress: Callable[[int], None] | None
    ) -> tuple[dict[TunedIndex, IndexScans], Floats | None]:
        """Run every search through every index that can answer it, and its probes through the main one."""
        batch, count, indexes = self.batch, len(self.batch), self._tuned.indexes
        scans = {
            index: IndexScans(self._tuned, index, count, batch.classes[-1], self._timeout_ms)
            for index in indexes
        }
        main = indexes[0]
        failed: set[TunedIndex] = set()
        probes = np.full((count, PROBE_WIDTH), np.inf) if main.probed else None
        for i in range(count):
            for index in indexes:
                if index in failed or not self._is_due(index, i):
                    continue
                try:
                    self._search(scans[index], i, scans[main].exact_ms[i])
                except VectunedError as error:
                    if index is main:
                        raise
                    log.warning("%s is passed over: %s", index.name, error, extra={"action": "replay"})
                    failed.add(index)
            if probes is not None and scans[main].finished[i]:
                probes[i] = self._probe(batch.searches.vectors[i])
            if progress is not None:
                progress(done + i + 1)
        return scans, probes

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
        row = fetch_row(self._reader, "probe_search", values)
        probes = np.full(PROBE_WIDTH, np.inf)
        for place, start in enumerate(_PROBE_STARTS):
            distances = getattr(row, f"probe_{place}") or []
            probes[start : start + len(distances)] = distances
        return probes

    def _check_served(self) -> tuple[Bools, Floats]:
        """Repeat the searches as they are served now: bool (n,), which, and their recall (n,).

        Searches that were replayed before are left out: what is served may have been learned from them.
        """
        searches = self.batch.searches
        checked = self.batch.valid & np.array(searches.fresh, dtype=np.bool_)
        answers = [
            search_again(self._reader, self._tuned, searches, i, self._timeout_ms) if checked[i] else None
            for i in range(len(searches))
        ]
        recall = self.batch.recall([answer or [] for answer in answers])
        recall[[answer is None for answer in answers]] = np.nan
        return checked, recall


def _implies(filter_text: str, requires: str) -> bool:
    """Return whether a filter implies the filter of a partial index, both as JSON objects."""
    conditions = json.loads(filter_text)
    return all(
        name in conditions and conditions[name] == value for name, value in json.loads(requires).items()
    )
