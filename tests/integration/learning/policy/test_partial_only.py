"""Columns with only partial indexes: each is learned about for its filters, other searches are exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from psycopg import errors
from tests.integration.table_helpers import (
    Connection,
    clustered,
    enable,
    exact,
    make,
    one,
    only,
    plain_role,
    raw,
    scans,
    search,
    search_filtered,
)

from vectuned.config.settings import load_settings
from vectuned.daemon.work.worker import Worker

ROWS, DIMENSIONS, TARGET = 3000, 24, 0.9  # of the table and its vectors; the target recall
QUERIES = clustered(150, DIMENSIONS, seed=3)
HELDOUT = clustered(40, DIMENSIONS, seed=9)
INDEX = "CREATE INDEX {} ON items USING {} WHERE kind = {}"


@pytest.fixture
def items(conn: Connection) -> Connection:
    """Make a table of ten kinds, the first with an HNSW and the second with an IVFFlat index, and tune it."""
    make(conn, clustered(ROWS, DIMENSIONS, seed=1), index=False)
    conn.execute("ALTER TABLE items ADD COLUMN kind int, ADD COLUMN color text DEFAULT 'red'")
    conn.execute("UPDATE items SET kind = id % 10")
    conn.execute("VACUUM (FULL, ANALYZE) items")
    conn.execute(raw(INDEX.format("graph", "hnsw (embedding vector_cosine_ops)", 0)))
    lists = "ivfflat (embedding vector_cosine_ops)"
    conn.execute(raw(INDEX.format("lists", lists, 1).replace(" WHERE", " WITH (lists = 10) WHERE")))
    enable(conn, sample_rate=1.0, target_recall=TARGET, min_samples=60)
    return conn


def nearest(conn: Connection, query: Any, where: str = "true") -> list[tuple[str, float]]:
    return exact(conn, query, relation=f"(SELECT * FROM items WHERE {where}) i")


def params(conn: Connection, condition: str | None) -> tuple[Any, ...] | None:
    statement = "SELECT access_path, index::text FROM vectuned.params('items', %s::real[]::vector, 10, %s)"
    return conn.execute(statement, (QUERIES[0].tolist(), condition)).fetchone()


def learn(conn: Connection, exact_ms: float) -> None:
    """Learn as if each exact search had taken a given time: no test may depend on what is faster."""
    conn.execute("UPDATE vectuned.replay SET exact_ms = %s", (exact_ms,))
    worker = Worker(conn, load_settings(None, {}, {}))
    worker.learn(only(conn))


def test_enable_tunes_a_column_with_partial_indexes_only(items: Connection) -> None:
    said = one(items, "SELECT vectuned.enable('items', 'embedding')")
    assert "no index over all rows, so that searches without a filter are exact" in said
    assert "partial indexes public.graph, public.lists" in said
    row = items.execute("SELECT state, access_path, path_index FROM vectuned.status").fetchone()
    assert row is not None
    state, path, index = row
    assert state.startswith("partial indexes only")
    assert (path, index) == ("exact", None)
    assert params(items, None) == ("exact", None)
    with scans(items) as seen:
        for query in HELDOUT[:5]:
            assert search(items, query) == nearest(items, query)
            assert search_filtered(items, query, 10, {"kind": 7}) == nearest(items, query, "kind = 7")
    assert not seen


def test_filter_that_implies_a_predicate_uses_the_index_before_anything_was_learned(
    items: Connection,
) -> None:
    # If so many rows match, exact search is not the default.
    items.execute("UPDATE pg_class SET reltuples = 10000000 WHERE relname = 'items'")
    for condition, index in (({"kind": 0}, "graph"), ({"kind": 1, "color": "red"}, "lists")):
        with scans(items) as seen:
            found = search_filtered(items, HELDOUT[0], 10, condition)
        assert set(seen) == {index}
        assert len(found) == 10
        kinds = items.execute(
            "SELECT DISTINCT kind FROM items WHERE id = ANY (%s)", ([int(i) for i, _ in found],)
        )
        assert kinds.fetchall() == [(condition["kind"],)]
    with scans(items) as seen:
        search_filtered(items, HELDOUT[0], 10, {"kind": {"<": 1}})
        search_filtered(items, HELDOUT[0], 10, {"color": "red"})
    assert not seen
    assert params(items, '{"kind": 0}') == ("hnsw", "graph")
    assert params(items, '{"kind": 1}') == ("ivfflat", "lists")
    assert params(items, '{"kind": 2}') == ("exact", None)


def test_each_partial_index_is_learned_about(items: Connection) -> None:
    conditions: list[dict[str, int] | None] = [{"kind": 0}, {"kind": 1}, {"kind": 2}, None]
    for query in QUERIES:
        for condition in conditions:
            if condition is None:
                search(items, query)
            else:
                search_filtered(items, query, 10, condition)
    worker = Worker(items, load_settings(None, {}, {}))
    worker.drain()
    assert worker.replay_all() > 0
    while worker.replay_all():
        pass
    assert one(items, "SELECT count(*) FROM vectuned.replay") == 2 * len(QUERIES)
    assert one(items, "SELECT count(*) FROM vectuned.recall_check WHERE shape = '' AND recall = 1") == len(
        QUERIES
    )
    for exact_ms, read in ((1000.0, {"graph", "lists"}), (1e-6, set())):
        learn(items, exact_ms)
        recalls = []
        with scans(items) as seen:
            for query in HELDOUT:
                for kind in (0, 1):
                    bound = nearest(items, query, f"kind = {kind}")[9][1] + 1e-6
                    answer = search_filtered(items, query, 10, {"kind": kind})
                    recalls.append(sum(distance <= bound for _, distance in answer) / 10)
                assert search(items, query) == nearest(items, query)
        assert set(seen) == read
        assert np.mean(recalls) >= TARGET - 0.05
    assert not worker.has_news(only(items), is_changed=False)


def test_index_over_all_rows_takes_over(items: Connection) -> None:
    items.execute("CREATE INDEX whole ON items USING hnsw (embedding vector_cosine_ops)")
    Worker(items, load_settings(None, {}, {})).refresh_all()
    assert one(items, "SELECT index_relation::text FROM vectuned.status") == "whole"
    assert only(items).main is not None
    with scans(items) as seen:
        search(items, HELDOUT[0])
    assert set(seen) == {"whole"}


def test_search_of_all_rows_beyond_statement_timeout_fails_as_plain_sql_does(
    items: Connection, database: str
) -> None:
    items.execute("ALTER TABLE items ENABLE ROW LEVEL SECURITY")
    # An exact search takes minutes here. If another one followed the timeout, the test would take too long.
    items.execute("CREATE POLICY slow ON items USING (pg_sleep(0.1) IS NOT NULL)")
    with plain_role(items, database, "SELECT ON items") as reader:
        reader.execute("SET statement_timeout = 300")
        with pytest.raises(errors.QueryCanceled):
            search(reader, HELDOUT[0])
        with pytest.raises(errors.QueryCanceled):
            search_filtered(reader, HELDOUT[0], 10, {"kind": 7})
