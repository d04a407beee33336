"""vectuned.client with psycopg, SQLAlchemy and Django, against a real server."""

from __future__ import annotations

import array
import asyncio
import subprocess
import sys
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import psycopg
import pytest
from psycopg.rows import dict_row
from sqlalchemy import BigInteger, create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import NullPool
from tests.integration.embedded_helpers import PACKAGE
from tests.integration.table_helpers import (
    Connection,
    build,
    clustered,
    enable,
    make,
    one,
    search,
    search_filtered,
    text,
)

from vectuned import client
from vectuned.learning.model.vectors import Vector

DIMENSIONS = 8
QUERY = clustered(1, DIMENSIONS, seed=7)[0]


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "items"
    __table_args__ = {"schema": "public"}  # noqa: RUF012 - as SQLAlchemy has it
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    kind: Mapped[int]


class Pair(Base):
    __tablename__ = "pairs"
    one: Mapped[int] = mapped_column(primary_key=True)
    two: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture
def items(conn: Connection) -> Connection:
    make(conn, clustered(300, DIMENSIONS, seed=1), index=False)
    conn.execute("ALTER TABLE items ADD COLUMN kind int; UPDATE items SET kind = id % 3; ANALYZE items")
    build(conn)
    enable(conn, sample_rate=1.0)
    return conn


def uri(conn: Connection) -> str:
    return f"postgresql+psycopg://{conn.info.user}@/{conn.info.dbname}?host={conn.info.host}&port={conn.info.port}"


@pytest.mark.parametrize(
    "query",
    [QUERY, QUERY.tolist(), tuple(QUERY.tolist()), text(QUERY), Vector(QUERY), array.array("f", QUERY)],
    ids=lambda query: type(query).__name__,
)
def test_search_takes_vectors_of_any_type(items: Connection, query: Any) -> None:
    # query is Any because some of these types are not a Sequence[float].
    hits = client.search(items, "items", query, 5)
    assert [hit.id for hit in hits] == [hit[0] for hit in search(items, QUERY, 5)]
    assert all(isinstance(hit.query_id, UUID) for hit in hits)
    assert np.all(np.diff([hit.distance for hit in hits]) >= 0)


def test_search_filters_and_record_feedback_stores(items: Connection) -> None:
    with psycopg.connect(items.info.dsn, autocommit=True, row_factory=dict_row) as conn:
        hits = client.search(conn, "public.items", QUERY, 4, {"kind": 1}, "embedding")
        assert [hit.id for hit in hits] == [hit[0] for hit in search_filtered(items, QUERY, 4, {"kind": 1})]
        rows = client.search_rows(conn, 'public."items"', QUERY, 4, {"kind": 1})
        assert [(str(row["id"]), row["kind"]) for row in rows] == [(hit.id, 1) for hit in hits]
        query_id = hits[0].query_id
        assert client.record_feedback(conn, query_id, [hits[0].id], [int(hits[1].id)]) == "recorded"
        assert client.record_feedback(conn, str(uuid4())) in ("unknown", "unsampled")
    found = items.execute("SELECT query_id, relevant, irrelevant FROM vectuned.feedback").fetchone()
    assert found == (query_id, [hits[0].id], [hits[1].id])


def test_async_functions_return_the_same_rows(items: Connection) -> None:
    async def search_async() -> None:
        async with await psycopg.AsyncConnection.connect(items.info.dsn, autocommit=True) as conn:
            hits = await client.search_async(conn, "items", QUERY, 3)
            assert [hit.id for hit in hits] == [hit[0] for hit in search(items, QUERY, 3)]
            rows = await client.search_rows_async(conn, "items", QUERY, 3)
            assert [str(row[0]) for row in rows] == [hit.id for hit in hits]
            assert await client.record_feedback_async(conn, hits[0].query_id, [hits[0].id]) == "recorded"

    asyncio.run(search_async())


def test_select_nearest_returns_mapped_instances(items: Connection) -> None:
    engine = create_engine(uri(items), poolclass=NullPool)
    expected = [int(hit[0]) for hit in search_filtered(items, QUERY, 5, {"kind": 2})]
    statement = client.select_nearest(Item, QUERY, 5, {"kind": 2})
    with Session(engine) as session:
        found = session.execute(statement).all()
    assert [item.id for item, _, _ in found] == expected
    assert {item.kind for item, _, _ in found} == {2}
    assert found[0].query_id is not None
    items.execute("SET enable_hashjoin = off; SET enable_mergejoin = off")  # as for a table that is not tiny
    plan = items.execute(
        "EXPLAIN SELECT i.* FROM items i JOIN vectuned.search('items', %s) h ON i.id = h.id::bigint",
        (text(QUERY),),
    ).fetchall()
    assert any("items_pkey" in line[0] for line in plan)

    async def search_async() -> list[int]:
        engine = create_async_engine(uri(items), poolclass=NullPool)
        async with engine.connect() as conn:
            return [row[0] for row in await conn.execute(statement)]

    assert asyncio.run(search_async()) == expected
    with pytest.raises(ValueError, match=r"the key \(one, two\)"):
        client.select_nearest(Pair, QUERY)


def test_search_statement_runs_on_a_django_cursor(items: Connection) -> None:
    django = pytest.importorskip("django", reason="Django is not installed")
    from django.conf import settings
    from django.db import connection

    database = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": items.info.dbname,
        "USER": items.info.user,
        "HOST": items.info.host,
        "PORT": str(items.info.port),
    }
    settings.configure(DATABASES={"default": database}, USE_TZ=True)
    django.setup()
    try:
        with connection.cursor() as cursor:
            cursor.execute(*client.search_statement("items", QUERY, 5, {"kind": 0}))
            found = [row[0] for row in cursor.fetchall()]
    finally:
        connection.close()
    assert found == [hit[0] for hit in search_filtered(items, QUERY, 5, {"kind": 0})]


@pytest.mark.parametrize(
    "relation",
    [
        "",
        "items; DROP TABLE items",
        "items)--",
        '"items',
        "a.b.c",
        "items\0",
        "1items",
        "it ems",
        "%s",
        "a.%(x)s",
    ],
)
def test_search_rows_rejects_invalid_table_names(items: Connection, relation: str) -> None:
    with pytest.raises(ValueError, match="not a table name"):
        client.search_rows(items, relation, QUERY)
    with pytest.raises((psycopg.Error, ValueError)):
        client.search(items, relation, QUERY)
    assert one(items, "SELECT count(*) FROM items") == 300


def test_search_accepts_quoted_table_names(conn: Connection) -> None:
    conn.execute('CREATE TABLE "Odd % ""Name"" %s" (id int PRIMARY KEY, embedding vector(2))')
    conn.execute("""INSERT INTO "Odd % ""Name"" %s" VALUES (1, '[1,0]'), (2, '[0,1]')""")
    conn.execute('CREATE INDEX ON "Odd % ""Name"" %s" USING hnsw (embedding vector_cosine_ops)')
    name = '"Odd % ""Name"" %s"'
    conn.execute("SELECT vectuned.enable(%s::regclass, 'embedding')", (name,))
    assert [hit.id for hit in client.search(conn, name, [1, 0.1])] == ["1", "2"]
    assert [row[0] for row in client.search_rows(conn, name, [0.1, 1])] == [2, 1]


def imported_modules(module: str) -> set[str]:
    """Return what importing a module adds to sys.modules of a fresh interpreter."""
    code = (
        "import sys; before = set(sys.modules);"
        f"import {module}; print(*sorted(set(sys.modules) - before), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(PACKAGE.parent)},
    )
    return set(done.stdout.split())


LIGHT = {
    "vectuned.sql",
    "vectuned.sql.client",
    "vectuned.sql.client.fingerprint",
    "vectuned.sql.client.recording",
    "vectuned.sql.client.search",
    "vectuned.sql.client.snapshot",
    "vectuned.sql.client.tuning",
    "vectuned.sql.client.values",
}


@pytest.mark.parametrize("module", ["vectuned.client", "vectuned.sql.client.search"])
def test_client_imports_only_the_standard_library(module: str) -> None:
    added = imported_modules(module)
    assert module in added
    ours = {name for name in added if name.partition(".")[0] == "vectuned"}
    assert ours <= {"vectuned", "vectuned.client", *LIGHT}
    assert {name.partition(".")[0] for name in added - ours} <= set(sys.stdlib_module_names)


def test_client_works_in_a_process_that_has_only_psycopg(items: Connection) -> None:
    code = f"""
import sys
import psycopg
from vectuned import client

dsn, query = sys.argv[1:]
with psycopg.connect(dsn) as conn:
    client.tune(conn)
    print(*(hit.id for hit in client.search(conn, "items", query, 3)))
packages = {{name.partition(".")[0] for name in sys.modules}}
heavy = {{"numpy", "scipy", "sklearn", "hnswlib", "apscheduler", "pydantic", "pydantic_settings", "rich"}}
assert not packages & heavy, packages & heavy
folders = {{name for name in sys.modules if name.startswith("vectuned.")}}
light = {LIGHT!r}
assert folders <= light | {{"vectuned.client", "vectuned.sql.client.for_psycopg"}}, folders
"""
    done = subprocess.run(
        [sys.executable, "-c", code, items.info.dsn, text(QUERY)],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(PACKAGE.parent)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [hit[0] for hit in search(items, QUERY, 3)]


def test_client_exports_the_same_objects_under_both_names() -> None:
    from vectuned.sql.client import search as searches
    from vectuned.sql.client import tuning

    for original in (searches, tuning):
        functions = {
            name: value
            for name, value in vars(original).items()
            if callable(value) and getattr(value, "__module__", None) == original.__name__ and name[0] != "_"
        }
        assert functions.items() <= vars(client).items()
        assert set(functions) <= set(client.__all__)
