"""Tuned connections of asyncpg against a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.integration.client_helpers import DEFAULT, FOREIGN, QUERY, prepare, search
from tests.integration.table_helpers import Connection

from vectuned import client
from vectuned.sql.client.snapshot import Snapshot

asyncpg = pytest.importorskip("asyncpg", reason="asyncpg is not installed")

VALUES = (1, QUERY, 5)
FAILING = (0, QUERY, 5)


def options(conn: Connection) -> dict[str, Any]:
    return {
        "host": conn.info.host,
        "port": conn.info.port,
        "user": conn.info.user,
        "database": conn.info.dbname,
    }


def run(conn: Connection, work: Callable[[Any, Snapshot], Awaitable[None]]) -> None:
    """Run something with a tuned connection."""

    async def connected() -> None:
        connection = await asyncpg.connect(**options(conn))
        try:
            await work(connection, await client.tune_async(connection, snapshot=Snapshot()))
        finally:
            await connection.close()

    asyncio.run(connected())


async def in_force(connection: Any, values: Any = VALUES) -> Any:
    return (await connection.fetchrow(search("$"), *values))["ef"]


def test_statements_are_sent_with_settings_and_leave_none_behind(conn: Connection) -> None:
    async def work(connection: Any, snapshot: Snapshot) -> None:
        for _ in range(7):
            assert await in_force(connection) == "80"
            assert await connection.fetchval(FOREIGN) == DEFAULT
        assert [row["ef"] for row in await connection.fetch(search("$"), *VALUES)] == ["80"] * 5
        assert await connection.fetchval(search("$"), *VALUES, column=1) == "80"
        assert snapshot.counters.tuned == 9

    prepare(conn)
    run(conn, work)


def test_transactions_get_back_what_was_in_force(conn: Connection) -> None:
    async def work(connection: Any, snapshot: Snapshot) -> None:
        async with connection.transaction():
            await connection.execute("SET LOCAL hnsw.ef_search = 55")
            assert await in_force(connection) == "80"
            assert await connection.fetchval(FOREIGN) == "55"
            with pytest.raises(asyncpg.DivisionByZeroError):
                async with connection.transaction():
                    await in_force(connection, FAILING)
            assert await connection.fetchval(FOREIGN) == "55"
        assert await connection.fetchval(FOREIGN) == DEFAULT

    prepare(conn)
    run(conn, work)


def test_errors_are_raised_and_leave_nothing(conn: Connection) -> None:
    async def work(connection: Any, snapshot: Snapshot) -> None:
        with pytest.raises(asyncpg.DivisionByZeroError):
            await in_force(connection, FAILING)
        assert not connection.is_in_transaction()
        with pytest.raises(asyncio.TimeoutError):
            await connection.fetch(
                search("$").replace("WHERE", "WHERE pg_sleep(1) IS NOT NULL AND"), *VALUES, timeout=0.01
            )
        assert await connection.fetchval(FOREIGN) == DEFAULT
        assert await in_force(connection) == "80"

    prepare(conn)
    run(conn, work)


def test_pools_tune_all_their_connections(conn: Connection) -> None:
    async def pooled() -> None:
        async with asyncpg.create_pool(**options(conn), min_size=1, max_size=3) as pool:
            snapshot = await client.tune_async(pool, snapshot=Snapshot())
            assert set(await asyncio.gather(*[in_force(pool) for _ in range(6)])) == {"80"}
            assert snapshot.counters.tuned == 6
            assert await pool.fetchval(FOREIGN) == DEFAULT

    prepare(conn)
    asyncio.run(pooled())


def test_statement_goes_out_as_it_came_where_there_is_no_table(plain_conn: Connection) -> None:
    async def work(connection: Any, snapshot: Snapshot) -> None:
        assert await connection.fetchval("SELECT 1") == 1
        assert snapshot.counters.failures == {"no table to read": 1}

    run(plain_conn, work)
