"""`apply`, which sets the effort for other statements, and what `params` and `status` report."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import errors
from tests.integration.table_helpers import build, counted, enable, exact, make, one, publish, raw, text

Connection = psycopg.Connection[Any]

INDEX = "items_embedding_idx"
STATEMENT = (
    "SELECT id::text FROM items "
    "ORDER BY embedding <=> (SELECT vectuned.apply('items', %s, %s, filtered => false)) LIMIT %s"
)
QUERIES = np.random.default_rng(2).normal(size=(25, 24)).astype(np.float32)


def prepared(conn: Connection, kind: str = "vector") -> int:
    """Make a tuned table of random vectors, where recall depends on effort."""
    vectors = np.random.default_rng(1).normal(size=(4000, 24)).astype(np.float32)
    make(conn, vectors, kind=kind, index=False)
    build(conn, kind=kind, options="WITH (m = 6)")
    return enable(conn)


@pytest.mark.parametrize("kind", ["vector", "halfvec"])
def test_apply_gives_the_statement_the_learned_effort(conn: Connection, kind: str) -> None:
    column = prepared(conn, kind)
    outcomes = []
    for ef in (10, 60, 300):
        publish(conn, column, [0.0], fixed_ef=ef)
        conn.execute("UPDATE vectuned.bank SET access_path = 'hnsw'")
        hits, blocks = 0, 0
        for query in QUERIES:
            with counted(conn, INDEX) as index, counted(conn, "items") as table:
                found = conn.execute(STATEMENT.encode(), (text(query), 10, 10)).fetchall()
                assert one(conn, "SELECT current_setting('hnsw.ef_search')") == str(ef)
            assert (index["scans"], table["scans"]) == (1, 0)
            blocks += index["blocks"]
            hits += len({row[0] for row in found} & {key for key, _ in exact(conn, query, 10, kind=kind)})
        # The same statement with SET hnsw.ef_search does the same work.
        conn.execute(raw(f"SET hnsw.ef_search = {ef}"))
        by_hand = 0
        for query in QUERIES:
            with counted(conn, INDEX) as index:
                conn.execute(
                    raw(f"SELECT id FROM items ORDER BY embedding <=> %s::{kind} LIMIT 10"), (text(query),)
                )
            by_hand += index["blocks"]
        conn.execute("RESET hnsw.ef_search")
        assert abs(blocks - by_hand) <= 2 * len(QUERIES)  # planning may look at the first page
        outcomes.append((hits / 10 / len(QUERIES), blocks))
    recalls, blocks_read = zip(*outcomes, strict=True)
    assert recalls[0] < recalls[1] < recalls[2]
    assert blocks_read[0] < blocks_read[1] / 2 < blocks_read[2] / 4


def test_apply_lasts_as_long_as_the_transaction(conn: Connection) -> None:
    publish(conn, prepared(conn), [0.0], fixed_ef=222)
    query = text(QUERIES[0])
    conn.execute("SET hnsw.ef_search = 33")
    with conn.transaction():
        conn.execute("SELECT vectuned.apply('items', %s)", (query,))
        assert one(conn, "SELECT current_setting('hnsw.ef_search')") == "222"
    assert one(conn, "SELECT current_setting('hnsw.ef_search')") == "33"
    conn.execute("SELECT vectuned.apply('items', %s)", (query,))
    assert one(conn, "SELECT current_setting('hnsw.ef_search')") == "33"


def test_apply_returns_the_query_and_serves_every_k(conn: Connection) -> None:
    publish(conn, prepared(conn), [0.0], fixed_ef=50)
    query = text(QUERIES[0])
    for k, ef in ((1, 40), (3, 40), (4, 50), (10, 50), (30, 40), (100, 100), (1000, 1000)):
        with conn.transaction():
            call = "SELECT vectuned.apply('items', %s, %s, filtered => false) = %s::vector"
            same = one(conn, call, query, k, query)
            assert (same, one(conn, "SELECT current_setting('hnsw.ef_search')")) == (True, str(ef))
        found = conn.execute(STATEMENT.encode(), (query, k, k)).fetchall()
        assert len(found) == k


def test_apply_in_a_filtered_prepared_and_read_only_statement(conn: Connection) -> None:
    publish(conn, prepared(conn), [0.0], fixed_ef=400)
    statement = STATEMENT.replace("ORDER BY", "WHERE id %% 2 = 0 ORDER BY").replace("false", "true").encode()
    hits = 0
    for number, query in enumerate(QUERIES):
        with conn.transaction():
            conn.execute("SET TRANSACTION READ ONLY")
            found = conn.execute(statement, (text(query), 10, 10), prepare=number % 2 == 0).fetchall()
        wanted = [key for key, _ in exact(conn, query, 40) if int(key) % 2 == 0][:10]
        hits += len({row[0] for row in found} & set(wanted))
    assert hits / 10 / len(QUERIES) > 0.9


def test_apply_and_params_name_what_is_wrong(conn: Connection) -> None:
    prepared(conn)
    for call, state in (
        ("'items', '[1,2]'", "22000"),
        ("'items', NULL", "22004"),
        ("NULL, %s", "22004"),
        ("'items', %s, 0", "22023"),
        ("'items', %s, 1001", "22023"),
        ("'items', %s, NULL", "22023"),
        ("'pg_class', %s", "42704"),
        ("'items', %s, column_name => 'nothing'", "42703"),
        ("'nowhere', %s", "42P01"),
    ):
        for function in ("apply", "params"):
            values = (text(QUERIES[0]),) if "%s" in call else None
            with pytest.raises(psycopg.Error) as raised:
                conn.execute(raw(f"SELECT vectuned.{function}({call})"), values)
            assert raised.value.sqlstate == state, (function, call)
    with pytest.raises(errors.UndefinedColumn, match='column "nothing" of the filter'):
        conn.execute("SELECT vectuned.params('items', %s, 10, '{\"nothing\": 1}')", (text(QUERIES[0]),))


def test_params_give_the_reason(conn: Connection) -> None:
    column = prepared(conn)
    columns = "SELECT access_path, ef_search, probes, expected_recall, confidence, reason "
    statement = (columns + "FROM vectuned.params('items', %s, %s)").encode()

    def said(k: int = 10) -> tuple[Any, ...] | None:
        return conn.execute(statement, (text(QUERIES[0]), k)).fetchone()

    assert said() == ("hnsw", 40, None, None, 0, "nothing learned yet: the default setting")
    assert said(100) == ("hnsw", 100, None, None, 0, "nothing learned yet: the default setting")
    publish(conn, column, [6.0])
    assert said() == ("hnsw_adaptive", 80, None, 0.97, 0.9, "by hand")
    conn.execute("UPDATE vectuned.bank SET access_path = 'hnsw'")
    assert said() == ("hnsw", 40, None, 0.96, 0.95, "by hand")
    conn.execute("UPDATE vectuned.bank SET certified = false")
    assert said() == ("hnsw", 40, None, 0.96, 0, "by hand")
    conn.execute(raw(f"REINDEX INDEX {INDEX}"))
    reason = "learned on an index that was rebuilt since: the fixed setting until relearned"
    assert said() == ("hnsw", 40, None, 0.96, 0, reason)


def test_status_has_a_row_for_every_class(conn: Connection) -> None:
    column = prepared(conn)
    publish(conn, column, [6.0, 7.0], centroids=[[0.0] * 4, [1.0] * 4])
    publish(conn, column, [6.0], k_class=30, probe_ef=56)
    rows = conn.execute(
        "SELECT relation::text, column_name, enabled, metric, dimensions, index_relation::text, "
        "target_recall, k_class, access_path, ef_search, patterns, state, certified FROM vectuned.status"
    ).fetchall()
    common = ("items", "embedding", True, "cosine", 24, INDEX, 0.95)
    assert rows == [
        (*common, 10, "hnsw_adaptive", 40, 2, "serving", True),
        (*common, 30, "hnsw_adaptive", 40, 1, "serving", True),
    ]
