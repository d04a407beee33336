"""Which indexes of a column are found or ignored, and what a partial index requires of a filter."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from psycopg import sql
from tests.integration.table_helpers import (
    Connection,
    clustered,
    enable,
    make,
    one,
    raw,
    scans,
    search,
    search_filtered,
    serve,
    serve_filtered,
)

from vectuned.sql.install import migrate

VECTORS = clustered(500, 8, seed=1)
QUERY = clustered(1, 8, seed=2)[0]


def create(conn: Connection, name: str, what: str, where: str = "", method: str = "hnsw") -> None:
    """Create an index on `items`."""
    conn.execute(raw(f"CREATE INDEX {name} ON items USING {method} ({what}) {where}"))


def found(conn: Connection) -> list[tuple[Any, ...]]:
    """Read the known indexes: name, method, form, marker, requires, lists."""
    return conn.execute(
        "SELECT r.relname, i.method, i.form, i.marker, i.requires, i.lists "
        "FROM vectuned.tuned_index i JOIN pg_class r ON r.oid = i.index_relation ORDER BY i.index_no"
    ).fetchall()


def names(conn: Connection) -> set[str]:
    return {row[0] for row in found(conn)}


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
@pytest.mark.parametrize("kind", ["vector", "halfvec"])
def test_vector_indexes_finds_every_form(conn: Connection, kind: str, metric: str) -> None:
    make(conn, VECTORS, kind=kind, metric=metric)
    create(
        conn,
        "lists",
        f"embedding {kind}_{metric}_ops",
        "WITH (lists = 7) WHERE vector_dims(embedding) > 0",
        "ivfflat",
    )
    create(conn, "bits", "(binary_quantize(embedding)::bit(8)) bit_hamming_ops")
    dims = "public.vector_dims(t.embedding) > 0"
    wanted = [
        ("items_embedding_idx", "hnsw", "plain", "true", None, None),
        ("lists", "ivfflat", "plain", dims, None, 7),
        ("bits", "hnsw", "bits", "true", None, None),
    ]
    if kind == "vector":
        half = f"(embedding::halfvec(8)) halfvec_{metric}_ops"
        create(conn, "half", half)
        create(conn, "half_lists", half, "WHERE embedding IS NOT NULL", "ivfflat")
        wanted.insert(1, ("half", "hnsw", "halfvec", "true", None, None))
        wanted.insert(3, ("half_lists", "ivfflat", "halfvec", "true", None, 100))
    enable(conn)
    # IVFFlat and HNSW on half precision answer the same statements: one of the two is listed.
    assert [row for row in found(conn) if not row[0].startswith("half")] == [
        row for row in wanted if not row[0].startswith("half")
    ]
    assert len(names(conn) & {"half", "half_lists"}) == (kind == "vector")
    assert (
        one(conn, "SELECT index_relation::regclass::text FROM vectuned.tuned_column") == "items_embedding_idx"
    )
    assert not one(conn, "SELECT vectuned._refresh_column(id) FROM vectuned.tuned_column")


@pytest.mark.parametrize("extension", ["public", "My Ext"])
@pytest.mark.parametrize("column", ['a "b"', "em(bed) AND x", "select", "Größe"])
def test_vector_indexes_with_names_that_need_quotes(
    plain_conn: Connection, extension: str, column: str
) -> None:
    conn = plain_conn
    if extension != "public":
        conn.execute("DROP EXTENSION vector")
        conn.execute(raw(f'CREATE SCHEMA "{extension}"'))
        conn.execute(raw(f'CREATE EXTENSION vector SCHEMA "{extension}"'))
    migrate(conn)
    make(conn, VECTORS, column=column, extension=extension)
    conn.execute(raw(f'SET search_path = public, "{extension}"'))
    conn.execute("ALTER TABLE items ADD COLUMN \"Kind, 'x'\" text DEFAULT 'it''s'")
    name = sql.Identifier(column).as_string(conn)
    create(conn, "half", f"({name}::halfvec(8)) halfvec_cosine_ops")
    create(conn, "bits", f"(binary_quantize({name})::bit(8)) bit_hamming_ops", f"WHERE {name} IS NOT NULL")
    create(
        conn,
        "lists",
        f"{name} vector_cosine_ops",
        f"WITH (lists = 3) WHERE 0 < vector_dims({name})",
        "ivfflat",
    )
    create(conn, "part", f"{name} vector_cosine_ops", "WHERE \"Kind, 'x'\" = 'it''s'")
    conn.execute("RESET search_path")
    enable(conn, column=column)
    assert names(conn) - {"half", "bits", "lists", "part"} == {found(conn)[0][0]}
    assert len(found(conn)) == 5
    assert {json.dumps(row[4]) for row in found(conn)} == {"null", json.dumps({"Kind, 'x'": "it's"})}
    for number in range(1, 5):
        with conn.transaction():
            column_id = one(conn, "SELECT id FROM vectuned.tuned_column")
            conn.execute(
                "SELECT * FROM vectuned._replay(%s, %s, %s::real[]::\"My Ext\".vector, '{10,20}')".replace(
                    "My Ext", extension
                ),
                (column_id, number, QUERY.tolist()),
            )


@pytest.mark.parametrize(
    ("what", "where", "method"),
    [
        ("embedding vector_l1_ops", "", "hnsw"),
        ("embedding vector_l2_ops", "", "hnsw"),
        ("(embedding::halfvec(8)) halfvec_l2_ops", "", "hnsw"),
        ("other vector_cosine_ops", "", "hnsw"),
        ("(subvector(embedding, 1, 4)::vector(4)) vector_cosine_ops", "", "hnsw"),
        ("(l2_normalize(embedding)::vector(8)) vector_cosine_ops", "", "hnsw"),
        ("(binary_quantize(embedding)::bit(8)) bit_jaccard_ops", "", "hnsw"),
        ("(binary_quantize(embedding)::bit(8)) bit_hamming_ops", "", "ivfflat"),
        ("id", "", "btree"),
        # Predicates that some rows do not meet, or that no filter can express.
        ("embedding vector_cosine_ops", "WHERE vector_dims(embedding) > 8", "hnsw"),
        ("embedding vector_cosine_ops", "WHERE vector_dims(embedding) < 8", "hnsw"),
        ("embedding vector_cosine_ops", "WHERE vector_dims(embedding) <> 8", "hnsw"),
        ("embedding vector_cosine_ops", "WHERE 8 < vector_dims(embedding)", "hnsw"),
        ("embedding vector_cosine_ops", "WHERE vector_dims(other) > 0", "hnsw"),
        ("embedding vector_cosine_ops", "WHERE other IS NOT NULL", "hnsw"),
        ("embedding vector_cosine_ops", "WHERE vector_norm(embedding) > 0", "hnsw"),
        ("embedding vector_cosine_ops", "WHERE vector_dims(embedding) > 0 AND id > 5", "hnsw"),
        ("embedding vector_cosine_ops", "WHERE vector_dims(embedding) > 0 OR id > 5", "hnsw"),
        ("embedding vector_cosine_ops", "WHERE id > 250", "hnsw"),
        ("embedding vector_cosine_ops", "WHERE id = 1 OR id = 2", "hnsw"),
    ],
)
def test_vector_indexes_ignores_what_answers_no_search(
    conn: Connection, what: str, where: str, method: str
) -> None:
    make(conn, VECTORS)
    conn.execute("ALTER TABLE items ADD COLUMN other vector(8)")
    enable(conn)
    create(conn, "strange", what, where, method)
    enable(conn)  # the second time changes nothing
    assert names(conn) == {"items_embedding_idx"}
    assert {key for key, _ in search(conn, QUERY, 500)} == {str(n) for n in range(1, 501)}
    conn.execute("DROP INDEX items_embedding_idx")
    if "_l2_" not in what:  # another metric
        with pytest.raises(psycopg.errors.UndefinedObject, match="has no valid HNSW or IVFFlat index"):
            enable(conn)


def test_refresh_indexes_keeps_the_metric(conn: Connection) -> None:
    make(conn, VECTORS)
    enable(conn)
    create(conn, "other", "embedding vector_l2_ops")
    enable(conn)
    assert one(conn, "SELECT metric FROM vectuned.tuned_column") == "cosine"
    conn.execute("DROP INDEX items_embedding_idx")
    enable(conn)
    assert one(conn, "SELECT metric FROM vectuned.tuned_column") == "l2"
    assert names(conn) == {"other"}


def test_vector_indexes_ignores_invalid_indexes(conn: Connection) -> None:
    make(conn, VECTORS)
    create(conn, "half", "(embedding::halfvec(8)) halfvec_cosine_ops")
    conn.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'half'::regclass")
    enable(conn)
    assert names(conn) == {"items_embedding_idx"}


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("second", ["hnsw", "ivfflat"])
def test_refresh_indexes_lists_the_planners_choice_of_equal_indexes(
    conn: Connection, second: str, marked: bool
) -> None:
    make(conn, VECTORS)
    where = "WHERE vector_dims(embedding) > 0" if marked else ""
    create(
        conn,
        "second",
        "embedding vector_cosine_ops",
        f"{'WITH (lists = 10)' if second == 'ivfflat' else ''} {where}",
        second,
    )
    column = enable(conn)
    assert len(found(conn)) == 1 + marked
    numbers = dict(
        conn.execute("SELECT index_relation::regclass::text, index_no FROM vectuned.tuned_index").fetchall()
    )
    for name, number in numbers.items():
        method = second if name == "second" else "hnsw"
        for effort in (1, 10, 40, 1000):
            serve(conn, column, number, min(effort, 10) if method == "ivfflat" else effort, method=method)
            with scans(conn) as scanned:
                assert len(search(conn, QUERY, 10)) == 10
            assert set(scanned) == {name}, effort


PREDICATES: list[tuple[str, dict[str, Any] | None]] = [
    ("kind = 5", {"kind": 5}),
    ("5 = kind", None),
    ("kind = -5", {"kind": -5}),
    ("small = 5", {"small": 5}),
    ("big = 5000000000", {"big": 5000000000}),
    ("big = -5000000000", {"big": -5000000000}),
    ("name = 'a'", {"name": "a"}),
    ("name = ''", {"name": ""}),
    ("name = 'it''s'", {"name": "it's"}),
    ("name = 'back\\slash'", {"name": "back\\slash"}),
    ("name = 'x AND y'", {"name": "x AND y"}),
    ("name = 'x) AND (kind = 5'", {"name": "x) AND (kind = 5"}),
    ("name = 'x'' AND kind = 5 AND ''y'", {"name": "x' AND kind = 5 AND 'y"}),
    ("title = 'a'", {"title": "a"}),
    ("title = 'x AND y'", {"title": "x AND y"}),
    ("title = '(x AND y)' AND kind = 5", {"title": "(x AND y)", "kind": 5}),
    ("flag", {"flag": True}),
    ("NOT flag", {"flag": False}),
    ("flag AND kind = 5", {"flag": True, "kind": 5}),
    ("kind = 5 AND NOT flag", {"flag": False, "kind": 5}),
    ('flag AND NOT "AND"', {"flag": True, "AND": False}),
    ("name IS NULL", {"name": None}),
    ("name IS NULL AND kind = 5 AND flag", {"name": None, "kind": 5, "flag": True}),
    ("key = '11111111-2222-3333-4444-555555555555'", {"key": "11111111-2222-3333-4444-555555555555"}),
    ("day = '2024-02-29'", {"day": "2024-02-29"}),
    ("price = 1.50", {"price": 1.5}),
    ("price = -0.5", {"price": -0.5}),
    ("price = 5", {"price": 5}),
    ("ratio = 1.5", {"ratio": 1.5}),
    ("flag = true", {"flag": True}),
    ("flag = false AND kind = 5", {"flag": False, "kind": 5}),
    ("vector_dims(embedding) > 0 AND kind = 5", {"kind": 5}),
    ("vector_dims(embedding) > 8 AND kind = 5", None),
    ("price = 'NaN'", None),
    ("ratio = 'Infinity'", None),
    ("kind > 5", None),
    ("kind = 5 AND big > 5", None),
    ("kind = 5 OR kind = 6", None),
    ("(kind = 5 AND flag) OR kind = 6", None),
    ("kind = 5 AND (flag OR big = 6)", None),
    ("(kind = 5 OR flag) AND big = 6", None),
    ("NOT (kind = 5)", None),
    ("kind <> 5", None),
    ("kind IN (5, 6)", None),
    ("name IS NOT NULL", None),
    ("name LIKE 'a%'", None),
    ("lower(name) = 'a'", None),
    ("kind + 1 = 5", None),
    ("name = title", None),
    ("kind = 5 AND kind = 6", None),
]


def test_predicate_filter_of_partial_indexes(conn: Connection) -> None:
    make(conn, VECTORS)
    conn.execute(
        "ALTER TABLE items ADD kind int, ADD small smallint, ADD big bigint, ADD name text, "
        'ADD title varchar(80), ADD flag bool, ADD "AND" bool, ADD key uuid, ADD day date, ADD price numeric,'
        " ADD ratio float8"
    )
    column = enable(conn)
    conn.execute("SET datestyle = 'German, DMY'")
    for predicate, wanted in PREDICATES:
        create(conn, "part", "embedding vector_cosine_ops", f"WHERE {predicate}")
        conn.execute("SELECT vectuned._refresh_column(%s)", (column,))
        known = {row[0]: row[4] for row in found(conn)}
        assert known.get("part") == wanted, predicate
        # A filter with further conditions uses it too.
        if wanted is not None:
            number = one(conn, "SELECT index_no FROM vectuned.tuned_index WHERE requires IS NOT NULL")
            for condition in (wanted, {**wanted, "id": {">": 5}}):
                serve_filtered(conn, column, condition, "hnsw", number, 100)
                with scans(conn) as scanned:
                    assert len(search_filtered(conn, QUERY, 10, condition)) == (
                        10 if wanted == {"name": None} else 0
                    )
                assert scanned == {"part": 1}, (predicate, condition)
        conn.execute("DROP INDEX part")


def test_predicate_filter_of_dates_is_equal_in_every_session(conn: Connection) -> None:
    make(conn, VECTORS)
    conn.execute("ALTER TABLE items ADD day date, ADD at timestamptz")
    create(conn, "by_day", "embedding vector_cosine_ops", "WHERE day = '2024-02-03'")
    create(conn, "by_time", "embedding vector_cosine_ops", "WHERE at = '2024-02-03 04:05:06Z'")
    column = enable(conn)
    assert {"by_day", "by_time"} < names(conn)
    for setting in ("datestyle = 'German'", "timezone = 'Asia/Tokyo'", "quote_all_identifiers = on"):
        conn.execute(raw(f"SET {setting}"))
        assert not one(conn, "SELECT vectuned._refresh_column(%s)", column), setting
