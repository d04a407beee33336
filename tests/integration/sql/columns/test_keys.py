"""Primary keys: the ids that a search returns for them."""

from __future__ import annotations

import json

import pytest
from tests.integration.table_helpers import Connection, build, clustered, enable, exact, raw, search, text

VECTORS = clustered(60, 4, seed=1)
QUERY = [1.0, -1.0, 0.5, 2.0]

KEYS = {
    "smallint": "n::smallint",
    "int": "n * 1000",
    "bigint": "n * 10000000000",
    "uuid": "md5(n::text)::uuid",
    "text": "'key \"' || n || ''' ü {} [' ",
    "varchar(20)": "'v' || n",
    "varchar": "lpad(n::text, 5)",
}


@pytest.mark.parametrize("key_type", KEYS)
def test_search_ids_of_single_keys(conn: Connection, key_type: str) -> None:
    conn.execute(raw(f"CREATE TABLE public.items (id {key_type} PRIMARY KEY, n int, embedding vector(4))"))
    conn.execute(
        raw(
            f"INSERT INTO items SELECT {KEYS[key_type]}, n, %s::vector + "
            "array_to_vector(ARRAY[0, 0, 0, n], 4, false) FROM generate_series(1, 50) n"
        ),
        (text(QUERY),),
    )
    build(conn)
    enable(conn)
    found = search(conn, QUERY, 7)
    assert found == exact(conn, QUERY, 7)
    rows = conn.execute(
        "SELECT id::text FROM vectuned.search_rows(NULL::items, %s, 7)", (text(QUERY),)
    ).fetchall()
    assert [row[0] for row in rows] == [key for key, _ in found]
    named = conn.execute(
        raw(f"SELECT count(*) FROM items WHERE id = ANY (%s::{key_type}[])"), ([k for k, _ in found],)
    )
    assert named.fetchone() == (7,)


def test_search_ids_of_composite_keys_are_json_arrays(conn: Connection) -> None:
    conn.execute(
        "CREATE TABLE public.items (b text, a smallint, u uuid, v varchar(9), c bigint, embedding vector(4), "
        "junk int, PRIMARY KEY (a, b, u, v, c) INCLUDE (junk))"
    )
    conn.execute("ALTER TABLE items DROP COLUMN junk, ADD PRIMARY KEY (a, b, u, v, c)")
    wanted = {}
    for number, vector in enumerate(VECTORS):
        u = f"00000000-0000-0000-0000-{number:012}"
        row = (f'"{number}\\, ü', number % 3, u, "v '", 2**40 + number, text(vector))
        conn.execute("INSERT INTO items VALUES (%s, %s, %s, %s, %s, %s)", row)
        wanted[number] = [row[1], row[0], row[2], row[3], row[4]]
    build(conn)
    enable(conn)
    found = search(conn, QUERY, 5)
    nearest = conn.execute(
        "SELECT c FROM (SELECT c, embedding <=> %s::vector AS d FROM items OFFSET 0) x ORDER BY d LIMIT 5",
        (text(QUERY),),
    ).fetchall()
    assert [json.loads(key) for key, _ in found] == [wanted[c - 2**40] for (c,) in nearest]
    rows = conn.execute("SELECT c FROM vectuned.search_rows(NULL::items, %s, 5)", (text(QUERY),)).fetchall()
    assert rows == nearest
