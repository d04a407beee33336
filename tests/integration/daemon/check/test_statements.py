"""Statements of pg_stat_statements as `vectuned check` reads and plans them, on a server that has it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from tests.integration.embedded_helpers import FAST, copy_home, open_folder
from tests.integration.table_helpers import clustered, raw, text

from vectuned.daemon.check.check import check
from vectuned.daemon.check.report import Report
from vectuned.daemon.console import Console
from vectuned.daemon.server.embedded import EmbeddedServer

Connection = psycopg.Connection[Any]

ROWS, DIMENSIONS = 12_000, 8
QUERY = text([0.1] * DIMENSIONS)


@pytest.fixture(scope="module")
def conn() -> Iterator[Connection]:
    settings = {**FAST, "shared_preload_libraries": "pg_stat_statements"}
    with (
        open_folder() as folder,
        EmbeddedServer(copy_home(folder), settings=settings) as server,
        psycopg.connect(server.dsn, autocommit=True) as conn,
    ):
        conn.execute("CREATE EXTENSION vector")
        conn.execute("CREATE EXTENSION pg_stat_statements")
        conn.execute(
            raw(f"CREATE TABLE items (id int PRIMARY KEY, category text, embedding vector({DIMENSIONS}))")
        )
        with conn.cursor() as cursor, cursor.copy("COPY items FROM STDIN") as copy:
            for number, vector in enumerate(clustered(ROWS, DIMENSIONS, seed=3)):
                copy.write_row((number, f"c{number % 3}", text(vector)))
        conn.execute("CREATE INDEX items_hnsw ON items USING hnsw (embedding vector_cosine_ops)")
        conn.execute("ANALYZE items")
        yield conn


def checked(conn: Connection, *statements: str) -> Report:
    conn.execute("SELECT pg_stat_statements_reset()")
    for statement in statements:
        conn.execute(raw(statement), prepare=False)
    return check(conn, Console(as_json=True), seconds=0.0, target=0.95)


def test_check_plans_the_statements_in_use(conn: Connection) -> None:
    report = checked(
        conn,
        f"SELECT id FROM items ORDER BY embedding <=> '{QUERY}' LIMIT 10",
        f"SELECT id FROM items ORDER BY 1 - (embedding <=> '{QUERY}') DESC LIMIT 10",
        f"SELECT id FROM items ORDER BY embedding <-> '{QUERY}' LIMIT 10",
        "SELECT count(*) FROM items",
    )
    plans = {statement.text: statement.plan for statement in report.statements}
    assert len(plans) == 3
    assert sorted(str(plan) for plan in plans.values()) == [
        "exact, every row read",
        "exact, every row read",
        "index items_hnsw",
    ]
    found = [f.message for f in report.findings if f.code == "statement-without-index"]
    assert sorted("descending" in message for message in found) == [False, True]
    assert not report.is_healthy


def test_check_sees_a_filter_behind_the_index(conn: Connection) -> None:
    report = checked(
        conn, f"SELECT id FROM items WHERE category = 'c1' ORDER BY embedding <=> '{QUERY}' LIMIT 10"
    )
    (statement,) = report.statements
    assert statement.plan == "index items_hnsw"
    assert "category" in statement.filters[0]
    assert [f.code for f in report.findings if f.subject == statement.short] == ["filter-after-index"]


def test_check_runs_no_statement_that_it_plans(conn: Connection) -> None:
    conn.execute("CREATE SEQUENCE IF NOT EXISTS touched")
    report = checked(
        conn, f"SELECT nextval('touched'), id FROM items ORDER BY embedding <=> '{QUERY}' LIMIT 1"
    )
    assert report.statements[0].plan == "index items_hnsw"
    assert conn.execute("SELECT last_value FROM touched").fetchone() == (1,)


def test_check_says_why_a_statement_cannot_be_planned(conn: Connection) -> None:
    conn.execute("CREATE TABLE gone AS SELECT * FROM items LIMIT 10")
    conn.execute("SELECT pg_stat_statements_reset()")
    conn.execute(raw(f"SELECT id FROM gone ORDER BY embedding <=> '{QUERY}' LIMIT 1"), prepare=False)
    conn.execute("DROP TABLE gone")
    (statement,) = check(conn, Console(as_json=True), seconds=0.0, target=0.95).statements
    assert statement.plan is None
    assert statement.unplanned == 'relation "gone" does not exist'
    assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
