"""What is wrong inside an index, found by a few searches: lists, unreachable rows, equal vectors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import psycopg
from psycopg import sql

from vectuned.sql.rows import fetch_rows, fetch_value

from .catalogue import Server, VectorIndex, VectorTable
from .findings import Finding
from .searches import SEARCH_TIMEOUT_MS, as_text, draw_rows, nearest, settings

_LIST_QUERIES: Final = 20  # rows whose list is read: their mean varies by some tenths
# Times the rows that a row shares its list with, over those of even lists: trained lists have 1.5 to 3.
_UNEVEN: Final = 6.0
_REACH_QUERIES: Final = 200  # rows that are searched for by their own vector
_REACH_EF: Final = 400  # at which a search of a sound graph misses the row itself once in thousands of times
_UNREACHABLE_SHARE: Final = 0.02  # of the rows from which a graph counts as broken: chance misses are rarer
_EQUAL_ROWS: Final = 2000  # drawn to look for vectors that occur often
_EQUAL_SHARE: Final = 0.01  # of the rows from which one vector counts as a heap
_EQUAL_COUNT: Final = 100  # rows: below, all of a heap may be returned by one search
_ZERO: Final = 1e-5  # largest distance, cosine or L2, of a vector to itself as float4 computes it


def check_inside(
    conn: psycopg.Connection[Any], server: Server, table: VectorTable, seed: int = 0
) -> Iterator[Finding]:
    """Find what is wrong inside the indexes of a table, by searching for some of its rows."""
    extension = str(server.extension_schema)
    for index in table.serving:
        if index.method == "ivfflat":
            yield from _check_lists(conn, table, index, extension)
        elif index.key and index.metric in ("cosine", "l2"):
            yield from _check_reach(conn, table, index, extension)
    yield from _check_equal_vectors(conn, table)


def _check_lists(
    conn: psycopg.Connection[Any], table: VectorTable, index: VectorIndex, extension: str
) -> Iterator[Finding]:
    lists = index.lists or 100
    even = table.rows / lists
    limit = max(int(table.rows), 1)
    inner = nearest(table, index, extension, limit, None)
    count = sql.SQL("SELECT count(*) FROM ({}) AS s").format(inner)
    forced = {
        "statement_timeout": str(SEARCH_TIMEOUT_MS),
        "enable_seqscan": "off",
        "enable_sort": "off",
        "ivfflat.probes": "1",
    }
    sizes = []
    with settings(conn, forced):
        for vector in draw_rows(conn, table, _LIST_QUERIES).vectors:
            text = as_text(vector)
            sizes.append(fetch_value(conn, count, (text, text)))
    if not sizes or (mean := float(np.mean(sizes))) < _UNEVEN * max(even, 1.0):
        return
    yield Finding(
        "problem",
        "uneven-lists",
        str(index),
        f"divides the rows badly: a row shares its list with {mean:,.0f} others on average, where {lists:,} "
        f"even lists would hold {even:,.0f} each; the index was built before most of the rows were there, or "
        "they have changed since, and every search reads several times too many rows",
        "build it again on the rows of today with",
        f"REINDEX INDEX CONCURRENTLY {index.quoted}",
    )


def _check_reach(
    conn: psycopg.Connection[Any], table: VectorTable, index: VectorIndex, extension: str
) -> Iterator[Finding]:
    statement = nearest(table, index, extension, 1, None)
    forced = {
        "statement_timeout": str(SEARCH_TIMEOUT_MS),
        "enable_seqscan": "off",
        "enable_sort": "off",
        "hnsw.ef_search": str(_REACH_EF),
    }
    missed, asked = 0, 0
    with settings(conn, forced):
        for vector in draw_rows(conn, table, _REACH_QUERIES).vectors:
            if not np.any(vector):
                continue  # a zero vector has no cosine distance
            text = as_text(vector)
            distance = fetch_value(conn, statement, (text, text))
            asked += 1
            scale = 1.0 if index.metric == "cosine" else max(float(np.linalg.norm(vector)), 1.0)
            missed += distance is None or float(distance) > _ZERO * scale
    if asked == 0 or missed < max(_UNREACHABLE_SHARE * asked, 2):
        return
    yield Finding(
        "problem",
        "unreachable-rows",
        str(index),
        f"does not find {missed} of {asked} rows that were searched for by their own vectors at ef_search "
        f"{_REACH_EF}: no path of the graph leads to them, and no setting will find them",
        f"build it again; if that does not help, with a larger m and ef_construction than {index.build}: "
        "`vectuned advise` measures how large",
        f"REINDEX INDEX CONCURRENTLY {index.quoted}",
    )


def _check_equal_vectors(conn: psycopg.Connection[Any], table: VectorTable) -> Iterator[Finding]:
    percent = min(100.0, 2.0 * 100.0 * _EQUAL_ROWS / max(table.rows, 1.0))
    statement = sql.SQL(
        "SELECT count(*) AS rows, sum(count(*)) OVER () AS drawn FROM (SELECT {column} AS v FROM {relation} "
        "TABLESAMPLE BERNOULLI ({percent}) WHERE {column} IS NOT NULL LIMIT {most}) AS s GROUP BY v "
        "ORDER BY 1 DESC LIMIT 1"
    ).format(
        column=sql.Identifier(table.column),
        relation=sql.Identifier(table.schema, table.table),
        percent=sql.Literal(percent),
        most=sql.Literal(2 * _EQUAL_ROWS),
    )
    with settings(conn, {"statement_timeout": str(SEARCH_TIMEOUT_MS)}):
        rows = fetch_rows(conn, statement)
    if not rows:
        return
    share = float(rows[0].rows) / float(rows[0].drawn)
    if share < _EQUAL_SHARE or share * table.rows < _EQUAL_COUNT:
        return
    yield Finding(
        "warning",
        "equal-vectors",
        str(table),
        f"holds one vector about {share * table.rows:,.0f} times ({share:.1%} of the rows): a search near it "
        "returns any of these rows, and a graph may lose the others behind them",
        "keep one row for each vector that repeats, or leave them out of the index by its WHERE condition",
    )
