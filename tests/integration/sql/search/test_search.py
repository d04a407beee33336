"""vectuned.search: its results compared with exact search, and its errors."""

from __future__ import annotations

import math
from typing import Any
from uuid import UUID

import numpy as np
import psycopg
import pytest
from tests.integration.table_helpers import (
    build,
    clustered,
    counted,
    enable,
    exact,
    make,
    one,
    raw,
    search,
    text,
)

Connection = psycopg.Connection[Any]

QUERY = [1.0, -1.0, 0.5, 2.0]


def ascending(found: list[tuple[str, float]]) -> bool:
    """Return whether distances ascend, up to the float4 precision in which an index compares."""
    distances = np.array([distance for _, distance in found])
    return bool((np.diff(distances) >= -1e-6 * np.abs(distances[1:])).all())


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
@pytest.mark.parametrize("kind", ["vector", "halfvec"])
def test_search_of_a_small_table_is_exact(conn: Connection, kind: str, metric: str) -> None:
    make(conn, clustered(400, 16, seed=1), kind=kind, metric=metric)
    conn.execute("SELECT '[1]'::vector")
    conn.execute("SET hnsw.ef_search = 400")
    enable(conn)
    with counted(conn, "items_embedding_idx") as index, counted(conn, "items") as table:
        for number, query in enumerate(clustered(20, 16, seed=2)):
            for k in (1, 2, 10, 100, 399):
                found = search(conn, query, k)
                assert ascending(found)
                every = dict(exact(conn, query, 400, kind=kind, metric=metric))
                assert all(every[key] == distance for key, distance in found)
                bound = exact(conn, query, k, kind=kind, metric=metric)[-1][1]
                # Half precision reorders rows near rank k; a graph for inner products may not reach all rows.
                edge = 1e-3 if kind == "halfvec" and metric == "cosine" else 0.0
                lost = {key for key, distance in every.items() if distance < bound - edge} - {
                    key for key, _ in found
                }
                assert len(lost) <= (0.1 * k if metric == "ip" else 0), number
    assert index["scans"] >= 20 * 4
    if metric != "ip":
        assert table["scans"] == 20 * 5 * 2  # only those of the exact searches


@pytest.mark.parametrize("k", [1, 10, 399, 400, 401, 1000])
def test_search_returns_all_rows_if_k_is_larger(conn: Connection, k: int) -> None:
    make(conn, clustered(400, 16, seed=1))
    enable(conn)
    query = clustered(1, 16, seed=2)[0]
    found = search(conn, query, k)
    assert len(found) == len({key for key, _ in found}) == min(k, 400)
    assert ascending(found)
    if k > 399:
        assert sorted(found) == sorted(exact(conn, query, k))


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_search_leaves_out_null_vectors_and_zero_vectors_by_cosine(conn: Connection, metric: str) -> None:
    vectors = list(clustered(30, 4, seed=1))
    make(conn, [*vectors, None, np.zeros(4, np.float32), None], metric=metric)
    enable(conn)
    found = search(conn, QUERY, 40)
    assert sorted(found) == sorted(exact(conn, QUERY, 40, metric=metric))
    assert len(found) == (30 if metric == "cosine" else 31)
    # No index: a scan of the table returns every row, the zero vectors first.
    conn.execute("DROP INDEX items_embedding_idx")
    for k in (5, 30, 31, 40):
        assert sorted(search(conn, QUERY, k)) == sorted(exact(conn, QUERY, k, metric=metric))


def test_search_of_an_empty_table_returns_nothing(conn: Connection) -> None:
    make(conn, [], dimensions=4)
    enable(conn)
    assert search(conn, QUERY) == []
    conn.execute("INSERT INTO items VALUES (1, '[1,2,3,4]')")
    assert search(conn, QUERY) == exact(conn, QUERY)


def test_search_returns_all_equal_vectors(conn: Connection) -> None:
    make(conn, np.repeat(clustered(50, 4, seed=1), 8, axis=0))
    enable(conn)
    nearest = exact(conn, QUERY, 1)[0][1]
    found = search(conn, QUERY, 8)
    assert len({key for key, _ in found}) == 8
    assert [distance for _, distance in found] == [nearest] * 8


@pytest.mark.parametrize("vacuumed", [False, True])
def test_search_returns_k_rows_despite_deleted_rows(conn: Connection, vacuumed: bool) -> None:
    make(conn, clustered(3000, 8, seed=1))
    enable(conn, sample_rate=1.0)
    query = clustered(1, 8, seed=2)[0]
    near = [int(key) for key, _ in exact(conn, query, 400)]
    conn.execute("DELETE FROM items WHERE id = ANY (%s)", (near,))
    if vacuumed:
        conn.execute("VACUUM items")
    with counted(conn, "items") as table:
        found = search(conn, query, 40)
    assert len({key for key, _ in found}) == 40
    assert not {int(key) for key, _ in found} & set(near)
    assert ascending(found)
    # A scan that dead rows left short continues; it does not fall back to the whole table.
    assert table["scans"] == 0
    path = one(conn, "SELECT access_path FROM vectuned.inbox")
    assert path == ("hnsw" if vacuumed else "hnsw_continued")


def test_search_of_a_table_that_lost_nearly_all_rows(conn: Connection) -> None:
    make(conn, clustered(3000, 8, seed=1))
    enable(conn)
    conn.execute("DELETE FROM items WHERE id % 250 <> 0")
    query = clustered(1, 8, seed=2)[0]
    assert sorted(search(conn, query, 12)) == sorted(exact(conn, query, 12))
    assert sorted(search(conn, query, 13)) == sorted(exact(conn, query, 12))


@pytest.mark.parametrize(
    ("arguments", "state", "words"),
    [
        ("'nowhere', '[1,2,3,4]'", "42P01", 'relation "nowhere" does not exist'),
        ("NULL, '[1,2,3,4]'", "22004", "the relation is NULL"),
        ("'pg_class', '[1,2,3,4]'", "42704", "pg_class has no column that vectuned tunes"),
        (
            "'items', '[1,2,3,4]', column_name => 'nothing'",
            "42703",
            'column "nothing" of .*items does not exist',
        ),
        (
            "'items', '[1,2,3,4]', column_name => 'id'",
            "42704",
            r'items \(asked for "id"\) has no column that',
        ),
        ("'items', '[1,2,3]'", "22000", "query vector has 3 dimensions, .*items.embedding has 4"),
        ("'items', '[1,2,3,4,5]', 0", "22023", "k must be between 1 and 1000, got 0"),
        ("'items', '[1,2,3,4]', 0", "22023", "k must be between 1 and 1000, got 0"),
        ("'items', '[1,2,3,4]', -5", "22023", "k must be between 1 and 1000, got -5"),
        ("'items', '[1,2,3,4]', 1001", "22023", "k must be between 1 and 1000, got 1001"),
        ("'items', '[1,2,3,4]', 2147483647", "22023", "k must be between 1 and 1000, got 2147483647"),
        ("'items', '[1,2,3,4]', NULL", "22023", "k must be between 1 and 1000, got NULL"),
        ("'items', NULL", "22004", "the query vector for .*items.embedding is NULL"),
        ("'items', '[1,2,3,NaN]'", "22000", "NaN not allowed in vector"),
        ("'items', '[1,2,3,Infinity]'", "22000", "infinite value not allowed in vector"),
        ("'items', '[1,2,3,1e39]'", "22003", "out of range"),
        ("'items', 'nonsense'", "22P02", "invalid input syntax for type vector"),
        ("'items', '[0,0,0,0]'", "22023", "query vector .*is zero and has no cosine distance"),
        ("'items', '[1,2,3,4]', 5, '[]'", "22023", "filter must be a JSON object"),
        ("'items', '[1,2,3,4]', 5, '{\"nothing\": 1}'", "42703", 'column "nothing" of the filter'),
        ("'halves', '[1,2,3,70000]'", "22003", "out of range for type halfvec"),
        ("'halves', '[0,0,0,1e-20]'", "22023", "is zero and has no cosine distance"),
    ],
)
def test_search_errors_name_the_fault_and_nothing_is_recorded(
    conn: Connection, arguments: str, state: str, words: str
) -> None:
    make(conn, clustered(60, 4, seed=1))
    make(conn, clustered(60, 4, seed=1), table="halves", kind="halfvec")
    enable(conn, sample_rate=1.0)
    enable(conn, "halves", sample_rate=1.0)
    with pytest.raises(psycopg.Error, match=words) as raised:
        conn.execute(raw(f"SELECT * FROM vectuned.search({arguments})"))
    assert raised.value.sqlstate == state
    assert one(conn, "SELECT count(*) FROM vectuned.inbox") == 0
    assert search(conn, QUERY) == exact(conn, QUERY)


def test_search_with_a_query_vector_from_a_table_in_a_new_session(conn: Connection, database: str) -> None:
    make(conn, clustered(60, 4, seed=1))
    column = enable(conn)
    statement = "SELECT s.id FROM items i, vectuned.search('items', i.embedding, 1) s WHERE i.id = 7"
    with psycopg.connect(database, autocommit=True) as fresh:
        assert one(fresh, statement) == "7"
    with psycopg.connect(database, autocommit=True) as fresh:
        assert one(fresh, statement.replace("search('items', ", f"_search_{column}(")) == "7"


def test_query_ids_are_unique_and_mark_unrecorded_searches(conn: Connection) -> None:
    make(conn, clustered(60, 4, seed=1))
    enable(conn)
    rows = conn.execute(
        "SELECT query_id FROM generate_series(1, 5), vectuned.search('items', '[1,2,3,4]', 3)"
    ).fetchall()
    ids = {row[0] for row in rows}
    assert len(rows) == 15
    assert len(ids) in (1, 5)  # the planner may search once, as the arguments are constant
    assert all(isinstance(i, UUID) and str(i)[-1] == "0" for i in ids)
    again = one(conn, "SELECT query_id FROM vectuned.search('items', '[1,2,3,4]', 1)")
    assert again not in ids


def test_search_in_joins_laterals_cursors_and_functions(conn: Connection) -> None:
    make(conn, clustered(200, 4, seed=1))
    enable(conn)
    wanted = exact(conn, QUERY, 5)
    joined = conn.execute(
        "SELECT i.id::text, s.distance FROM vectuned.search('items', %s, 5) s "
        "JOIN items i ON i.id = s.id::bigint "
        "ORDER BY s.distance",
        (text(QUERY),),
    )
    assert joined.fetchall() == wanted
    lateral = conn.execute(
        "SELECT q.id, array_agg(s.id ORDER BY s.distance) FROM items q "
        "CROSS JOIN LATERAL vectuned.search('items', q.embedding, 3) s WHERE q.id <= 20 GROUP BY q.id"
    ).fetchall()
    vectors = dict(
        conn.execute("SELECT id, embedding::vector::float4[] FROM items WHERE id <= 20").fetchall()
    )
    for key, found in lateral:
        assert found == [k for k, _ in exact(conn, vectors[key], 3)]
    with conn.transaction():
        conn.execute(
            "DECLARE c CURSOR FOR SELECT id, distance FROM vectuned.search('items', %s, 5)", (text(QUERY),)
        )
        assert (
            conn.execute("FETCH 2 FROM c").fetchall() + conn.execute("FETCH ALL FROM c").fetchall() == wanted
        )
    conn.execute(
        "CREATE FUNCTION public.first(v vector) RETURNS text LANGUAGE plpgsql STABLE AS "
        "$$ BEGIN RETURN (SELECT id FROM vectuned.search('items', v, 1)); END $$"
    )
    assert one(conn, "SELECT public.first(%s::vector)", text(QUERY)) == wanted[0][0]


def test_search_returns_rows_of_its_own_transaction(conn: Connection) -> None:
    make(conn, clustered(200, 4, seed=1))
    enable(conn)
    with conn.transaction(force_rollback=True):
        conn.execute("INSERT INTO items VALUES (1000, %s)", (text(QUERY),))
        assert search(conn, QUERY, 1) == [("1000", 0.0)]
    assert search(conn, QUERY, 1) == exact(conn, QUERY, 1)


def test_search_ignores_an_index_of_another_metric(conn: Connection) -> None:
    make(conn, clustered(300, 4, seed=1), metric="cosine")
    enable(conn)
    build(conn, metric="l2")
    build(conn, metric="ip")
    assert search(conn, QUERY) == exact(conn, QUERY)


@pytest.mark.parametrize("count", [1, 2, 3, 100, 1000])
def test_search_finds_its_column_among_many_in_few_comparisons(conn: Connection, count: int) -> None:
    tree = one(
        conn,
        "SELECT vectuned._dispatch_tree(array_agg((10 * n)::oid ORDER BY n), "
        "array_agg('leaf ' || n ORDER BY n), 1, %s) FROM generate_series(1, %s) n",
        count,
        count,
    )
    lines = tree.splitlines()
    depths = np.cumsum([line.startswith("IF ") - (line == "END IF;") for line in lines])
    assert depths.max() == math.ceil(math.log2(count))
    assert [line for line in lines if line.startswith("leaf")] == [f"leaf {n}" for n in range(1, count + 1)]
