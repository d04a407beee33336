"""Prepared searches through one index or through vectuned, and clients that time them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import psycopg
from psycopg import sql

from vectuned.daemon.database.session import open_session
from vectuned.learning.model.arrays import Singles
from vectuned.learning.model.tuned_columns import TunedColumn, TunedIndex
from vectuned.learning.model.vectors import Vector
from vectuned.sql.files import queries, trusted
from vectuned.sql.rows import fetch_value

from .arms import ArmResults, distance_row, race

# Settings under which only the index answers; the same as in sql/tuner/functions/search/search_template.sql.
_INDEX_ONLY: Final = (
    ("enable_sort", "off"),
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("jit", "off"),
    ("plan_cache_mode", "force_generic_plan"),
    ("hnsw.iterative_scan", "off"),
)
# The highest effort of the other method makes its indexes look more costly to the planner than this one.
_OTHER_METHOD: Final = {"hnsw": ("ivfflat.probes", "32768"), "ivfflat": ("hnsw.ef_search", "1000")}
_EFFORT_SETTING: Final = {"hnsw": "hnsw.ef_search", "ivfflat": "ivfflat.probes"}
_MAX_NEAREST: Final = 1000  # rows that are re-ranked at most; the largest ef_search


@dataclass(frozen=True)
class PreparedSearch:
    """A statement with the query vector as $1, and the settings that it runs with."""

    statement: str
    settings: tuple[tuple[str, str], ...] = ()


def prepare_index_search(
    conn: psycopg.Connection[Any], tuned: TunedColumn, index: TunedIndex, k: int, effort: int
) -> PreparedSearch:
    """Prepare a search through one index at a fixed effort, as vectuned.search does it."""
    # As vectuned._index_fragments has it: halfvec orders nearly exactly, so a tenth more rows suffice.
    nearest = min(k + k // 10 + 5, _MAX_NEAREST) if index.form == "halfvec" else max(effort, k)
    values = {"column_id": tuned.column.id, "index_no": index.number, "k": k, "nearest": nearest}
    statement = str(fetch_value(conn, "index_statement", values))
    effort_setting = (_EFFORT_SETTING[index.method], str(effort))
    return PreparedSearch(statement, (*_INDEX_ONLY, _OTHER_METHOD[index.method], effort_setting))


def prepare_vectuned_search(tuned: TunedColumn, k: int) -> PreparedSearch:
    """Prepare a search through vectuned.search, as an application does it."""
    statement = queries()["vectuned_search"].format(
        relation=sql.Literal(tuned.column.relation.as_string(None)),
        k=sql.Literal(k),
        column=sql.Literal(tuned.column.name),
    )
    return PreparedSearch(statement.as_string(None))


class Clients:
    """Connections that time prepared searches side by side, one connection for each search."""

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
        searches: Mapping[str, PreparedSearch],
        vectors: Singles,
        k: int,
        *,
        seed: int = 0,
        passes: int = 1,
        warm_up: int = 50,
        progress: Callable[[int], None] | None = None,
    ) -> dict[str, ArmResults]:
        """Race prepared searches for every vector, in shuffled blocks.

        Of several passes the quickest time of each query counts, which leaves out delays by other work on the
        machine. There are at most as many searches as connections.
        """
        searched = [(Vector(vector),) for vector in vectors]
        arms = {}
        for conn, (name, search) in zip(self._conns, searches.items(), strict=False):
            for setting, value in search.settings:
                conn.execute("SELECT set_config(%s, %s, false)", (setting, value))
            arms[name] = _search_function(conn, search.statement)
        assert len(arms) == len(searches)
        best: dict[str, ArmResults] = {}
        for number in range(passes):
            results = race(
                arms,
                searched,
                k,
                seed=seed + number,
                warm_up=0 if number else warm_up,
                progress=progress,
            )
            for name, result in results.items():
                before = best.get(name, result)
                best[name] = ArmResults(result.distances, np.minimum(result.millis, before.millis))
        for conn in self._conns:
            conn.execute("RESET ALL")
            conn.execute("SET vectuned.record = off")
        return best


def _search_function(conn: psycopg.Connection[Any], statement: str) -> Callable[[Vector], list[float]]:
    """Return a function that searches for a vector and returns the distances."""
    cursor, query = psycopg.RawCursor(conn, row_factory=distance_row), trusted(statement)

    def search(vector: Vector) -> list[float]:
        return cursor.execute(query, (vector,), prepare=True, binary=True).fetchall()

    return search
