"""`client.tune(..., record=)`: what an application executes reaches the daemon, over every driver."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from pgvector.psycopg import register_vector
from tests.integration.daemon.observe.test_observe import SEARCH, calls, dsn_of, fill
from tests.integration.table_helpers import text

from vectuned import client
from vectuned.config.sections import ObserveSettings
from vectuned.daemon.observe.job import ObserveJob
from vectuned.sql.client.snapshot import Snapshot

Connection = psycopg.Connection[Any]

COUNT = 5
PACKAGES = Path(__file__).parents[4] / ".pkg"
PYFORMAT = SEARCH.replace("$2", "%(category)s").replace("$1", "%(vector)s::vector")


@pytest.fixture
def conn(conn: Connection) -> Connection:
    fill(conn)
    conn.execute("SELECT vectuned.enable('docs', 'embedding')")
    return conn


def searches() -> list[dict[str, str]]:
    return [{"vector": vector, "category": category} for _, (vector, category) in calls(COUNT)]


def taken(conn: Connection, snapshot: Snapshot) -> list[tuple[str, str, str]]:
    """Wait until all was sent, let the daemon take it, and return the queries and conditions stored."""
    assert snapshot.recorder is not None
    deadline = time.monotonic() + 300
    while snapshot.recorder.counts["taken"] < COUNT and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ObserveJob(conn, ObserveSettings()).run() == COUNT
    return conn.execute(
        "SELECT query::text, condition, source FROM vectuned.trajectory ORDER BY 1, 2"
    ).fetchall()


def expected(conn: Connection) -> list[tuple[Any, ...]]:
    vectors = [each["vector"] for each in searches()]
    categories = [each["category"] for each in searches()]
    return conn.execute(
        "SELECT v::vector::text, format('(t.category = %%L::text)', c), 'client' "
        "FROM unnest(%s::text[], %s::text[]) AS u (v, c) ORDER BY 1, 2",
        (vectors, categories),
    ).fetchall()


def test_record_takes_statements_of_psycopg(conn: Connection) -> None:
    with psycopg.connect(dsn_of(conn), autocommit=True) as application:
        snapshot = client.tune(application, dsn=dsn_of(conn), record=1.0, snapshot=Snapshot())
        application.execute("SELECT count(*) FROM docs WHERE id > %s", (5,))
        for each in searches():
            application.execute(PYFORMAT, each).fetchall()
        assert taken(conn, snapshot) == expected(conn)


def test_record_sends_what_a_short_process_recorded(conn: Connection) -> None:
    script = f"""
import psycopg
from vectuned import client
with psycopg.connect({dsn_of(conn)!r}, autocommit=True) as conn:
    client.tune(conn, dsn={dsn_of(conn)!r}, record=1.0)
    for each in {searches()!r}:
        conn.execute({PYFORMAT!r}, each)
"""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGES)}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=300)
    assert ObserveJob(conn, ObserveSettings()).run() == COUNT


def test_record_takes_vectors_of_numpy_and_positional_values(conn: Connection) -> None:
    sent = SEARCH.replace("$2", "%s").replace("$1", "%s")
    with psycopg.connect(dsn_of(conn), autocommit=True) as application:
        register_vector(application)
        snapshot = client.tune(application, dsn=dsn_of(conn), record=1.0, snapshot=Snapshot())
        for each in searches():
            vector = np.array(each["vector"][1:-1].split(","), dtype=np.float32)
            assert text(vector)
            application.execute(sent, (each["category"], vector)).fetchall()
        assert taken(conn, snapshot) == expected(conn)


def test_record_takes_statements_of_psycopg2(conn: Connection) -> None:
    psycopg2 = pytest.importorskip("psycopg2")
    application = psycopg2.connect(dsn_of(conn))
    try:
        snapshot = client.tune(application, dsn=dsn_of(conn), record=1.0, snapshot=Snapshot())
        with application.cursor() as cursor:
            for each in searches():
                cursor.execute(PYFORMAT, each)
                cursor.fetchall()
        assert taken(conn, snapshot) == expected(conn)
    finally:
        application.close()


def test_record_takes_statements_of_asyncpg(conn: Connection) -> None:
    asyncpg = pytest.importorskip("asyncpg")

    async def search() -> Snapshot:
        info = conn.info
        application = await asyncpg.connect(
            host=info.host, port=info.port, user=info.user, database=info.dbname
        )
        snapshot = client.tune(application, dsn=dsn_of(conn), record=1.0, snapshot=Snapshot())
        sent = SEARCH.replace("$1", "$1::text::vector")
        for each in searches():
            await application.fetch(sent, each["vector"], each["category"])
        await application.close()
        return snapshot

    assert taken(conn, asyncio.run(search())) == expected(conn)


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_record_takes_statements_of_async_engines(conn: Connection, driver: str) -> None:
    sqlalchemy_async = pytest.importorskip("sqlalchemy.ext.asyncio")
    pytest.importorskip(driver)
    from sqlalchemy import text as sql_text

    async def search() -> Snapshot:
        info = conn.info
        address = f"postgresql+{driver}://{info.user}@/{info.dbname}?host={info.host}&port={info.port}"
        engine = sqlalchemy_async.create_async_engine(address)
        snapshot = client.tune(engine, dsn=dsn_of(conn), record=1.0, snapshot=Snapshot())
        sent = SEARCH.replace("$2", ":category").replace("$1", "CAST(CAST(:vector AS text) AS vector)")
        async with engine.connect() as connection:
            await connection.execute(sql_text("SELECT count(*) FROM docs WHERE id > :id"), {"id": 5})
            for each in searches():
                assert len((await connection.execute(sql_text(sent), each)).fetchall()) == 10
        await engine.dispose()
        return snapshot

    assert taken(conn, asyncio.run(search())) == expected(conn)


def test_record_records_nothing_by_default_and_needs_a_connection_of_its_own(conn: Connection) -> None:
    with psycopg.connect(dsn_of(conn), autocommit=True) as application:
        assert client.tune(application, snapshot=Snapshot()).recorder is None
        with pytest.raises(ValueError, match="record needs the dsn"):
            client.tune(application, record=0.1)
        with pytest.raises(ValueError, match="share of the statements"):
            client.tune(application, dsn=dsn_of(conn), record=2, snapshot=Snapshot())


def test_record_where_nothing_takes_it_leaves_statements_alone(plain_conn: Connection) -> None:
    """Without vectuned in the database, statements run, and a counter says that nothing was recorded."""
    fill(plain_conn)
    with psycopg.connect(dsn_of(plain_conn), autocommit=True) as application:
        snapshot = client.tune(application, dsn=dsn_of(plain_conn), record=1.0, snapshot=Snapshot())
        for each in searches():
            assert len(application.execute(PYFORMAT, each).fetchall()) == 10
        deadline = time.monotonic() + 300
        while not snapshot.counters.failures.get("record") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert snapshot.counters.failures["record"] >= 1
