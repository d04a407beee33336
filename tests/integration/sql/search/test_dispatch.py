"""How vectuned.search finds the function of a column among many tuned ones."""

from __future__ import annotations

import psycopg
import pytest
from tests.integration.table_helpers import Connection, enable, exact, make, one, raw, search
from tests.integration.table_helpers import clustered as vectors

COLUMNS = 70  # more than the 64 that vectuned.search compares by itself
QUERY = [1.0, -1.0, 0.5, 2.0]
PARTS = "SELECT count(*) FROM pg_proc WHERE proname ~ '^_dispatch_[0-9]+$'"
WRITTEN = """SELECT array_agg(oid::text || ' ' || xmin) FROM pg_proc
    WHERE proname ~ '^(_dispatch_[0-9]+|search)$'"""


def copy_table(conn: Connection, number: int) -> str:
    """Create a table like items, with rows that are its own; return its name."""
    name = f"copy_{number}"
    conn.execute(
        raw(
            f"CREATE TABLE {name} (LIKE items INCLUDING ALL); "
            f"INSERT INTO {name} SELECT id + {1000 * number}, embedding FROM items"
        )
    )
    return name


@pytest.fixture
def names(conn: Connection) -> list[str]:
    """Tune so many equal tables that their columns are divided, two of them of one table."""
    make(conn, vectors(20, 4, seed=1))
    tables = [copy_table(conn, number) for number in range(1, COLUMNS)]
    conn.execute("ALTER TABLE copy_1 ADD COLUMN other vector(4)")
    conn.execute("UPDATE copy_1 SET other = embedding")
    conn.execute("CREATE INDEX ON copy_1 USING hnsw (other vector_cosine_ops)")
    for name in tables:
        enable(conn, name)
    enable(conn, "copy_1", "other")
    return tables


def written(conn: Connection) -> set[str]:
    """Return which versions of the dispatching functions there are."""
    return set(one(conn, WRITTEN))


def test_divided_columns_are_found_and_each_enable_replaces_one_part(
    conn: Connection, names: list[str]
) -> None:
    assert one(conn, PARTS) == 64
    nearest = [key for key, _ in exact(conn, QUERY, 3)]
    for number, name in enumerate(names, 1):
        found = conn.execute(
            "SELECT id FROM vectuned.search(%s::text, %s::vector, 3, column_name => 'embedding')",
            (name, QUERY),
        ).fetchall()
        assert [int(key) - 1000 * number for (key,) in found] == [int(key) for key in nearest]
    # Not through the slow path, which every search works through as well.
    assert "PL/pgSQL function vectuned._dispatch_" in stack_of(conn, names[-1])
    with pytest.raises(psycopg.errors.AmbiguousColumn):
        search(conn, QUERY, relation="copy_1")
    before = written(conn)
    enable(conn, names[-1], target_recall=0.97)
    assert len(before - written(conn)) == 1
    enable(conn)
    assert len(before - written(conn)) <= 2
    assert search(conn, QUERY, 3) == exact(conn, QUERY, 3)


def stack_of(conn: Connection, name: str) -> str:
    """Return the context of the error of a search by a role that may not read the table."""
    with conn.transaction(force_rollback=True):
        conn.execute("CREATE ROLE dispatch_stranger")
        conn.execute("GRANT USAGE ON SCHEMA public TO dispatch_stranger")
        conn.execute("SET LOCAL ROLE dispatch_stranger")
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as caught, conn.transaction():
            conn.execute("SELECT * FROM vectuned.search(%s::text, %s::vector)", (name, QUERY))
        return str(caught.value.diag.context)


def test_divided_columns_follow_renamed_and_replaced_tables(conn: Connection, names: list[str]) -> None:
    conn.execute("ALTER TABLE copy_2 RENAME TO moved")
    conn.execute("SELECT vectuned.refresh('moved')")
    assert "_dispatch_" in stack_of(conn, "moved")
    conn.execute("DROP TABLE copy_3")
    conn.execute("CREATE TABLE copy_3 (LIKE items INCLUDING ALL)")
    conn.execute("INSERT INTO copy_3 SELECT * FROM items WHERE id <= 5")
    conn.execute("SELECT vectuned.refresh('copy_3')")
    assert len(search(conn, QUERY, 10, relation="copy_3")) == 5
    assert "_dispatch_" in stack_of(conn, "copy_3")


def test_few_columns_left_are_no_longer_divided(conn: Connection, names: list[str]) -> None:
    for name in names[-10:]:
        conn.execute("SELECT vectuned.disable(%s::regclass, 'embedding', forget => true)", (name,))
    assert one(conn, PARTS) == 0
    context = stack_of(conn, "copy_4")
    assert "_dispatch_" not in context
    assert "_search_fallback" not in context
    with pytest.raises(psycopg.errors.UndefinedObject):
        search(conn, QUERY, relation=names[-1])
    enable(conn, names[-1])
    assert len(search(conn, QUERY, 3, relation=names[-1])) == 3
