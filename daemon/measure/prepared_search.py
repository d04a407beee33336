"""Measuring one index: its recall and buffers by replays, its time as a client waits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import psycopg
from pgvector import Vector
from psycopg import sql

from vectuned.daemon.database.session import open_session
from vectuned.learning.model.arrays import Floats, Singles
from vectuned.learning.model.tuned_columns import TunedColumn, TunedIndex
from vectuned.learning.replay.scan import IndexScans, ScanGoal
from vectuned.learning.truth.truth import Truth
from vectuned.sql.files import queries, trusted

from .arms import ArmResults, race

_SERVED = "SELECT distance FROM vectuned.search({}::regclass, $1, {}, NULL, {})"


@dataclass(frozen=True)
class IndexReplay:
    """What n searches saw through an index: recall@k and index buffers, float64 (n, rungs)."""

    recall: Floats
    blocks: Floats

    def take(self, rows: Any) -> IndexReplay:
        """Return the searches at `rows`, indices or a mask."""
        return IndexReplay(self.recall[rows], self.blocks[rows])


@dataclass(frozen=True)
class PreparedSearch:
    """A statement with the query as $1, and the settings it runs with."""

    statement: str
    settings: tuple[tuple[str, str], ...] = ()


def replay_index(
    conn: psycopg.Connection[Any],
    tuned: TunedColumn,
    index: TunedIndex,
    vectors: Singles,
    truth: Truth,
    k: int,
    progress: Callable[[int], None] | None = None,
) -> IndexReplay:
    """Replay searches through one index, in the transaction `conn` is in; nothing is stored.

    A search ends where its answer is complete. Those that take too long are left out.
    """
    scans = IndexScans(tuned, index, len(vectors), k)
    for i, vector in enumerate(vectors):
        scans.search(conn, i, vector, k, None, ScanGoal.full_recall(truth, i, k))
        if progress is not None:
            progress(i + 1)
    own = scans.finished
    return IndexReplay(scans.recall(own, truth.take(own), k), scans.blocks[own])


def prepare_index_search(
    conn: psycopg.Connection[Any], tuned: TunedColumn, index: TunedIndex, k: int, effort: int
) -> PreparedSearch:
    """Return how to search through one index as vectuned.search does, at a fixed effort."""
    nearest = min(k + k // 10 + 5, 1000) if index.form == "halfvec" else max(effort, k)
    values = {"column_id": tuned.column.id, "index_no": index.number, "k": k, "nearest": nearest}
    row = conn.execute(queries()["index_statement"], values).fetchone()
    assert row is not None
    setting = "hnsw.ef_search" if index.method == "hnsw" else "ivfflat.probes"
    most_costly = ("ivfflat.probes", "32768") if index.method == "hnsw" else ("hnsw.ef_search", "1000")
    return PreparedSearch(str(row[0]), (*_INDEX_ONLY, most_costly, (setting, str(effort))))


# As the functions that serve have it: sql/functions/search_template.sql.
_INDEX_ONLY = (
    ("enable_sort", "off"),
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("jit", "off"),
    ("plan_cache_mode", "force_generic_plan"),
    ("hnsw.iterative_scan", "off"),
)


class Clients:
    """Hold connections to time ways to search side by side, each way by one of its own."""

    def __init__(self, conninfo: str, count: int) -> None:
        self._conninfo, self._count = conninfo, count
        self._stack = ExitStack()
        self._conns: list[psycopg.Connection[Any]] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for _ in range(self._count):
                conn = stack.enter_context(open_session(self._conninfo))
                conn.execute("SET vectuned.record = off")
                self._conns.append(conn)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def time(
        self,
        ways: Mapping[str, PreparedSearch],
        vectors: Singles,
        k: int,
        *,
        seed: int = 0,
        passes: int = 1,
        warm_up: int = 50,
        progress: Callable[[int], None] | None = None,
    ) -> dict[str, ArmResults]:
        """Race the ways in shuffled blocks; of several passes the quicker time of each search counts.

        That leaves out what other work on the machine costs now and then.
        """
        searches = [(Vector(vector),) for vector in vectors]
        asked = {}
        for conn, (name, way) in zip(self._conns, ways.items(), strict=False):
            for setting, value in way.settings:
                conn.execute("SELECT set_config(%s, %s, false)", (setting, value))
            asked[name] = _asking(conn, way.statement)
        assert len(asked) == len(ways)
        found: dict[str, ArmResults] = {}
        for turn in range(passes):
            seen = race(
                asked, searches, k, seed=seed + turn, warm_up=0 if turn else warm_up, progress=progress
            )
            for name, each in seen.items():
                before = found.get(name, each)
                found[name] = ArmResults(each.distances, np.minimum(each.millis, before.millis))
        for conn in self._conns:
            conn.execute("RESET ALL")
            conn.execute("SET vectuned.record = off")
        return found


def _asking(conn: psycopg.Connection[Any], statement: str) -> Callable[[Vector], list[float]]:
    cursor, query = psycopg.RawCursor(conn), trusted(statement)

    def ask(vector: Vector) -> list[float]:
        rows = cursor.execute(query, (vector,), prepare=True, binary=True).fetchall()
        return [row[-1] for row in rows]

    return ask


def prepare_vectuned_search(tuned: TunedColumn, k: int) -> PreparedSearch:
    """Return how an application searches."""
    literal = [
        sql.Literal(x).as_string(None) for x in (tuned.column.relation.as_string(None), k, tuned.column.name)
    ]
    return PreparedSearch(_SERVED.format(*literal))
