"""Tuned engines of SQLAlchemy with every driver, against a real server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from tests.integration.client_helpers import DEFAULT, FOREIGN, QUERY, prepare, publish
from tests.integration.table_helpers import Connection

from vectuned import client
from vectuned.sql.client.snapshot import Snapshot

# With the casts that SQLAlchemy needs for asyncpg.
SEARCH = (
    "SELECT id, current_setting('hnsw.ef_search') AS ef FROM items "
    "WHERE 1 / (kind + CAST(:divisor AS int)) >= 0 ORDER BY embedding <=> CAST(:query AS vector) LIMIT :k"
)
VALUES = {"divisor": 1, "query": QUERY, "k": 5}
FAILING = {**VALUES, "divisor": 0}
DRIVERS = {"psycopg": "psycopg", "psycopg2": "psycopg2", "asyncpg": "asyncpg", "psycopg_async": "psycopg"}


def url(conn: Connection, driver: str) -> str:
    host = f"?host={conn.info.host}&port={conn.info.port}"
    return f"postgresql+{driver}://{conn.info.user}@/{conn.info.dbname}{host}"


def set_up(conn: Connection) -> None:
    column = prepare(conn)
    publish(conn, column, SEARCH, {"hnsw.ef_search": "80"})


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_sync_engines_send_settings_and_leave_none_behind(conn: Connection, driver: str) -> None:
    pytest.importorskip(driver, reason=f"{driver} is not installed")
    set_up(conn)
    engine = create_engine(url(conn, driver))
    snapshot = client.tune(engine)
    assert client.tune(engine) is snapshot  # twice does no harm
    with engine.connect() as connection:
        for _ in range(7):
            assert connection.execute(text(SEARCH), VALUES).first()[1] == "80"  # type: ignore[index]
            assert connection.scalar(text(FOREIGN)) == DEFAULT
        with pytest.raises(DBAPIError), connection.begin_nested():
            connection.execute(text(SEARCH), FAILING)
        assert connection.scalar(text(FOREIGN)) == DEFAULT
        connection.rollback()
        stream = connection.execution_options(stream_results=True)
        assert stream.execute(text(SEARCH), VALUES).first()[1] == DEFAULT  # type: ignore[index]
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        assert connection.execute(text(SEARCH), VALUES).first()[1] == "80"  # type: ignore[index]
        assert connection.scalar(text(FOREIGN)) == DEFAULT
    assert snapshot.counters.tuned == 9
    engine.dispose()


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_async_engines_send_settings_and_leave_none_behind(conn: Connection, driver: str) -> None:
    pytest.importorskip(driver, reason=f"{driver} is not installed")
    set_up(conn)

    async def run() -> None:
        engine = create_async_engine(url(conn, driver))
        snapshot = client.tune(engine, snapshot=Snapshot())

        async def in_force(connection: Any, values: Any = VALUES) -> Any:
            return (await connection.execute(text(SEARCH), values)).first()[1]

        async with engine.connect() as connection:
            for _ in range(7):
                assert await in_force(connection) == "80"
                assert await connection.scalar(text(FOREIGN)) == DEFAULT
            with pytest.raises(DBAPIError):
                async with connection.begin_nested():
                    await in_force(connection, FAILING)
            assert await connection.scalar(text(FOREIGN)) == DEFAULT
            await connection.rollback()
            assert await connection.scalar(text(FOREIGN)) == DEFAULT
        assert snapshot.counters.tuned >= 7
        assert snapshot.counters.failures == {}
        async with engine.connect() as connection:
            plain = await connection.execution_options(isolation_level="AUTOCOMMIT")
            # asyncpg has no pipelines: outside of a transaction, settings of one statement cannot be local.
            assert await in_force(plain) == ("80" if driver == "psycopg" else DEFAULT)
            assert await plain.scalar(text(FOREIGN)) == DEFAULT
        if driver == "asyncpg":
            assert snapshot.counters.untouched == {"autocommit": 1}
        await engine.dispose()

    asyncio.run(run())


def test_tune_refuses_engines_of_other_databases() -> None:
    with pytest.raises(TypeError, match=r"sqlite\+pysqlite"):
        client.tune(create_engine("sqlite://"))
