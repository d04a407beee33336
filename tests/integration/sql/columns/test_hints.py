"""Every hint of `enable` and `search` leads somewhere: the test executes what it says."""

from __future__ import annotations

import psycopg
import pytest
from tests.integration.table_helpers import Connection, raw

VALUES = (
    "SELECT i, (SELECT array_agg(sin(i * j)) FROM generate_series(1, {}) j)::real[]::vector "
    "FROM generate_series(1, 30) i"
)

TABLES = {
    "untyped": ("id int PRIMARY KEY, e vector", 4, ()),
    "untyped with a cast": (
        "id int PRIMARY KEY, e vector",
        4,
        ("CREATE INDEX ON items USING hnsw ((e::vector(4)) vector_l2_ops)",),
    ),
    "no index": ("id int PRIMARY KEY, e vector(4)", 4, ()),
    "partial": (
        "id int PRIMARY KEY, e vector(4)",
        4,
        ("CREATE INDEX ON items USING hnsw (e vector_ip_ops) WHERE id > 5",),
    ),
    "invalid": (
        "id int PRIMARY KEY, e vector(4)",
        4,
        (
            "CREATE INDEX cut ON items USING hnsw (e vector_cosine_ops)",
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'cut'::regclass",
        ),
    ),
    "subvector": (
        "id int PRIMARY KEY, e vector(4)",
        4,
        ("CREATE INDEX ON items USING hnsw ((subvector(e, 1, 2)::vector(2)) vector_l2_ops)",),
    ),
    "wide": ("id int PRIMARY KEY, e vector(2500)", 2500, ()),
    "wider": ("id int PRIMARY KEY, e vector(4100)", 4100, ()),
    "no key": (
        "id int NOT NULL UNIQUE, e vector(4)",
        4,
        ("CREATE INDEX ON items USING hnsw (e vector_l2_ops)",),
    ),
}


def follow(conn: Connection, statement: str) -> list[str]:
    """Execute a statement; where it fails, execute its hint and try again; return the hints."""
    hints: list[str] = []
    while True:
        try:
            conn.execute(raw(statement))
        except psycopg.Error as error:
            hint = error.diag.message_hint
            assert hint
            assert hint not in hints
            hints.append(hint)
            conn.execute(raw(hint))
        else:
            return hints


@pytest.mark.parametrize("case", TABLES)
def test_hints_of_a_search_lead_to_an_answer(conn: Connection, case: str) -> None:
    columns, width, statements = TABLES[case]
    conn.execute(raw(f"CREATE TABLE public.items ({columns})"))
    conn.execute(raw(f"INSERT INTO items {VALUES.format(width)}"))
    for statement in statements:
        conn.execute(raw(statement))
    query = "(SELECT e::vector FROM items WHERE id = 3)"
    # The first hint is to enable the column, and that of this to build what it needs.
    hints = []
    for statement in (
        "SELECT vectuned.enable('items', 'e')",
        f"SELECT * FROM vectuned.search('items', {query}, 3)",
    ):
        hints += follow(conn, statement)
    assert conn.execute(raw(f"SELECT id FROM vectuned.search('items', {query}, 3)")).rowcount == 3
    assert ("REINDEX INDEX CONCURRENTLY public.cut" in hints) == (case == "invalid")


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("CREATE INDEX ON items USING hnsw (e vector_l1_ops)", "L1 distance, which vectuned does not tune"),
        (
            "ALTER TABLE items ALTER e TYPE vector; INSERT INTO items VALUES (99, '[1,2]')",
            "different numbers",
        ),
    ],
)
def test_enable_says_so_where_there_is_no_way(conn: Connection, statement: str, words: str) -> None:
    conn.execute(raw("CREATE TABLE public.items (id int PRIMARY KEY, e vector(4))"))
    conn.execute(raw(f"INSERT INTO items {VALUES.format(4)}"))
    conn.execute(raw(statement))
    with pytest.raises(psycopg.errors.UndefinedObject) as raised:
        conn.execute("SELECT vectuned.enable('items', 'e')")
    assert words in str(raised.value.diag.message_detail)
    assert not raised.value.diag.message_hint


def test_hint_of_a_search_of_an_untuned_table_names_its_column(conn: Connection) -> None:
    conn.execute("CREATE TABLE public.items (id int PRIMARY KEY, e vector(4))")
    conn.execute("CREATE INDEX ON items USING hnsw (e vector_l2_ops)")
    hints = follow(conn, "SELECT * FROM vectuned.search('items', '[1,2,3,4]', 3)")
    assert hints == ["SELECT vectuned.enable('public.items', 'e')"]
