"""Falling back: what serves once nothing that was learned can be trusted any more."""

from __future__ import annotations

from typing import Any

import pytest
from tests.integration.table_helpers import Connection, clustered, enable, make, one, raw, text

Rows = list[tuple[Any, ...]]


@pytest.fixture
def column(conn: Connection) -> int:
    """Tune a column of 400 rows, whose baseline says that there were 100."""
    make(conn, clustered(400, 8, seed=1))
    conn.execute("SELECT pg_stat_force_next_flush()")
    conn.execute("ANALYZE items")
    column_id = enable(conn)
    conn.execute("SELECT vectuned._set_baseline(%s)", (column_id,))
    assert one(conn, "SELECT rows FROM vectuned.baseline") == 400
    return column_id


def add_paths(
    conn: Connection, column_id: int, *paths: tuple[str, int, str, int | None, float, bool]
) -> None:
    """Add measured paths: shape, bucket, access path, effort, milliseconds, and whether it serves."""
    for path in paths:
        conn.execute(
            "INSERT INTO vectuned.measured_path (column_id, k_class, shape, bucket, access_path, index_no, "
            "effort, expected_recall, recall_bound, proven, ms, samples, serves) "
            "VALUES (%s, 10, %s, %s, %s, 1, %s, 1, 0.95, true, %s, 100, %s)",
            (column_id, *path),
        )


def paths(conn: Connection, shape: str) -> Rows:
    return conn.execute(
        "SELECT bucket, access_path, effort, proven, fell_back FROM vectuned.measured_path "
        "WHERE serves AND shape = %s ORDER BY bucket",
        (shape,),
    ).fetchall()


def test_fall_back_makes_filters_exact_only_where_that_is_near(conn: Connection, column: int) -> None:
    add_paths(
        conn,
        column,
        ("a =", 2, "hnsw", 100, 1.0, True),
        ("a =", 2, "exact", None, 50.0, False),  # as for a filter that half of the rows match
        ("a =", 8, "hnsw", 100, 1.0, True),
        ("a =", 8, "exact", None, 1.9, False),
        ("a =", 9, "planner", None, 1.0, True),
        ("a =", 9, "exact", None, 9.0, False),
        ("b =", 2, "hnsw", 100, 1.0, True),
        ("b =", 2, "exact", None, 1.5, False),
    )
    for _ in range(2):  # the second time changes nothing
        conn.execute("SELECT vectuned._fall_back(%s, 10, 'a =', 'a test')", (column,))
        assert paths(conn, "a =") == [
            (2, "hnsw", 200, False, True),
            (8, "exact", None, True, True),
            (9, "planner", None, False, True),
        ]
        assert paths(conn, "b =") == [(2, "hnsw", 100, True, False)]


def test_fall_back_after_growth_scales_what_was_published(conn: Connection, column: int) -> None:
    conn.execute(
        "INSERT INTO vectuned.bank (column_id, k_class, version, generation, access_path, index_no, "
        "ef_search, recall_bound, certified, samples, target_recall, reason) "
        "SELECT %s, k, 1, 1, 'hnsw', 1, 100, 0.95, true, 300, 0.95, '' FROM unnest(ARRAY[10, 100]) k",
        (column,),
    )
    add_paths(conn, column, ("a =", 2, "hnsw", 100, 1.0, True), ("a =", 2, "exact", None, 1.0, False))
    fall_back = "SELECT vectuned._fall_back(%s, NULL, NULL, 'a test', false, %s, %s)"
    for rows, power, effort in ((400, 0.38, 100), (200, 0.5, 142), (100, 0.5, 200), (200, 0.5, 200)):
        # What was published was for as many rows as the baseline had when the first fall back came.
        conn.execute("UPDATE vectuned.baseline SET rows = %s", (rows,))
        conn.execute("UPDATE vectuned.bank SET learned_rows = %s", (rows,))
        conn.execute("UPDATE vectuned.measured_path SET learned_rows = %s", (rows,))
        conn.execute(fall_back, (column, power, None))
        assert conn.execute(
            "SELECT k_class, ef_search, learned_effort, certified FROM vectuned.bank ORDER BY 1"
        ).fetchall() == [(10, effort, 100, False), (100, effort, 100, False)]
        assert paths(conn, "a =") == [(2, "hnsw", effort, False, True)]  # growth makes nothing exact
    conn.execute("UPDATE vectuned.bank SET ef_search = 100")
    conn.execute(fall_back, (column, 1.0, 50))
    # A cap of 50 keeps what serves; ef_search is never capped below k.
    assert conn.execute("SELECT ef_search FROM vectuned.bank ORDER BY k_class").fetchall() == [(100,), (100,)]


def test_fall_back_of_an_empty_baseline_keeps_the_effort(conn: Connection, column: int) -> None:
    conn.execute("UPDATE vectuned.baseline SET rows = 0")
    add_paths(conn, column, ("a =", 2, "hnsw", 100, 1.0, True))
    conn.execute("SELECT vectuned._fall_back(%s, NULL, NULL, 'a test', false)", (column,))
    assert paths(conn, "a =") == [(2, "hnsw", 100, False, True)]


def test_fall_back_keeps_to_the_time_allowed(conn: Connection, column: int) -> None:
    conn.execute(
        "INSERT INTO vectuned.bank (column_id, k_class, version, generation, access_path, index_no, "
        "ef_search, recall_bound, certified, samples, target_recall, reason) "
        "VALUES (%s, 10, 1, 1, 'hnsw', 1, 100, 0.95, true, 300, 0.95, '')",
        (column,),
    )
    conn.execute(
        "INSERT INTO vectuned.measured_path (column_id, k_class, access_path, index_no, effort, proven, ms, "
        "samples, serves) VALUES (%s, 10, 'hnsw', 1, 100, true, 2, 300, true)",
        (column,),
    )
    conn.execute("SELECT vectuned._fall_back(%s, 10, '', 'a test', true, 0.38, NULL, 3)", (column,))
    assert one(conn, "SELECT ef_search FROM vectuned.bank") == 150


def test_detect_table_change_with_composite_keys_and_odd_names(conn: Connection) -> None:
    conn.execute(
        'CREATE TABLE "Odd ""table" ("a b" text, "C" bigint, "e\'f" vector(4), PRIMARY KEY ("a b", "C"))'
    )
    conn.execute(
        raw(
            "INSERT INTO \"Odd \"\"table\" SELECT 'it''s ' || n, n, "
            f"'{text([1, 2, 3, 4])}'::vector + (ARRAY[n,0,0,0])::vector FROM generate_series(1, 500) n"
        )
    )
    conn.execute('CREATE INDEX ON "Odd ""table" USING hnsw ("e\'f" vector_l2_ops)')
    column = enable(conn, '"Odd ""table"', "e'f")
    conn.execute("SELECT vectuned._set_baseline(%s)", (column,))
    assert one(conn, "SELECT jsonb_array_length(witnesses) FROM vectuned.baseline") == 100
    seen = "SELECT gone, rewritten FROM vectuned._since_baseline(%s)"
    assert conn.execute(seen, (column,)).fetchone() == (0, 0)
    conn.execute('UPDATE "Odd ""table" SET "e\'f" = \'[9,9,9,9]\' WHERE "a b" LIKE \'%1\'')
    assert one(conn, f"SELECT gone = 0 AND rewritten BETWEEN 0.01 AND 0.4 FROM ({seen}) s", column)
    conn.execute('DELETE FROM "Odd ""table"')
    assert conn.execute(seen, (column,)).fetchone() == (1, 0)
