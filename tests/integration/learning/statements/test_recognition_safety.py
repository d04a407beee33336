"""Recognising a statement never runs code of others, needs SELECT alone, and leaves the session as it was."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from tests.integration.recognition_helpers import BY, DOCS, VECTOR, Connection, call, reason, recognize
from tests.integration.table_helpers import raw

from vectuned.learning.statements.calls import Call, TextCall
from vectuned.learning.statements.recognition import Recognizer

EVIL = """
CREATE TABLE app.hits (at timestamptz DEFAULT clock_timestamp());
CREATE SEQUENCE app.runs;
CREATE FUNCTION app.evil(x int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
    $$BEGIN PERFORM nextval('app.runs'); RETURN x; END$$;
CREATE FUNCTION app.evil_row(d app."My Docs") RETURNS int IMMUTABLE LANGUAGE plpgsql AS
    $$BEGIN PERFORM nextval('app.runs'); RETURN 1; END$$;
CREATE OPERATOR app.@@@ (LEFTARG = int, RIGHTARG = int, FUNCTION = app.evil2);
"""


@pytest.mark.parametrize(
    ("definitions", "condition", "named"),
    [
        ("", "app.evil(1) = n", "the function evil"),
        ("", '"evil" (1) = n', "the function evil"),
        ("", f"{DOCS}.evil_row = n", "the function evil_row"),
        (
            "CREATE FUNCTION app.cmp(a int, b int) RETURNS bool IMMUTABLE LANGUAGE plpgsql AS"
            " 'BEGIN PERFORM nextval(''app.runs''); RETURN true; END';"
            "CREATE OPERATOR app.@@@ (LEFTARG = int, RIGHTARG = int, FUNCTION = app.cmp)",
            "1 @@@ 2",
            "the operator @@@",
        ),
        (
            "CREATE FUNCTION app.like_it(a int, b int) RETURNS bool IMMUTABLE LANGUAGE plpgsql AS"
            " 'BEGIN PERFORM nextval(''app.runs''); RETURN true; END';"
            "CREATE OPERATOR app.~~ (LEFTARG = int, RIGHTARG = int, FUNCTION = app.like_it)",
            "1 LIKE 2",
            "the operator ~~",
        ),
        (
            "CREATE TYPE app.mood AS ENUM ('a');"
            "CREATE FUNCTION app.to_int(m app.mood) RETURNS int IMMUTABLE LANGUAGE plpgsql AS"
            " 'BEGIN PERFORM nextval(''app.runs''); RETURN 1; END';"
            "CREATE CAST (app.mood AS int) WITH FUNCTION app.to_int(app.mood) AS IMPLICIT",
            "'a'::mood + 1 = 2",
            "the type mood",
        ),
        ("CREATE DOMAIN app.small AS int CHECK (app.evil(value) < 5)", "1::small = n", "the type small"),
        ("", "table_to_xml('app.people', true, true, '') IS NULL", "the function table_to_xml"),
        ("", 'U&"\\0065vil"(1) = n', "a name with Unicode escapes"),
    ],
)
def test_recognize_never_calls_functions_that_are_not_trusted(
    conn: Connection, definitions: str, condition: str, named: str
) -> None:
    conn.execute("CREATE ROLE stranger")
    try:
        conn.execute(EVIL.rpartition("CREATE OPERATOR")[0])
        conn.execute(raw(definitions or "SELECT 1"))
        for routine in conn.execute(
            "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'app'::regnamespace"
        ):
            conn.execute(raw(f"ALTER FUNCTION {routine[0]} OWNER TO stranger"))
        found = recognize(conn, f"SELECT id FROM {DOCS} WHERE {condition} {BY}", VECTOR)
        assert isinstance(found, TextCall)
        assert found.reason == f"it may call what is not trusted: {named}"
        assert conn.execute("SELECT is_called FROM app.runs").fetchone() == (False,)
        # Other texts are planned as before.
        assert isinstance(recognize(conn, f"SELECT id FROM {DOCS} WHERE n = 1 {BY}", VECTOR), Call)
    finally:
        conn.execute("DROP SCHEMA app CASCADE")
        conn.execute("DROP ROLE stranger")


@pytest.mark.parametrize(
    ("definition", "relation"),
    [
        ("CREATE INDEX ON app.people ((id + app.evil(1)))", "people"),
        ("ALTER TABLE app.people ADD CHECK (app.evil(1) = 1)", "people"),
        ("CREATE VIEW app.looked AS SELECT * FROM app.people WHERE app.evil(1) = 1", "looked"),
        ("CREATE STATISTICS app.s ON (id + app.evil(1)) FROM app.people", "people"),
        ("CREATE POLICY p ON app.people USING (app.evil(1) = 1)", "people"),
        (
            "CREATE VIEW app.inner_view AS SELECT * FROM app.people WHERE app.evil(1) = 1;"
            "CREATE VIEW app.looked AS SELECT * FROM app.inner_view",
            "looked",
        ),
    ],
)
def test_recognize_never_plans_tables_that_call_functions_of_others(
    conn: Connection, definition: str, relation: str
) -> None:
    conn.execute("CREATE ROLE stranger")
    try:
        conn.execute(EVIL.rpartition("CREATE OPERATOR")[0])
        conn.execute("ALTER TABLE app.people ADD COLUMN embedding vector(3)")
        conn.execute(raw(definition))
        text = f"SELECT id FROM {relation} {BY}"
        found = recognize(conn, text, VECTOR)
        # Our own functions are called, and may do what a read-only transaction may.
        assert not isinstance(found, TextCall) or "read-only" in found.reason or relation == "looked"
        conn.execute("ALTER FUNCTION app.evil OWNER TO stranger")
        conn.execute("SELECT setval('app.runs', 1, false)")
        assert reason(conn, text, VECTOR) == f"it may call what is not trusted: the relation {relation}"
        assert conn.execute("SELECT is_called FROM app.runs").fetchone() == (False,)
    finally:
        conn.execute("DROP SCHEMA app CASCADE")
        conn.execute("DROP ROLE stranger")


def test_recognize_needs_only_select_and_says_where_it_is_missing(conn: Connection) -> None:
    conn.execute("CREATE ROLE reader LOGIN")
    try:
        conn.execute("GRANT USAGE ON SCHEMA app TO reader")
        conn.execute('GRANT SELECT ON app."My Docs" TO reader')
        with psycopg.connect(make_conninfo(conn.info.dsn, user="reader"), autocommit=True) as reader:
            reader.execute("SET search_path = app, public")
            reader.execute("SET default_transaction_read_only = on")
            assert call(reader, f"SELECT id FROM {DOCS} WHERE n > 1 {BY}", VECTOR).table == "My Docs"
            denied = reason(reader, f"SELECT id FROM parts {BY}", VECTOR)
            assert denied == "permission denied for table parts"
    finally:
        conn.execute("DROP OWNED BY reader")
        conn.execute("DROP ROLE reader")


def test_recognize_in_a_transaction_leaves_it_as_it_was(conn: Connection) -> None:
    with conn.transaction():
        recognizer = Recognizer(conn)
        assert isinstance(recognizer.recognize(f"SELECT id FROM nowhere {BY}", (VECTOR,)), TextCall)
        assert isinstance(
            recognizer.recognize(f"SELECT id FROM {DOCS} WHERE n = $2 {BY}", (VECTOR, "1")), Call
        )
        assert isinstance(recognizer.recognize(f"SELECT id FROM {DOCS} WHERE n = 1 {BY}", (VECTOR,)), Call)
        conn.execute("CREATE TABLE written (id int)")
        assert conn.execute("SHOW enable_indexscan").fetchone() == ("on",)


def test_recognize_raises_the_loss_of_the_connection(plain_database: str) -> None:
    conn = psycopg.connect(plain_database, autocommit=True)
    conn.close()
    with pytest.raises(psycopg.OperationalError):
        Recognizer(conn).recognize(f"SELECT id FROM x {BY}", (VECTOR,))
