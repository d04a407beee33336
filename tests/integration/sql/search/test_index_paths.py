"""Searches through every index and on every access path: the index read, the result, and the record."""

from __future__ import annotations

from typing import Any

import pytest
from tests.integration.table_helpers import (
    Connection,
    ascending,
    build,
    clustered,
    enable,
    exact,
    make,
    one,
    raw,
    scans,
    search,
    search_filtered,
    serve,
    serve_filtered,
)

ROWS = 3000
QUERIES = clustered(2, 16, seed=2)
FILTER: dict[str, Any] = {"kind": 0}


def prepare(conn: Connection, kind: str = "vector", metric: str = "cosine") -> tuple[int, dict[str, int]]:
    """Make a table with an index of every sort; half of the rows have kind 0. Return id and numbers."""
    make(conn, clustered(ROWS, 16, seed=1), kind=kind, index=False)
    conn.execute("ALTER TABLE items ADD COLUMN kind int")
    conn.execute("UPDATE items SET kind = id % 2")
    conn.execute("VACUUM (FULL, ANALYZE) items")
    build(conn, kind=kind, metric=metric)
    marker = "vector_dims(embedding) > 0"
    for statement in (
        f"lists ON items USING ivfflat (embedding {kind}_{metric}_ops) WITH (lists = 20) WHERE {marker}",
        "bits ON items USING hnsw ((binary_quantize(embedding)::bit(16)) bit_hamming_ops)",
        f"part ON items USING hnsw (embedding {kind}_{metric}_ops) WHERE kind = 0",
        f"half ON items USING hnsw ((embedding::halfvec(16)) halfvec_{metric}_ops)",
    ):
        if kind == "vector" or not statement.startswith("half"):
            conn.execute(raw(f"CREATE INDEX {statement}"))
    column = enable(conn, sample_rate=1.0)
    numbers = dict(
        conn.execute("SELECT index_relation::regclass::text, index_no FROM vectuned.tuned_index").fetchall()
    )
    assert len(numbers) == (5 if kind == "vector" else 4)
    return column, numbers


def recorded(conn: Connection) -> tuple[Any, ...]:
    """Take the one recorded search out of the inbox: path, index, ef_search, probes."""
    (row,) = conn.execute(
        "DELETE FROM vectuned.inbox RETURNING access_path, index_no, ef_search, probes"
    ).fetchall()
    return tuple(row)


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
@pytest.mark.parametrize("kind", ["vector", "halfvec"])
def test_search_reads_the_published_index(conn: Connection, kind: str, metric: str) -> None:
    column, numbers = prepare(conn, kind, metric)
    every = [dict(exact(conn, query, ROWS, kind=kind, metric=metric)) for query in QUERIES]
    del numbers["part"]
    for name, number in numbers.items():
        method = "ivfflat" if name == "lists" else "hnsw"
        for effort in (3, 20) if name == "lists" else (40, 1000):
            for k_class, ks in ((1, (1,)), (10, (10,)), (300, (200,)), (1000, (1000,))):
                serve(conn, column, number, effort, k_class=k_class, method=method)
                for query, distances in zip(QUERIES, every, strict=True):
                    with scans(conn) as scanned:
                        answer = search(conn, query, ks[0])
                    assert set(scanned) == {name}
                    assert len({key for key, _ in answer}) == len(answer) == ks[0]
                    assert all(distances[key] == distance for key, distance in answer)
                    assert ascending(answer)
                    path, index_no, ef, probes = recorded(conn)
                    assert path in (method, f"{method}_continued")
                    assert (index_no, ef, probes) == (
                        (number, None, effort) if method == "ivfflat" else (number, max(effort, ks[0]), None)
                    )
                    if effort in (20, 1000) and name != "bits" and k_class < 1000:
                        assert len({*dict(answer)} & {*list(distances)[: ks[0]]}) >= 0.9 * ks[0]


@pytest.mark.parametrize("kind", ["vector", "halfvec"])
def test_filtered_search_on_every_access_path(conn: Connection, kind: str) -> None:
    column, numbers = prepare(conn, kind)
    inside = {str(n) for n in range(2, ROWS + 1, 2)}
    every = [{key: d for key, d in exact(conn, query, ROWS, kind=kind) if key in inside} for query in QUERIES]
    paths: list[tuple[str, str | None, int | None]] = [
        ("exact", None, None),
        ("planner", "items_embedding_idx", None),
    ]
    paths += [("hnsw_continued", "items_embedding_idx", 200), ("ivfflat", "lists", 10)]
    paths += [("hnsw", name, 300) for name in numbers if name != "lists"]
    for path, name, effort in paths:
        for k_class, k in ((1, 1), (10, 10), (300, 200), (1000, 1000)):
            number = numbers[name] if name else None
            serve_filtered(conn, column, FILTER, path, number, effort, k_class=k_class)
            for query, distances in zip(QUERIES, every, strict=True):
                with scans(conn) as scanned:
                    answer = search_filtered(conn, query, k, FILTER)
                assert len({key for key, _ in answer}) == len(answer) == k
                assert all(distances[key] == distance for key, distance in answer)
                assert ascending(answer)
                entry = recorded(conn)
                if path == "planner":  # any plan is allowed
                    assert entry[0] in ("planner_filtered", "exact_after_planner")
                    assert entry[2] == max(40, k)
                    continue
                assert set(scanned) == ({name} if name else set())
                if entry[0].startswith("exact"):
                    assert [d for _, d in answer] == sorted(distances.values())[:k]
                    assert entry[0] == ("exact" if path == "exact" else f"exact_after_{path}")
                    assert entry[1] is None
                else:
                    assert entry[:2] == (f"{path}_filtered", number)
                    assert entry[2:] == ((None, effort) if path == "ivfflat" else (max(effort or 0, k), None))


def test_params_name_the_index_read(conn: Connection) -> None:
    column, numbers = prepare(conn)
    statement = (
        "SELECT access_path, ef_search, probes, index::text "
        "FROM vectuned.params('items', %s::real[]::vector, 10, %s)"
    )
    query = QUERIES[0].tolist()
    for name, number in numbers.items():
        method = "ivfflat" if name == "lists" else "hnsw"
        effort = (None, 7, name) if method == "ivfflat" else (70, None, name)
        if name != "part":
            serve(conn, column, number, effort[0] or effort[1] or 0, method=method)
            assert conn.execute(statement, (query, None)).fetchone() == (method, *effort)
        serve_filtered(conn, column, FILTER, method, number, effort[0] or effort[1])
        assert conn.execute(statement, (query, '{"kind": 0}')).fetchone() == (method, *effort)
    serve_filtered(conn, column, FILTER, "planner", numbers["items_embedding_idx"])
    entry = conn.execute(statement, (query, '{"kind": 0}')).fetchone()
    assert entry == ("planner", 40, None, "items_embedding_idx")


def test_filtered_search_uses_a_partial_index_only_for_its_filter(conn: Connection) -> None:
    column, numbers = prepare(conn)
    serve_filtered(conn, column, FILTER, "hnsw", numbers["part"], 100)
    for condition, read in (({"kind": 0}, {"part"}), ({"kind": 1}, set()), ({"kind": [0]}, set())):
        with scans(conn) as scanned:
            answer = search_filtered(conn, QUERIES[0], 10, condition)
        assert set(scanned) == read
        odd = condition == {"kind": 1}
        assert all(int(key) % 2 == odd for key, _ in answer)
        assert len(answer) == 10


@pytest.mark.parametrize("gone", ["half", "lists", "bits", "part"])
def test_search_after_dropping_an_index_uses_the_main_one(conn: Connection, gone: str) -> None:
    column, numbers = prepare(conn)
    method = "ivfflat" if gone == "lists" else "hnsw"
    if gone != "part":
        serve(conn, column, numbers[gone], 20, method=method)
    serve_filtered(conn, column, FILTER, method, numbers[gone], 20)
    conn.execute(
        "UPDATE pg_class SET reltuples = 1e7 WHERE oid = 'items'::regclass"
    )  # so that exact search is not the default
    conn.execute(raw(f"DROP INDEX {gone}"))
    for refreshed in (False, True):
        with scans(conn) as scanned:
            assert len(search(conn, QUERIES[0], 10)) == 10
            assert len(search_filtered(conn, QUERIES[0], 10, FILTER)) == 10
        assert set(scanned) == {"items_embedding_idx"}, refreshed
        main = numbers["items_embedding_idx"]
        rows = conn.execute(
            "DELETE FROM vectuned.inbox RETURNING access_path, index_no, ef_search"
        ).fetchall()
        assert sorted(rows) == [("hnsw", main, 40), ("hnsw_filtered", main, 60)]
        states = one(conn, "SELECT string_agg(state, '') FROM vectuned.status")
        outdated = gone != "part" and not refreshed  # a refresh deletes what was learned on it
        assert ("outdated: the index it was learned on is gone" in states) == outdated
        assert one(conn, "SELECT vectuned._refresh_column(%s)", column) is not refreshed


def test_search_without_any_index_is_exact(conn: Connection) -> None:
    column, numbers = prepare(conn)
    serve(conn, column, numbers["lists"], 5, method="ivfflat")
    serve_filtered(conn, column, FILTER, "hnsw", numbers["part"], 100)
    wanted = exact(conn, QUERIES[0], ROWS)
    for name in numbers:
        conn.execute(raw(f"DROP INDEX {name}"))
        for _ in range(2):
            assert len(search(conn, QUERIES[0], 10)) == 10
            assert len(search_filtered(conn, QUERIES[0], 10, FILTER)) == 10
            conn.execute("SELECT vectuned._refresh_column(%s)", (column,))
    for k in (1, 10, 1000):
        assert search(conn, QUERIES[0], k) == wanted[:k]
        inside = [row for row in wanted if int(row[0]) % 2 == 0]
        assert search_filtered(conn, QUERIES[0], k, FILTER) == inside[:k]
