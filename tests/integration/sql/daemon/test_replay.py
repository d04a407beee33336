"""vectuned._replay: a continued scan is equivalent to a separate search at every rung."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg
import pytest
from psycopg import errors
from tests.integration.table_helpers import OPERATORS, build, counted, enable, exact, make, one, raw, text

from vectuned.learning.model.ladder import RUNGS

Connection = psycopg.Connection[Any]

QUERIES = np.random.default_rng(2).normal(size=(120, 24)).astype(np.float32)


def prepared(conn: Connection, kind: str = "vector", metric: str = "cosine", rows: int = 3000) -> int:
    """Create a tuned table of vectors without structure, so that effort matters."""
    vectors = np.random.default_rng(1).normal(size=(rows, 24)).astype(np.float32)
    make(conn, vectors, kind=kind, index=False)
    build(conn, kind=kind, metric=metric, options="WITH (m = 6)")
    return enable(conn)


def replayed(
    conn: Connection, column: int, query: npt.ArrayLike, index: int = 1
) -> tuple[Any, Any, Any, Any]:
    """Replay on an index at all rungs; return distances, counts, blocks and milliseconds."""
    row = conn.execute(
        "SELECT distances, counts, blocks, ms FROM vectuned._replay(%s, %s, %s, %s)",
        (column, index, text(query), list(RUNGS)),
    ).fetchone()
    assert row is not None
    distances, counts, blocks, ms = row
    return distances, counts, blocks, ms


@pytest.mark.parametrize(("kind", "metric"), [("vector", "cosine"), ("halfvec", "l2"), ("vector", "ip")])
def test_replay_recalls_as_a_fresh_search_at_every_rung(conn: Connection, kind: str, metric: str) -> None:
    column = prepared(conn, kind, metric)
    rungs = (20, 56, 160, 448)
    continued, fresh = np.zeros(len(rungs)), np.zeros(len(rungs))
    for query in QUERIES:
        distances, counts, _, _ = replayed(conn, column, query)
        bound = exact(conn, query, 10, kind=kind, metric=metric)[-1][1] + 1e-9
        for i, rung in enumerate(rungs):
            seen = np.sort(distances[: counts[RUNGS.index(rung)]])[:10]
            continued[i] += (seen <= bound).sum()
            with conn.transaction():
                conn.execute(raw(f"SET LOCAL hnsw.ef_search = {rung}"))
                conn.execute("SET LOCAL enable_sort = off")
                rows = conn.execute(
                    raw(
                        f"SELECT embedding {OPERATORS[metric]} %s::{kind} FROM items "
                        f"ORDER BY embedding {OPERATORS[metric]} %s::{kind} LIMIT 10"
                    ),
                    (text(query),) * 2,
                ).fetchall()
            fresh[i] += sum(row[0] <= bound for row in rows)
    # 1,200 hits each: 0.02 is five standard errors of their paired difference, by graph.
    assert np.abs(continued - fresh).max() / (10 * len(QUERIES)) < 0.02
    assert continued[0] < continued[-1]


def test_replay_reports_the_cost_of_the_index(conn: Connection) -> None:
    column = prepared(conn)
    for query in QUERIES[:5]:
        with counted(conn, "items_embedding_idx") as index, counted(conn, "items") as table:
            distances, counts, blocks, ms = replayed(conn, column, query)
        # The scan that goes on from rung to rung, and one search by itself at one of the rungs.
        assert (index["scans"], table["scans"]) == (2, 0)
        assert blocks[-1] <= index["blocks"] <= 2 * blocks[-1] + 20  # opening reads the first page
        assert blocks == sorted(blocks)
        assert blocks[0] > 0
        assert ms == sorted(ms)
        assert counts == list(RUNGS)
        assert len(distances) == 1000
        wanted = {distance for _, distance in exact(conn, query, 3000)}
        assert set(distances) <= wanted
        assert len(set(distances)) > 990


def test_replay_of_a_table_smaller_than_the_ladder_returns_all_rows(conn: Connection) -> None:
    column = prepared(conn, rows=33)
    distances, counts, blocks, _ = replayed(conn, column, QUERIES[0])
    assert counts == [min(rung, 33) for rung in RUNGS]
    assert sorted(distances) == sorted(distance for _, distance in exact(conn, QUERIES[0], 33))
    assert blocks[-1] >= blocks[0]
    conn.execute("TRUNCATE items")
    distances, counts, _, _ = replayed(conn, column, QUERIES[0])
    assert (distances, counts) == (None, [0] * len(RUNGS))


def test_replay_ignores_null_and_zero_vectors(conn: Connection) -> None:
    column = prepared(conn, rows=40)
    conn.execute("INSERT INTO items VALUES (100, NULL), (101, array_fill(0, ARRAY[24])::vector)")
    distances, counts, _, _ = replayed(conn, column, QUERIES[0])
    assert counts[-1] == 40
    assert not np.isnan(distances).any()


def test_replay_rejects_another_plan(conn: Connection) -> None:
    column = prepared(conn)
    build(conn, options="WITH (m = 4)")
    conn.execute("DROP INDEX items_embedding_idx")
    with pytest.raises(
        errors.ObjectNotInPrerequisiteState, match=r"a replay on public.items.embedding should scan"
    ):
        replayed(conn, column, QUERIES[0])
    conn.execute("DROP INDEX items_embedding_idx1")
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="but the plan is Sort") as raised:
        replayed(conn, column, QUERIES[0])
    hint = "SELECT vectuned.refresh('public.items', 'embedding') lists the indexes again."
    assert raised.value.diag.message_hint == hint
    build(conn)
    assert enable(conn) == column
    # An index of the same definition as the dropped one gets its number.
    assert replayed(conn, column, QUERIES[0])[1] == list(RUNGS)
    with pytest.raises(errors.NoDataFound):
        replayed(conn, column, QUERIES[0], 2)


def test_replay_rejects_unknown_columns_and_indexes(conn: Connection) -> None:
    with pytest.raises(errors.NoDataFound):
        replayed(conn, 12345, QUERIES[0])
    column = prepared(conn)
    with pytest.raises(errors.NoDataFound):
        replayed(conn, column, QUERIES[0], 2)
    conn.execute("DROP TABLE items")
    with pytest.raises(errors.UndefinedTable, match="no longer exists"):
        replayed(conn, column, QUERIES[0])


def test_replay_is_independent_of_session_settings(conn: Connection) -> None:
    column = prepared(conn)
    plain = replayed(conn, column, QUERIES[0])
    for setting in (
        "enable_indexscan = off",
        "hnsw.ef_search = 900",
        "hnsw.iterative_scan = strict_order",
        "hnsw.max_scan_tuples = 1",
        "enable_sort = on",
        "jit = on",
    ):
        conn.execute(raw(f"SET {setting}"))
        if setting == "enable_indexscan = off":
            conn.execute("RESET enable_indexscan")
        again = replayed(conn, column, QUERIES[0])
        assert again[:2] == plain[:2], setting
    with counted(conn, "items_embedding_idx") as index:
        probe = one(conn, "SELECT vectuned._probe(c, %s, 56) FROM vectuned.tuned_column c", text(QUERIES[0]))
    assert index["scans"] == 1
    assert probe == sorted(probe)
    assert len(probe) == 56
