"""Searches served by a published bank: adaptive, outdated and damaged ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import errors
from tests.integration.table_helpers import (
    Singles,
    build,
    counted,
    enable,
    exact,
    make,
    one,
    publish,
    raw,
    search,
    text,
)

Connection = psycopg.Connection[Any]

INDEX = "items_embedding_idx"


def hard(count: int, seed: int) -> Singles:
    """Draw vectors without any structure: the worst case for a graph."""
    return np.random.default_rng(seed).normal(size=(count, 24)).astype(np.float32)


QUERIES = hard(40, seed=2)


@pytest.fixture
def column(conn: Connection) -> int:
    """Make a tuned column for which the least effort is too little."""
    make(conn, hard(4000, seed=1), index=False)
    build(conn, options="WITH (m = 6)")
    return enable(conn)


def recall_and_blocks(conn: Connection, k: int = 10) -> tuple[float, float]:
    """Search all QUERIES and check each answer's form: mean recall by distance, mean buffers of the index."""
    hits, blocks = 0, 0
    for query in QUERIES:
        with counted(conn, INDEX) as index, counted(conn, "items") as table:
            found = search(conn, query, k)
        assert index["scans"] == 1
        assert table["scans"] == 0
        blocks += index["blocks"]
        distances = [distance for _, distance in found]
        assert len({key for key, _ in found}) == k
        assert distances == sorted(distances)
        truth = exact(conn, query, 4000)
        assert dict(truth).items() >= dict(found).items()
        hits += sum(distance <= truth[k - 1][1] + 1e-9 for distance in distances)
    return hits / k / len(QUERIES), blocks / len(QUERIES)


def test_recall_and_work_rise_with_the_effort_of_the_patterns(conn: Connection, column: int) -> None:
    outcomes = []
    for effort in (0.0, 4.0, 6.5, 9.0, 13.0):
        publish(conn, column, [effort])
        outcomes.append(recall_and_blocks(conn))
        assert conn.execute("SELECT state, access_path, patterns FROM vectuned.status").fetchall() == [
            ("serving", "hnsw_adaptive", 1)
        ]
    recalls, blocks = zip(*outcomes, strict=True)
    assert list(recalls) == sorted(recalls)
    assert list(blocks) == sorted(blocks)
    assert recalls[0] < 0.8 < 0.97 < recalls[-1]
    assert blocks[-1] > 5 * blocks[0]


@pytest.mark.parametrize("k", [1, 7, 10, 30, 100])
def test_an_adaptive_search_is_as_good_as_a_fixed_one_of_its_effort(
    conn: Connection, column: int, k: int
) -> None:
    k_class = one(conn, "SELECT vectuned._k_class(%s)", k)
    probe = max(20, k + 10)
    ef = one(conn, "SELECT vectuned._ef_search(8, %s)", k)
    publish(conn, column, [8.0], k_class=k_class, probe_ef=probe, fixed_ef=ef)
    adaptive, _ = recall_and_blocks(conn, k)
    conn.execute("UPDATE vectuned.bank SET access_path = 'hnsw'")
    fixed, _ = recall_and_blocks(conn, k)
    assert abs(adaptive - fixed) < 0.02


def test_the_pattern_nearest_to_the_signature_decides(conn: Connection, column: int) -> None:
    # The first component of the signature is 100 times the first distance; pattern 0 is for near queries.
    weights = [100.0, 0, 0, 0] + [0.0] * 28
    firsts = sorted(exact(conn, query, 1)[0][1] for query in QUERIES)
    low, high = round(100 * firsts[0]) - 20, round(100 * firsts[-1]) + 20
    publish(
        conn, column, [1.0, 12.0], weights=weights, centroids=[[low, 0, 0, 0], [high, 0, 0, 0]], reach=100
    )
    chosen = []
    for query in QUERIES:
        row = conn.execute(
            "SELECT ef_search, access_path FROM vectuned.params('items', %s)", (text(query),)
        ).fetchone()
        assert row is not None
        assert row[1] == "hnsw_adaptive"
        chosen.append(row[0])
    nearest = [exact(conn, query, 1)[0][1] for query in QUERIES]
    assert np.corrcoef(nearest, chosen)[0, 1] > 0.7
    publish(
        conn, column, [1.0, 12.0], weights=weights, centroids=[[low, 0, 0, 0], [high, 0, 0, 0]], reach=0.5
    )
    row = conn.execute(
        "SELECT access_path, ef_search, reason FROM vectuned.params('items', %s)", (text(QUERIES[0]),)
    )
    assert row.fetchone() == ("hnsw", 40, "unlike anything learned: the fixed setting")


def test_what_was_served_is_recorded(conn: Connection, column: int) -> None:
    enable(conn, sample_rate=1.0)
    publish(conn, column, [7.0])
    found = search(conn, QUERIES[0])
    row = conn.execute(
        "SELECT access_path, ef_search, bank_version, signature::text, result_ids, distances, k "
        "FROM vectuned.inbox"
    ).fetchone()
    assert row == ("hnsw_adaptive", 112, 1, "[0,0,0,0]", [k for k, _ in found], [d for _, d in found], 10)


def test_other_classes_of_k_are_not_served_by_it(conn: Connection, column: int) -> None:
    publish(conn, column, [13.0], fixed_ef=200)
    paths = [
        conn.execute(
            "SELECT access_path, ef_search FROM vectuned.params('items', %s, %s)", (text(QUERIES[0]), k)
        )
        for k in (3, 4, 10, 11)
    ]
    assert [p.fetchone() for p in paths] == [
        ("hnsw", 40),
        ("hnsw_adaptive", 1000),
        ("hnsw_adaptive", 1000),
        ("hnsw", 40),
    ]


def test_a_probe_too_short_for_k_is_left_out(conn: Connection, column: int) -> None:
    publish(conn, column, [13.0], probe_ef=10, fixed_ef=50)
    row = conn.execute(
        "SELECT access_path, ef_search FROM vectuned.params('items', %s, 10)", (text(QUERIES[0]),)
    )
    assert row.fetchone() == ("hnsw", 50)
    assert len(search(conn, QUERIES[0])) == 10


@pytest.mark.parametrize("rows", [0, 5, 10, 15, 20, 21])
def test_tables_smaller_than_the_probe(conn: Connection, rows: int) -> None:
    make(conn, hard(rows, seed=1), dimensions=24)
    publish(conn, enable(conn), [5.0])
    for query in QUERIES[:5]:
        assert search(conn, query) == exact(conn, query)


def test_deleted_rows_around_the_probe(conn: Connection, column: int) -> None:
    publish(conn, column, [6.0])
    for number, query in enumerate(QUERIES[:10]):
        near = [int(key) for key, _ in exact(conn, query, 40)]
        with conn.transaction(force_rollback=True):
            conn.execute("DELETE FROM items WHERE id = ANY (%s)", ([i for i in near if i % 5 != number % 5],))
            found = search(conn, query)
            assert len({key for key, _ in found}) == 10
            assert [d for _, d in found] == sorted(d for _, d in found)
            assert dict(exact(conn, query, 4000)).items() >= dict(found).items()


def test_a_rebuilt_index_is_served_with_the_fixed_setting(conn: Connection, column: int) -> None:
    publish(conn, column, [13.0], fixed_ef=77)
    conn.execute(f"REINDEX INDEX {INDEX}".encode())
    _, blocks = recall_and_blocks(conn)
    assert one(conn, "SELECT state FROM vectuned.status").startswith("outdated: the index was rebuilt since")
    row = conn.execute(
        "SELECT access_path, ef_search, confidence FROM vectuned.params('items', %s)", (text(QUERIES[0]),)
    )
    assert row.fetchone() == ("hnsw", 77, 0)
    publish(conn, column, [13.0])
    assert recall_and_blocks(conn)[1] > 3 * blocks


MISFIT = "1 patterns that no search can use"
INCOMPLETE = "an incomplete signature"
BROKEN = {
    "no patterns": ("DELETE FROM vectuned.pattern", "no patterns"),
    "centroid of a wrong width": ("UPDATE vectuned.pattern SET centroid = '[1,2,3]'", MISFIT),
    "effort NaN": ("UPDATE vectuned.pattern SET effort = 'NaN'", MISFIT),
    "effort infinite": ("UPDATE vectuned.pattern SET effort = 'Infinity'", MISFIT),
    "effort minus infinite": ("UPDATE vectuned.pattern SET effort = '-Infinity'", MISFIT),
    "reach NULL": ("UPDATE vectuned.bank SET reach = NULL", INCOMPLETE),
    "reach NaN": ("UPDATE vectuned.bank SET reach = 'NaN'", INCOMPLETE),
    "center NULL": ("UPDATE vectuned.bank SET center = NULL", INCOMPLETE),
    "center short": ("UPDATE vectuned.bank SET center = '{1,2}'", INCOMPLETE),
    "center NaN": ("UPDATE vectuned.bank SET center[3] = 'NaN'", INCOMPLETE),
    "weights NULL": ("UPDATE vectuned.bank SET weights = NULL", INCOMPLETE),
    "weights empty": ("UPDATE vectuned.bank SET weights = '{}'", INCOMPLETE),
    "weights long": ("UPDATE vectuned.bank SET weights = array_fill(1, ARRAY[40])", INCOMPLETE),
    "weights with a hole": ("UPDATE vectuned.bank SET weights[7] = NULL", INCOMPLETE),
    "weights infinite": ("UPDATE vectuned.bank SET weights[7] = 'Infinity'", INCOMPLETE),
    "probe NULL": ("UPDATE vectuned.bank SET probe_ef = NULL", INCOMPLETE),
    "probe 0": ("UPDATE vectuned.bank SET probe_ef = 0", INCOMPLETE),
    "probe too large": ("UPDATE vectuned.bank SET probe_ef = 99999", INCOMPLETE),
}


def tolerate_anything(conn: Connection) -> None:
    """Drop the constraints that keep damaged banks out, as a damaged table might lack them."""
    for table, name in conn.execute(
        "SELECT conrelid::regclass::text, conname FROM pg_constraint "
        "WHERE contype = 'c' AND conrelid IN ('vectuned.bank'::regclass, 'vectuned.pattern'::regclass)"
    ).fetchall():
        conn.execute(raw(f'ALTER TABLE {table} DROP CONSTRAINT "{name}"'))


@pytest.mark.parametrize("damage", BROKEN)
def test_a_broken_bank_is_served_with_the_fixed_setting(conn: Connection, damage: str) -> None:
    make(conn, hard(500, seed=1))
    column = enable(conn, sample_rate=1.0)
    publish(conn, column, [13.0], fixed_ef=60)
    tolerate_anything(conn)
    statement, said = BROKEN[damage]
    conn.execute(raw(statement))
    found = search(conn, QUERIES[0])
    assert len({key for key, _ in found}) == 10
    assert [d for _, d in found] == sorted(d for _, d in found)
    assert one(conn, "SELECT ef_search FROM vectuned.inbox") == 60
    assert one(conn, "SELECT ef_search FROM vectuned.params('items', %s)", text(QUERIES[0])) == 60
    state = one(conn, "SELECT state FROM vectuned.status")
    assert state == f"corrupt bank: {said}, the fixed setting serves"


@pytest.mark.parametrize(("ef", "served"), [(0, 10), (-5, 10), (99999, 1000)])
def test_a_fixed_setting_out_of_range_is_brought_into_it(conn: Connection, ef: int, served: int) -> None:
    make(conn, hard(300, seed=1))
    publish(conn, enable(conn, sample_rate=1.0), [13.0])
    tolerate_anything(conn)
    conn.execute("UPDATE vectuned.bank SET access_path = 'hnsw', ef_search = %s", (ef,))
    assert len(search(conn, QUERIES[0])) == 10
    assert one(conn, "SELECT ef_search FROM vectuned.inbox") == served
    with conn.transaction():
        conn.execute("SELECT vectuned.apply('items', %s, filtered => false)", (text(QUERIES[0]),))
        assert one(conn, "SELECT current_setting('hnsw.ef_search')") == str(served)


@pytest.mark.parametrize(
    "damage", sorted(set(BROKEN) - {"no patterns", "center NaN", "weights with a hole", "weights infinite"})
)
def test_most_damage_cannot_be_published(conn: Connection, damage: str) -> None:
    make(conn, hard(50, seed=1))
    publish(conn, enable(conn), [5.0])
    with pytest.raises(errors.CheckViolation):
        conn.execute(raw(BROKEN[damage][0]))


def test_banks_that_cannot_be_read_at_all(conn: Connection, database: str) -> None:
    from tests.integration.table_helpers import plain_role

    make(conn, hard(300, seed=1))
    publish(conn, enable(conn), [5.0])
    with plain_role(conn, database, "SELECT ON items") as reader:
        conn.execute("REVOKE SELECT ON vectuned.pattern FROM PUBLIC")
        assert len(search(reader, QUERIES[0])) == 10
    conn.execute("DROP TABLE vectuned.pattern CASCADE")
    assert len(search(conn, QUERIES[0])) == 10
