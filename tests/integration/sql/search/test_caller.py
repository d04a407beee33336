"""Searches in the caller's world: its search_path, its policies, its statement_timeout."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from psycopg import errors
from tests.integration.table_helpers import (
    Connection,
    clustered,
    enable,
    exact,
    make,
    one,
    plain_role,
    raw,
    search,
    text,
)

VECTORS = clustered(400, 8, seed=1)
QUERY = clustered(1, 8, seed=2)[0]


@pytest.fixture
def tenant(conn: Connection, database: str) -> Iterator[Connection]:
    """A session whose policy relies on its own search_path, functions and operators."""
    make(conn, VECTORS)
    conn.execute(
        """
        CREATE SCHEMA app;
        CREATE TABLE app.tenants (name text PRIMARY KEY, parity int);
        INSERT INTO app.tenants VALUES ('even', 0);
        CREATE FUNCTION app.parity() RETURNS int LANGUAGE plpgsql STABLE AS
            'BEGIN RETURN (SELECT parity FROM tenants WHERE name = current_setting(''app.tenant'')); END';
        ALTER TABLE items ENABLE ROW LEVEL SECURITY;
        CREATE POLICY by_tenant ON items USING (id % 2 = app.parity());
        """
    )
    enable(conn, sample_rate=1.0)
    grants = ("USAGE ON SCHEMA app", "SELECT ON app.tenants", "SELECT ON items")
    with plain_role(conn, database, *grants) as reader:
        reader.execute("SET search_path = app, public; SET app.tenant = 'even'")
        yield reader


def test_search_runs_policies_under_the_callers_search_path(tenant: Connection, conn: Connection) -> None:
    wanted = [row for row in exact(conn, QUERY, 400) if int(row[0]) % 2 == 0][:10]
    assert search(tenant, QUERY) == wanted
    statements = (
        "SELECT id, distance FROM vectuned.search('items', %s, 10, '{\"id\": {\">\": 0}}')",
        "SELECT id, distance FROM vectuned._search_fallback('items', %s, 10, NULL, NULL)",
        "SELECT r.id::text, r.embedding <=> %s FROM vectuned.search_rows(NULL::items, %s, 10) r",
    )
    for statement in statements:
        values = (text(QUERY),) * statement.count("%s")
        assert tenant.execute(raw(statement), values).fetchall() == wanted, statement
    assert one(tenant, "SELECT access_path FROM vectuned.params('items', %s)", text(QUERY)) == "hnsw"
    # While the table is being renamed, and without its index.
    conn.execute("ALTER TABLE items RENAME TO goods")
    assert search(tenant, QUERY, relation="goods") == wanted
    conn.execute("DROP INDEX items_embedding_idx")
    assert search(tenant, QUERY, relation="goods") == wanted
    assert one(tenant, "SHOW search_path") == "app, public"


def test_search_is_not_led_astray_by_the_callers_search_path(conn: Connection) -> None:
    make(conn, VECTORS)
    enable(conn, sample_rate=1.0)
    wanted, filtered = search(conn, QUERY), '{"id": {">": 200}}'
    statement = "SELECT id, distance FROM vectuned.search('items', %s, 10, %s)"
    few = conn.execute(statement, (text(QUERY), filtered)).fetchall()
    conn.execute(
        """
        CREATE SCHEMA trap;
        CREATE FUNCTION trap.fail(int, int) RETURNS boolean LANGUAGE plpgsql AS
            'BEGIN RAISE ''trapped''; END';
        CREATE FUNCTION trap.fail(text, text) RETURNS boolean LANGUAGE plpgsql AS
            'BEGIN RAISE ''trapped''; END';
        CREATE FUNCTION trap.fail(float8, float8) RETURNS boolean LANGUAGE plpgsql AS
            'BEGIN RAISE ''trapped''; END';
        CREATE OPERATOR trap.= (FUNCTION = trap.fail, LEFTARG = int, RIGHTARG = int);
        CREATE OPERATOR trap.< (FUNCTION = trap.fail, LEFTARG = int, RIGHTARG = int);
        CREATE OPERATOR trap.= (FUNCTION = trap.fail, LEFTARG = text, RIGHTARG = text);
        CREATE OPERATOR trap.<> (FUNCTION = trap.fail, LEFTARG = float8, RIGHTARG = float8);
        CREATE FUNCTION trap.cardinality(text[]) RETURNS int LANGUAGE plpgsql AS
            'BEGIN RAISE ''trapped''; END';
        CREATE DOMAIN trap.text AS pg_catalog.text CHECK (VALUE = 'trapped');
        SET search_path = trap, vectuned, pg_catalog, public;
        """
    )
    conn.execute("DELETE FROM vectuned.inbox")
    assert search(conn, QUERY) == wanted
    assert conn.execute(statement, (text(QUERY), filtered)).fetchall() == few
    # A session with vectuned in its search_path is recorded like any other.
    assert one(conn, "SELECT pg_catalog.count(*) FROM vectuned.inbox") == 2


_BUILT_IN = """
    any coalesce greatest least extract exists unnest all as filter bit if when and or not on from by limit
    where return
"""


def test_bodies_that_run_under_the_callers_search_path_are_qualified(conn: Connection) -> None:
    make(conn, VECTORS)
    conn.execute("CREATE INDEX ON items USING hnsw ((embedding::halfvec(8)) halfvec_cosine_ops)")
    conn.execute("CREATE INDEX ON items USING hnsw ((binary_quantize(embedding)::bit(8)) bit_hamming_ops)")
    conn.execute("CREATE INDEX ON items USING ivfflat (embedding vector_cosine_ops) WITH (lists = 4)")
    conn.execute(
        "CREATE INDEX ON items USING hnsw (embedding vector_cosine_ops) WHERE vector_dims(embedding) > 0"
    )
    enable(conn, sample_rate=0.5)
    rows = conn.execute(
        "SELECT proname, prosrc FROM pg_proc WHERE pronamespace = 'vectuned'::regnamespace "
        "AND proname ~ '^(_search_[0-9]+|_filtered_[0-9]+|search|apply|_search_page|_nearest_thousand)$' "
        "AND prolang = (SELECT oid FROM pg_language WHERE lanname = 'plpgsql')"
    ).fetchall()
    assert len(rows) == 6
    for name, body in rows:
        assert list(unqualified(body)) == [], name


def unqualified(body: str) -> Iterator[str]:
    """Find functions, operators and types without a schema in the statements of a PL/pgSQL body."""
    code = re.sub(r"--.*", "", body)
    yield from _unqualified_names(code[code.index("BEGIN") :])


def _unqualified_names(code: str) -> Iterator[str]:
    # Texts of statements that are executed are code as well.
    for literal in re.findall(r"'((?:[^']|'')*)'", code):
        if re.search(r"SELECT|ORDER BY|CASE WHEN", literal):
            yield from _unqualified_names(literal.replace("''", "'"))
    code = re.sub(r"'(?:[^']|'')*'", "''", code)
    code = re.sub(r"OPERATOR\(\"?[a-z_]+\"?\.[^)]*\)", " , ", code)
    code = re.sub(r"USING ERRCODE =|FETCH RELATIVE", " ", code)
    for match in re.finditer(r"(?<![.\w\"])([a-z_]\w*)\s*\(", code, re.I):
        alias = re.search(r"\bAS\s+$", code[: match.start()]) is not None
        if not alias and match[1].lower() not in _BUILT_IN.split():
            yield match[0]
    yield from re.findall(r"::\s*(?!pg_catalog\.|public\.|bit\()[\w.]+", code)
    code = re.sub(r":=|::|=>|\.\.|%\w+", " ", code)
    yield from re.findall(r"[^\n]*(?:[<>=|+/%]|\bLIKE\b|\bBETWEEN\b|\bIN \(|CASE \w+ WHEN)[^\n]*", code)


@pytest.fixture
def slow(conn: Connection, database: str) -> Iterator[Connection]:
    """A session in which looking at a row takes 2 ms, at all of them longer than its timeout; it sees few."""
    make(conn, VECTORS)
    conn.execute(
        """
        ALTER TABLE items ADD COLUMN kind int NOT NULL DEFAULT 1;
        CREATE FUNCTION public.visible(bigint) RETURNS boolean LANGUAGE plpgsql COST 1 AS
            'BEGIN PERFORM pg_sleep(0.002); RETURN $1 % 10 = 0; END';
        ALTER TABLE items ENABLE ROW LEVEL SECURITY;
        CREATE POLICY slow ON items USING (visible(id));
        ANALYZE items;
        """
    )
    enable(conn)
    with plain_role(conn, database, "SELECT ON items") as reader:
        reader.execute("SET statement_timeout = '600ms'")
        yield reader


def test_search_answers_where_an_exact_search_would_exceed_the_timeout(slow: Connection) -> None:
    said: list[str] = []
    slow.add_notice_handler(lambda notice: said.append(str(notice.message_primary)))
    statement = "SELECT id FROM vectuned.search('items', %s, 10, %s)"
    assert slow.execute(statement, (text(QUERY), '{"kind": 2}')).fetchall() == []
    assert "statement_timeout" in said[0]
    # An unfiltered search, of which the policy leaves fewer rows than asked for.
    assert len(search(slow, QUERY, 60)) < 40
    assert len(said) == 2
    # Several in one statement: only the first may use up the time.
    both = slow.execute(
        "SELECT count(*) FROM generate_series(1, 3), vectuned.search('items', %s, 10, '{\"kind\": 2}')",
        (text(QUERY),),
    ).fetchone()
    assert both == (0,)


def test_search_that_a_user_cancels_fails(slow: Connection, conn: Connection) -> None:
    slow.execute("SET statement_timeout = 0")
    conn.execute(
        "CREATE OR REPLACE FUNCTION public.visible(bigint) RETURNS boolean LANGUAGE plpgsql COST 1 AS "
        "'BEGIN PERFORM pg_cancel_backend(pg_backend_pid()); PERFORM pg_sleep(10); RETURN true; END'"
    )
    with pytest.raises(errors.QueryCanceled):
        slow.execute("SELECT id FROM vectuned.search('items', %s, 10, '{\"kind\": 2}')", (text(QUERY),))
