"""Partitioned tables: search, filters, replay and learning through the indexes of their partitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.integration.table_helpers import (
    Connection,
    Singles,
    ascending,
    clustered,
    enable,
    exact,
    one,
    only,
    raw,
    scans,
    search,
    search_filtered,
    serve,
    serve_filtered,
    text,
)

from vectuned.config.settings import load_settings
from vectuned.daemon.work.worker import Worker
from vectuned.learning.model.trajectory import claim_pending, drain
from vectuned.learning.model.tuned_columns import TunedColumn
from vectuned.learning.policy.learner import learn
from vectuned.learning.replay.replay import replay
from vectuned.learning.truth.recall import recall_at_k
from vectuned.learning.truth.truth import exact_neighbors

ROWS, DIMENSIONS, TARGET = 3000, 24, 0.9
QUERIES = clustered(3, DIMENSIONS, seed=2)
TENANT: dict[str, Any] = {"tenant": 1}


def tenant(number: int) -> int:
    return 0 if number % 2 else (1 if number % 4 else 2)


@pytest.fixture(params=["list", "hash"])
def tuned(conn: Connection, request: pytest.FixtureRequest) -> TunedColumn:
    """A table in three partitions, by tenant or by a hash of the key, with an index of low recall."""
    if request.param == "list":
        parts, by = [f"FOR VALUES IN ({n})" for n in range(3)], "LIST (tenant)"
    else:
        parts, by = [f"FOR VALUES WITH (MODULUS 3, REMAINDER {n})" for n in range(3)], "HASH (id)"
    conn.execute(
        raw(
            f"CREATE TABLE items (id int, tenant int, kind int, embedding vector({DIMENSIONS}), "
            f"PRIMARY KEY (id{', tenant' if request.param == 'list' else ''})) PARTITION BY {by}"
        )
    )
    for number, values in enumerate(parts):
        conn.execute(raw(f"CREATE TABLE part_{number} PARTITION OF items {values}"))
    fill(conn, clustered(ROWS, DIMENSIONS, seed=1))
    conn.execute(
        "CREATE INDEX main ON items USING hnsw (embedding vector_cosine_ops) "
        "WITH (m = 6, ef_construction = 24)"
    )
    conn.execute("ANALYZE items")
    enable(conn, sample_rate=1.0, target_recall=TARGET, min_samples=60)
    return only(conn)


def fill(conn: Connection, vectors: Singles, first: int = 1, relation: str = "items") -> None:
    with conn.cursor().copy(raw(f"COPY {relation} FROM STDIN")) as copy:
        for number, vector in enumerate(vectors, first):
            copy.write_row((number, tenant(number), number % 10, text(vector)))


def key(tuned: TunedColumn) -> str:
    return "id::text" if len(tuned.column.key_columns) == 1 else "jsonb_build_array(id, tenant)::text"


def every(
    conn: Connection, tuned: TunedColumn, query: Singles, where: str = "true"
) -> list[tuple[str, float]]:
    """Search exactly among the rows that meet a condition."""
    return exact(conn, query, 10**6, relation=f"(SELECT * FROM items WHERE {where}) i", key=key(tuned))


def parts_read(conn: Connection, index: str = "main") -> set[str]:
    statement = "SELECT relid::regclass::text FROM pg_partition_tree(%s::regclass) WHERE isleaf"
    return {str(row[0]) for row in conn.execute(statement, (index,)).fetchall()}


@pytest.mark.parametrize("k", [1, 10, 200, 1000])
def test_search_reads_the_indexes_of_partitions(conn: Connection, tuned: TunedColumn, k: int) -> None:
    for query in QUERIES:
        wanted = every(conn, tuned, query)
        with scans(conn) as scanned:
            answer = search(conn, query, k)
        assert set(scanned) == parts_read(conn)
        assert len({name for name, _ in answer}) == len(answer) == k
        assert all(dict(wanted)[name] == distance for name, distance in answer)
        assert ascending(answer)


@pytest.mark.parametrize("path", ["exact", "hnsw", "hnsw_continued", "planner"])
def test_filtered_search_on_the_partition_key_and_other_columns(
    conn: Connection, tuned: TunedColumn, path: str
) -> None:
    listed = len(tuned.column.key_columns) == 2
    for condition, where in (
        (TENANT, "tenant = 1"),
        ({"kind": 3}, "kind = 3"),
        ({"tenant": 9}, "tenant = 9"),
    ):
        for k_class, k in ((10, 10), (300, 200)):
            effort = None if path in ("exact", "planner") else 400
            number = None if path == "exact" else tuned.indexes[0].number
            serve_filtered(conn, tuned.column.id, condition, path, number, effort, k_class=k_class)
            wanted = every(conn, tuned, QUERIES[0], where)
            with scans(conn) as scanned:
                answer = search_filtered(conn, QUERIES[0], k, condition)
            assert len(answer) == min(k, len(wanted))
            assert all(dict(wanted)[name] == distance for name, distance in answer)
            assert ascending(answer)
            if listed and "tenant" in condition:  # the other partitions are pruned
                assert len(scanned) <= 1
            elif path.startswith("hnsw"):
                assert set(scanned) == parts_read(conn)


def test_statistics_and_truth_cover_all_partitions(conn: Connection, tuned: TunedColumn) -> None:
    statement = "SELECT fraction FROM vectuned._compile_filter(%s, 'items', %s::jsonb)"
    for condition, share in (('{"tenant": 1}', 0.25), ('{"tenant": 0}', 0.5), ('{"kind": 3}', 0.1)):
        assert one(conn, statement, tuned.column.id, condition) == pytest.approx(share, rel=0.1)
    truth = exact_neighbors(conn, tuned.column, QUERIES, 50)
    assert truth.scanned == ROWS
    for distances, query in zip(truth.distances, QUERIES, strict=True):
        np.testing.assert_allclose(distances, [d for _, d in every(conn, tuned, query)[:50]], atol=1e-6)


def practise(conn: Connection, queries: Singles) -> None:
    """Run searches, a third of them with a filter."""
    for number, query in enumerate(queries):
        if number % 3:
            search(conn, query)
        else:
            search_filtered(conn, query, 10, [TENANT, {"kind": 3}, {"tenant": 9}][number // 3 % 3])
    assert drain(conn) == len(queries)


def recalls(conn: Connection, tuned: TunedColumn, queries: Singles) -> float:
    found = np.array([[d for _, d in search(conn, query)] for query in queries])
    return float(recall_at_k(found, exact_neighbors(conn, tuned.column, queries, 10), 10).mean())


def test_learned_policy_of_a_partitioned_table_meets_the_target(conn: Connection, tuned: TunedColumn) -> None:
    heldout = clustered(100, DIMENSIONS, seed=9)
    practise(conn, clustered(300, DIMENSIONS, seed=3))
    assert replay(conn, tuned, claim_pending(conn, tuned.column, 1000)) == 300
    lesson = learn(conn, tuned)
    served = lesson.served[10].policy
    assert (served.access_path, served.certified) == ("hnsw", True)
    assert recalls(conn, tuned, heldout) >= TARGET - 0.02
    for condition, where in ((TENANT, "tenant = 1"), ({"kind": 3}, "kind = 3")):
        scores = []
        for query in heldout[:40]:
            bound = every(conn, tuned, query, where)[9][1] + 1e-6
            scores.append(sum(d <= bound for _, d in search_filtered(conn, query, 10, condition)) / 10)
        assert np.mean(scores) >= TARGET - 0.02
    assert {row[0] for row in conn.execute("SELECT DISTINCT state FROM vectuned.status")} == {"serving"}


def test_generation_changes_with_attached_and_detached_partitions(
    conn: Connection, tuned: TunedColumn
) -> None:
    worker = Worker(conn, load_settings(None, {"learning.batch_min": 10}, {}))
    practise(conn, clustered(150, DIMENSIONS, seed=3))
    assert worker.replay_all() == 150
    assert worker.learn_all() == 1
    assert (worker.replay_all(), worker.learn_all()) == (0, 0)
    listed = len(tuned.column.key_columns) == 2
    if listed:
        conn.execute("CREATE TABLE part_3 PARTITION OF items FOR VALUES IN (3)")
        conn.execute(raw(f"INSERT INTO items VALUES (100000, 3, 0, '{text(QUERIES[0])}')"))
        assert [key for key, _ in search(conn, QUERIES[0], 1)] == ["[100000, 3]"]
    else:
        conn.execute("ALTER TABLE items DETACH PARTITION part_2")
        conn.execute("CREATE TABLE part_3 PARTITION OF items FOR VALUES WITH (MODULUS 3, REMAINDER 2)")
    assert len(search(conn, QUERIES[1])) == 10
    states = {row[0] for row in conn.execute("SELECT DISTINCT state FROM vectuned.status")}
    assert states == {"outdated: the index was rebuilt since, the fixed setting serves until relearned"}
    assert worker.replay_all() == 150
    assert worker.learn_all() == 1
    assert {row[0] for row in conn.execute("SELECT DISTINCT state FROM vectuned.status")} == {"serving"}
    assert (worker.replay_all(), worker.learn_all()) == (0, 0)
    assert only(conn).generation != tuned.generation
    conn.execute("ALTER TABLE items DETACH PARTITION part_3")
    assert len(search(conn, QUERIES[0])) == 10
    assert worker.replay_all() == 150


def test_search_uses_every_partitioned_index(conn: Connection, tuned: TunedColumn) -> None:
    for what in (
        f"half ON items USING hnsw ((embedding::halfvec({DIMENSIONS})) halfvec_cosine_ops)",
        f"bits ON items USING hnsw ((binary_quantize(embedding)::bit({DIMENSIONS})) bit_hamming_ops)",
        "kinds ON items USING hnsw (embedding vector_cosine_ops) WITH (m = 4) WHERE kind = 3",
        # At low effort the planner chooses the main index, whose m is smaller: so this one is not listed.
        "tenants ON items USING hnsw (embedding vector_cosine_ops) WHERE tenant = 1",
    ):
        conn.execute(raw(f"CREATE INDEX {what}"))
    worker = Worker(conn, load_settings(None, {}, {}))
    practise(conn, clustered(30, DIMENSIONS, seed=3))
    worker.replay_all()
    counts = conn.execute(
        "SELECT i.index_relation::regclass::text, count(r) FROM vectuned.tuned_index i LEFT JOIN "
        "vectuned.replay r ON r.generation = vectuned._generation(i.index_relation) GROUP BY 1 ORDER BY 1"
    ).fetchall()
    assert counts == [("bits", 30), ("half", 30), ("kinds", 3), ("main", 30)]
    for name, number in conn.execute(
        "SELECT index_relation::regclass::text, index_no FROM vectuned.tuned_index WHERE requires IS NULL"
    ).fetchall():
        serve(conn, tuned.column.id, number, 100)
        with scans(conn) as scanned:
            answer = search(conn, QUERIES[0])
        assert set(scanned) == parts_read(conn, name)
        assert all(dict(every(conn, tuned, QUERIES[0]))[key] == distance for key, distance in answer)


def test_search_of_a_table_without_partitions(conn: Connection) -> None:
    conn.execute("CREATE TABLE items (id int PRIMARY KEY, embedding vector(4)) PARTITION BY HASH (id)")
    conn.execute("CREATE INDEX ON items USING hnsw (embedding vector_cosine_ops)")
    enable(conn, sample_rate=1.0)
    assert search(conn, [1, 2, 3, 4]) == []
    worker = Worker(conn, load_settings(None, {}, {}))
    worker.drain()
    assert worker.replay_all() == 0
    conn.execute("CREATE TABLE part PARTITION OF items FOR VALUES WITH (MODULUS 1, REMAINDER 0)")
    conn.execute("INSERT INTO items VALUES (1, '[1,2,3,4]')")
    assert [row[0] for row in search(conn, [1, 2, 3, 4])] == ["1"]
    worker = Worker(conn, load_settings(None, {}, {}))  # one that does not wait after the failure before
    worker.drain()
    assert worker.replay_all() == 2


def test_filtered_default_of_a_partitioned_table_never_analyzed(conn: Connection, tuned: TunedColumn) -> None:
    conn.execute("UPDATE pg_class SET reltuples = -1 WHERE oid = 'items'::regclass")
    conn.execute("UPDATE pg_class SET reltuples = 1e6 WHERE oid = 'part_1'::regclass")
    path = "SELECT access_path FROM vectuned.params('items', %s::real[]::vector, 10, '{\"kind\": 3}')"
    assert one(conn, path, QUERIES[0].tolist()) == "hnsw"
