"""Tables to recognise statements over, and what recognition found."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql
from tests.integration.table_helpers import raw

from vectuned.learning.statements.calls import Call, TextCall
from vectuned.learning.statements.recognition import Recognizer

Connection = psycopg.Connection[Any]


TABLES = """
CREATE SCHEMA app;
CREATE TABLE app."My Docs" (
    id int PRIMARY KEY, embedding vector(3), half halfvec(3), category text, "Odd Col" text, meta jsonb,
    tags text[], n int, made date, price numeric, score float8, at timestamptz, ok boolean, kind varchar(10),
    spot point);
INSERT INTO app."My Docs"
SELECT i, ARRAY[i, 1, i % 7]::vector, ARRAY[i, 1, i % 7]::halfvec, 'c' || i % 5, 'o' || i % 3,
       jsonb_build_object('a', i % 3, 'b', jsonb_build_object('c', i)), ARRAY['x' || i % 4], i,
       date '2024-01-01' + i, i, i, now(), true, 'k' || i % 4, point(i, i) FROM generate_series(1, 100) i;
CREATE INDEX ON app."My Docs" USING hnsw (embedding vector_cosine_ops);
CREATE TABLE app.people (id int PRIMARY KEY, name text);
CREATE TABLE app.parts (id int, embedding vector(3), n int) PARTITION BY RANGE (n);
CREATE TABLE app.parts_1 PARTITION OF app.parts FOR VALUES FROM (0) TO (10);
CREATE TABLE app.parts_2 PARTITION OF app.parts FOR VALUES FROM (10) TO (20);
CREATE VIEW app.recent AS SELECT * FROM app."My Docs" WHERE n > 5;
ANALYZE;
"""


DOCS = '"My Docs"'
VECTOR = "[1,2,3]"
BY = "ORDER BY embedding <=> $1 LIMIT 5"


def recognize(conn: Connection, text: str, *values: str | None) -> Call | TextCall | None:
    """Recognise a text twice, with the same result."""
    recognizer = Recognizer(conn)
    first = recognizer.recognize(text, values)
    planned = recognizer.planned
    second = recognizer.recognize(text, values)
    assert type(first) is type(second)
    if isinstance(first, Call) and isinstance(second, Call):
        assert (first.condition, first.shape, first.k) == (second.condition, second.shape, second.k)
        assert recognizer.planned <= planned + 1
    assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert conn.execute(
        "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE '\\_vec%'"
    ).fetchone() == (0,)
    return first


def call(conn: Connection, text: str, *values: str | None) -> Call:
    found = recognize(conn, text, *values)
    assert isinstance(found, Call), found
    assert found.vector.dtype == "float32"
    return found


def reason(conn: Connection, text: str, *values: str | None) -> str:
    found = recognize(conn, text, *values)
    assert isinstance(found, TextCall), found
    return found.reason


def rows_of(conn: Connection, found: Call) -> set[int]:
    """Return the ids of the rows that meet a call's condition, read with another search_path."""
    with conn.transaction():
        conn.execute("SET LOCAL search_path = pg_catalog")
        relation = sql.Identifier(found.schema, found.table)
        statement = sql.SQL("SELECT t.id FROM {} AS t WHERE {}").format(
            relation, raw(found.condition or "true")
        )
        return {row[0] for row in conn.execute(statement).fetchall()}
