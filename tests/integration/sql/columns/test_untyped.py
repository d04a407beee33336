"""Columns whose type says no dimensions: tuned by an index over their cast, such as embedding::vector(16)."""

from __future__ import annotations

import pytest
from psycopg import errors
from tests.integration.search_helpers import DIMENSIONS, points, run_searches
from tests.integration.table_helpers import (
    Connection,
    enable,
    exact,
    make,
    one,
    raw,
    search,
    search_filtered,
)

from vectuned.config.settings import load_settings
from vectuned.daemon.work.worker import Worker

ROWS = 3000
CAST = f"(embedding::vector({DIMENSIONS}))"


@pytest.fixture
def untyped(conn: Connection) -> Connection:
    """A table of 3,000 vectors of 16 dimensions, of which the column's type does not know."""
    make(conn, points(ROWS, seed=1), index=False)
    conn.execute("ALTER TABLE items ALTER COLUMN embedding TYPE vector")
    conn.execute("ALTER TABLE items ADD COLUMN kind int")
    conn.execute("UPDATE items SET kind = id % 4")
    conn.execute("SELECT pg_stat_force_next_flush()")
    conn.execute("VACUUM ANALYZE items")
    return conn


def index(conn: Connection, definition: str, name: str = "items_cast") -> None:
    conn.execute(raw(f"CREATE INDEX {name} ON items USING {definition}"))


def learn(conn: Connection) -> None:
    worker = Worker(conn, load_settings(None, {}, {}))
    worker.drain()
    worker.refresh_all()
    worker.replay_all()
    worker.learn_all()


@pytest.mark.parametrize(
    ("definition", "form"),
    [
        (f"hnsw ({CAST} vector_cosine_ops)", "plain"),
        (f"ivfflat ({CAST} vector_cosine_ops) WITH (lists = 40)", "plain"),
        (f"hnsw ((embedding::halfvec({DIMENSIONS})) halfvec_cosine_ops)", "halfvec"),
    ],
)
def test_column_without_dimensions_is_tuned_by_an_index_over_its_cast(
    untyped: Connection, definition: str, form: str
) -> None:
    index(untyped, definition)
    enable(untyped, target_recall=0.8, sample_rate=1.0, min_samples=50)
    assert one(untyped, "SELECT dimensions FROM vectuned.status") == DIMENSIONS
    assert one(untyped, "SELECT form FROM vectuned.tuned_index") == form
    run_searches(untyped, 200)
    learn(untyped)
    assert one(untyped, "SELECT certified FROM vectuned.bank WHERE k_class = 10")
    assert one(untyped, "SELECT count(*) FROM vectuned.column_failure") == 0
    query = points(1, seed=9)[0]
    assert len(search(untyped, query)) == 10
    assert len(search_filtered(untyped, query, 10, {"kind": 1})) == 10


def test_search_of_a_column_without_dimensions_finds_what_exact_search_finds(untyped: Connection) -> None:
    index(untyped, f"hnsw ({CAST} vector_cosine_ops)")
    enable(untyped)
    queries = points(40, seed=5)
    found = sum(
        len({row[0] for row in search(untyped, query)} & {row[0] for row in exact(untyped, query)})
        for query in queries
    )
    assert found > 0.6 * 10 * len(queries)
    # Without the index, searches go on: all rows are read.
    untyped.execute("DROP INDEX items_cast")
    for query in queries[:5]:
        assert [row[0] for row in search(untyped, query)] == [row[0] for row in exact(untyped, query)]
    untyped.execute("SELECT vectuned.refresh('items')")
    assert len(search(untyped, queries[0])) == 10
    # An index over the same cast takes its place.
    index(untyped, f"hnsw ({CAST} vector_cosine_ops)", "again")
    untyped.execute("SELECT vectuned.refresh('items')")
    assert one(untyped, "SELECT index_relation::regclass::text FROM vectuned.tuned_index") == "again"


def test_enable_of_mixed_dimensions_is_refused_with_what_to_do(untyped: Connection) -> None:
    untyped.execute("INSERT INTO items VALUES (9001, '[1,2,3]', 0)")
    condition = f"WHERE vector_dims(embedding) = {DIMENSIONS}"
    index(untyped, f"hnsw ({CAST} vector_cosine_ops) {condition}")
    with pytest.raises(errors.UndefinedObject) as caught:
        enable(untyped)
    assert "keep those of each number in a column of their own" in str(caught.value.diag.message_detail)


def test_column_that_gets_a_type_with_dimensions_is_followed(untyped: Connection) -> None:
    index(untyped, f"hnsw ({CAST} vector_cosine_ops)")
    enable(untyped)
    untyped.execute("DROP INDEX items_cast")
    untyped.execute(raw(f"ALTER TABLE items ALTER COLUMN embedding TYPE vector({DIMENSIONS})"))
    index(untyped, "hnsw (embedding vector_cosine_ops)", "typed")
    untyped.execute("SELECT vectuned.refresh('items')")
    assert one(untyped, "SELECT index_relation::regclass::text FROM vectuned.tuned_index") == "typed"
    assert len(search(untyped, points(1, seed=9)[0])) == 10
