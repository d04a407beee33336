"""Counterfactual replay: what every effort of every index would have given a search."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import psycopg
from pgvector import Vector

from vectuned.config.errors import VectunedError
from vectuned.learning.model.arrays import Bools, Floats, Singles
from vectuned.learning.model.ladder import PROBE_WIDTH, PROBES, k_class
from vectuned.learning.model.trajectory import Trajectories
from vectuned.learning.model.tuned_columns import TunedColumn, TunedIndex
from vectuned.sql.files import queries

from .batch import LEAST_K, ReplayBatch, choose_complete
from .recheck import search_again
from .scan import SCAN_TIMEOUT_MS, IndexScans, ScanGoal
from .storage import ReplayResults, store
from .work_timer import WorkTimer

log = logging.getLogger(__name__)

_CHUNK: Final = 1000
_DEEP_CHUNK: Final = 200
_STARTS: Final = tuple(sum(PROBES[:place]) for place in range(len(PROBES)))


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
    """Replay searches through every index, store what they show, and mark them replayed; return how many.

    The exact answers of a chunk of searches and its scans see one snapshot, in one transaction; `conn` must
    be in autocommit mode. `progress` is told the number done after each search. Where the column's vectors
    are not to be kept, the query is dropped with the same transaction. A search whose scan takes longer
    than `timeout_ms` is marked replayed, so that it is not tried for ever, but nothing is learned from it. A
    partial index is tried with the filters that it answers; what was replayed on an index before is not
    replayed on it again.

    The continued scan of an HNSW index gives each rung what a search of its own would have found, but not in
    the order that one gives it: its beginning is 10 rows, then 4 more. So what a probe sees comes from short
    searches.

    With a `reader`, a connection to a standby in autocommit mode, exact answers and scans see a snapshot
    there, and `conn` stores what they show in a transaction of its own afterwards; whoever calls sees to it
    that the standby has caught up. `timer` takes in what it all took.

    Raises VectunedError when the main index is gone or was rebuilt, or the plan is not the one to be
    measured; of another index that is logged, and the others go on.
    """
    if not tuned.indexes:
        raise VectunedError(
            f"The index of {tuned.column} is gone: create an HNSW or IVFFlat index and call vectuned.enable "
            "again."
        )
    _require_generation(conn, tuned, tuned.indexes[0])
    timer = timer or WorkTimer()
    done = 0
    size = _CHUNK if max(trajectories.ks, default=1) <= LEAST_K else _DEEP_CHUNK
    for start in range(0, len(trajectories), size):
        searches = trajectories.take(slice(start, start + size))
        if reader is None:
            with conn.transaction():
                conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                look = _Look(conn, conn, tuned, searches, timeout_ms, timer)
                store(conn, look.chunk, look.at_all(done, progress))
        else:
            with reader.transaction():
                reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                look = _Look(conn, reader, tuned, searches, timeout_ms, timer)
                shown = look.at_all(done, progress)
            with conn.transaction():
                for index in tuned.indexes:
                    _require_generation(conn, tuned, index)
                store(conn, look.chunk, shown)
        done += len(searches)
    return done


class _Look:
    """Look at what a chunk of searches sees, in the snapshot that `reader` is in."""

    def __init__(
        self,
        conn: psycopg.Connection[Any],
        reader: psycopg.Connection[Any],
        tuned: TunedColumn,
        searches: Trajectories,
        timeout_ms: int,
        timer: WorkTimer,
    ) -> None:
        # A standby does not know yet what was stored a moment ago.
        self._before = {index: _replayed(conn, tuned, searches, index) for index in tuned.indexes}
        complete = choose_complete(conn, tuned, len(searches))
        self._reader, self._tuned, self._spent = reader, tuned, timer
        self._timeout_ms = timeout_ms
        with timer.read():
            self.chunk = ReplayBatch.of(reader, tuned, searches, complete)

    def at_all(self, done: int, progress: Callable[[int], None] | None) -> ReplayResults:
        """Search again through every index, the main one first, and as searches are served now."""
        self._reader.execute(queries()["limit_statement"], {"milliseconds": str(self._timeout_ms)})
        with self._spent.scan(len(self.chunk)):
            scans, probes = self._scan(done, progress)
            # The scans hold an index against a rebuild, so what it is now it was throughout.
            for index in scans:
                _require_generation(self._reader, self._tuned, index)
            row = self._reader.execute(
                queries()["bank_version"], {"column_id": self._tuned.column.id}
            ).fetchone()
            checked, checks = self._check()
        return ReplayResults(scans, probes, row[0] if row is not None else None, checked, checks)

    def _scan(
        self, done: int, progress: Callable[[int], None] | None
    ) -> tuple[dict[TunedIndex, IndexScans], Floats | None]:
        chunk, count, indexes = self.chunk, len(self.chunk), self._tuned.indexes
        scans = {
            index: IndexScans(self._tuned, index, count, chunk.classes[-1], self._timeout_ms)
            for index in indexes
        }
        main = indexes[0]
        failed: set[TunedIndex] = set()
        probes = np.full((count, PROBE_WIDTH), np.inf) if main.probed else None
        for i in range(count):
            for index, scan in scans.items():
                known = chunk.searches.query_ids[i] in self._before[index]
                if index in failed or known or not self._applies(index, i):
                    continue
                try:
                    self._search(scan, i, scans[main].exact_ms[i])
                except VectunedError as error:
                    if index is main:
                        raise
                    log.warning("%s is passed over: %s", index.name, error, extra={"action": "replay"})
                    failed.add(index)
            if probes is not None and scans[main].finished[i]:
                probes[i] = self._probes(chunk.searches.vectors[i])
            if progress is not None:
                progress(done + i + 1)
        return scans, probes

    def _applies(self, index: TunedIndex, i: int) -> bool:
        """Say whether an index can answer a search: a partial one only what asks for what it holds."""
        if index.requires is None:
            return True
        text = self.chunk.searches.filters[i]
        return bool(self.chunk.filtered[i]) and text is not None and _contains(text, index.requires)

    def _search(self, scan: IndexScans, i: int, exact_ms: float) -> None:
        chunk = self.chunk
        goal = ScanGoal()
        k = int(chunk.ks[i])
        if not chunk.complete[i]:
            goal = ScanGoal.full_recall(chunk.truth, i, k_class(k))
            if chunk.filtered[i] and chunk.filtered_truth is not None:
                goal = goal.with_filtered(chunk.filtered_truth, int(chunk.place[i]), k_class(k))
        scan.search(
            self._reader,
            i,
            chunk.searches.vectors[i],
            k,
            chunk.conditions[i],
            goal,
            thorough=bool(chunk.complete[i] and chunk.filtered[i] and scan.index is self._tuned.indexes[0]),
            exact_ms=float(exact_ms) if np.isfinite(exact_ms) else None,
        )

    def _probes(self, vector: Singles) -> Floats:
        values = {"column_id": self._tuned.column.id, "query": Vector(vector)}
        values |= {f"probe_{place}": length for place, length in enumerate(PROBES)}
        row = self._reader.execute(queries()["probe_search"], values).fetchone()
        seen = np.full(PROBE_WIDTH, np.inf)
        for start, distances in zip(_STARTS, row or (), strict=True):
            seen[start : start + len(distances or [])] = distances or []
        return seen

    def _check(self) -> tuple[Bools, Floats]:
        """Check what the searches are served with now; those replayed before have been learned from."""
        searches = self.chunk.searches
        own = self.chunk.understood & np.array(searches.fresh, dtype=np.bool_)
        answers = [
            search_again(self._reader, self._tuned, searches, i, self._timeout_ms) if own[i] else None
            for i in range(len(searches))
        ]
        recall = self.chunk.recall([answer or [] for answer in answers])
        recall[[answer is None for answer in answers]] = np.nan
        return own, recall


def _replayed(
    conn: psycopg.Connection[Any], tuned: TunedColumn, searches: Trajectories, index: TunedIndex
) -> set[Any]:
    """Read which of some searches were replayed on an index as it is."""
    values = {
        "column_id": tuned.column.id,
        "generation": index.generation,
        "query_ids": searches.query_ids,
    }
    return {row[0] for row in conn.execute(queries()["replayed"], values).fetchall()}


def _contains(filter_text: str, requires: str) -> bool:
    """Say whether a filter, both as JSON, asks for everything that a partial index is limited to."""
    asked = json.loads(filter_text)
    return all(name in asked and asked[name] == value for name, value in json.loads(requires).items())


def _require_generation(conn: psycopg.Connection[Any], tuned: TunedColumn, index: TunedIndex) -> None:
    """Refuse to go on if an index is not the one that `tuned` knows."""
    values = {"column_id": tuned.column.id, "index_no": index.number}
    row = conn.execute(queries()["generation"], values).fetchone()
    now = row[0] if row is not None else None
    if now is None:
        raise VectunedError(
            f"The index {index.name} of {tuned.column} is gone: create one and call vectuned.enable again."
        )
    if now != index.generation:
        raise VectunedError(
            f"The index {index.name} of {tuned.column} was rebuilt meanwhile: read the tuned columns again, "
            "then replay."
        )
