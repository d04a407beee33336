"""recommend_params: what serves and why, and indexes for the table's owner to create."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg.rows import dict_row
from tests.integration.table_helpers import Connection, build, clustered, enable, make, one, raw, text

from vectuned.learning.model.tuned_columns import read_tuned_columns

ROWS = 600


@pytest.fixture
def column(conn: Connection) -> int:
    """A tuned column with a published fixed setting for the class k = 10."""
    make(conn, clustered(ROWS, 6, seed=1), index=False)
    conn.execute(
        """ALTER TABLE items ADD COLUMN kind text DEFAULT 'it''s \\ "AND" x', ADD COLUMN price numeric"""
    )
    conn.execute("ALTER TABLE items ADD COLUMN active boolean DEFAULT true")
    conn.execute("UPDATE items SET price = id WHERE id > 100")
    build(conn)
    conn.execute("CREATE INDEX ON items (kind)")
    conn.execute("CREATE INDEX ON items (price)")
    conn.execute("ANALYZE items")
    number = enable(conn)
    conn.execute(
        "INSERT INTO vectuned.bank (column_id, k_class, version, generation, access_path, ef_search, "
        "expected_recall, recall_bound, certified, samples, target_recall, reason) "
        "SELECT id, 10, 1, vectuned._generation(index_relation), 'hnsw', 55, 0.96, 0.95, true, 300, 0.95, "
        "'by hand' FROM vectuned.tuned_column"
    )
    measured(conn, number, None, None, "hnsw", ms=1.0, effort=55)
    return number


def measured(
    conn: Connection,
    column: int,
    shape: str | None,
    bucket: int | None,
    path: str,
    *,
    ms: float,
    effort: int | None,
) -> None:
    """Publish the measurements of an access path, as the serving one."""
    conn.execute(
        "INSERT INTO vectuned.measured_path (column_id, k_class, shape, bucket, access_path, index_no, "
        "effort, expected_recall, recall_bound, proven, ms, samples, serves) "
        "VALUES (%s, 10, %s, %s, %s, CASE WHEN %s::int IS NOT NULL THEN 1 END, %s, 1, 1, true, %s, 40, true)",
        (column, shape, bucket, path, effort, effort, ms),
    )


def record_filtered(
    conn: Connection, column: int, condition: dict[str, Any], count: int, *, k: int = 10
) -> None:
    """Record searches with a filter, and publish that exact search serves it in 9 ms."""
    values = json.dumps(condition)
    row = conn.execute(
        "SELECT shape, fraction FROM vectuned._compile_filter(%s, 'items', %s::jsonb)", (column, values)
    ).fetchone()
    assert row is not None
    conn.execute(
        "INSERT INTO vectuned.trajectory (query_id, column_id, recorded_at, k, access_path, result_ids, "
        "distances, latency_ms, filter, fraction) "
        "SELECT gen_random_uuid(), %s, now(), %s, 'exact', '{}', '{}', 9, %s::jsonb, %s "
        "FROM generate_series(1, %s)",
        (column, k, values, row[1], count),
    )
    bucket = one(conn, "SELECT vectuned._filter_bucket(%s)", row[1])
    measured(conn, column, row[0], bucket, "exact", ms=9.0, effort=None)


def recommended(conn: Connection, kind: str) -> list[dict[str, Any]]:
    """Return the recommendations of a kind."""
    cursor = conn.cursor(row_factory=dict_row)
    rows = cursor.execute("SELECT * FROM vectuned.recommend_params('items')").fetchall()
    return [row for row in rows if row["kind"] == kind]


def test_recommend_params_shows_what_serves_with_figures(conn: Connection, column: int) -> None:
    (row,) = recommended(conn, "search")
    assert row["subject"] == "k up to 10"
    assert row["recommendation"].startswith("ef_search 55 on ")
    assert (row["reason"], row["statement"]) == ("by hand", "SET hnsw.ef_search = 55")
    assert row["figures"]["at_least"] == 0.95
    assert [path["effort"] for path in row["figures"]["paths"]] == [55]
    conn.execute(row["statement"].encode())
    assert one(conn, "SHOW hnsw.ef_search") == "55"


@pytest.mark.parametrize(
    "condition",
    [
        {"kind": 'it\'s \\ "AND" x'},
        {"price": 7.5},
        {"price": None},
        {"active": True},
        {"active": False, "kind": "b"},
        {"kind": "a", "price": 3},
    ],
    ids=str,
)
def test_recommend_params_index_is_used_by_its_filter(
    conn: Connection, column: int, condition: dict[str, Any]
) -> None:
    record_filtered(conn, column, condition, 30)
    (row,) = recommended(conn, "index")
    assert json.loads(row["subject"]) == condition
    assert row["gain_ms"] > 0
    conn.execute(row["statement"].encode())
    assert one(conn, "SELECT vectuned._refresh_column(%s)", column)
    indexes = read_tuned_columns(conn)[0].indexes
    assert [json.loads(i.requires) for i in indexes if i.requires] == [condition]
    # Once it exists, it is not recommended again.
    assert recommended(conn, "index") == []
    # Statements without its marker keep their plans.
    plan = "EXPLAIN SELECT id FROM items WHERE {} ORDER BY embedding <=> %s LIMIT 5"
    where = one(
        conn, "SELECT condition FROM vectuned._compile_filter(%s, 'items', %s)", column, json.dumps(condition)
    )
    conn.execute("SET enable_sort = off")
    lines = conn.execute(
        raw(plan.format(where.replace("t.", ""))), (text(np.ones(6)),), prepare=False
    ).fetchall()
    assert indexes[-1].name.split(".")[-1] not in str(lines)


def test_recommend_params_no_index_for_rare_filters_ranges_and_lists(conn: Connection, column: int) -> None:
    record_filtered(conn, column, {"kind": "rare"}, 19)
    record_filtered(conn, column, {"price": {"<": 10}}, 50)
    record_filtered(conn, column, {"kind": ["a", "b"]}, 50)
    assert recommended(conn, "index") == []


def test_recommend_params_no_index_for_cheap_filters(conn: Connection, column: int) -> None:
    record_filtered(conn, column, {"kind": "cheap"}, 50)
    conn.execute("UPDATE vectuned.measured_path SET ms = 0.2 WHERE bucket IS NOT NULL")
    assert recommended(conn, "index") == []


def test_recommend_params_lists_at_most_sixteen_indexes(conn: Connection, column: int) -> None:
    for number in range(18):
        record_filtered(conn, column, {"kind": f"k{number}"}, 20 + number)
    rows = recommended(conn, "index")
    assert [json.loads(row["subject"])["kind"] for row in rows] == [
        f"k{number}" for number in range(17, 1, -1)
    ]
    assert [row["gain_ms"] for row in rows] == sorted((row["gain_ms"] for row in rows), reverse=True)


def test_recommend_params_ordinary_index_for_filtered_columns(conn: Connection, column: int) -> None:
    record_filtered(conn, column, {"active": True, "price": {">": 3}}, 30)
    (row,) = recommended(conn, "filter index")
    assert row["subject"] == "active"
    conn.execute(row["statement"].encode())
    assert recommended(conn, "filter index") == []


def test_recommend_params_ignores_filters_on_dropped_columns(conn: Connection, column: int) -> None:
    record_filtered(conn, column, {"kind": "a"}, 30)
    conn.execute("ALTER TABLE items DROP COLUMN kind")
    assert recommended(conn, "index") == []
    assert len(recommended(conn, "search")) == 1


def test_recommend_params_explains_filtered_searches(conn: Connection, column: int) -> None:
    record_filtered(conn, column, {"kind": "a"}, 30)
    (row,) = recommended(conn, "filtered search")
    assert row["recommendation"] == "exact, through the filter's index"
    assert "kind =" in row["subject"]
    assert "9.00 ms" in row["reason"]


def test_recommend_params_without_learning_is_empty(conn: Connection) -> None:
    make(conn, clustered(ROWS, 6, seed=1))
    enable(conn)
    assert recommended(conn, "search") == recommended(conn, "index") == []


def test_recommend_params_refuses_untuned_relations(conn: Connection, column: int) -> None:
    conn.execute("CREATE TABLE other (id int PRIMARY KEY)")
    with pytest.raises(psycopg.errors.UndefinedObject, match="no column that vectuned tunes"):
        conn.execute("SELECT * FROM vectuned.recommend_params('other')")
