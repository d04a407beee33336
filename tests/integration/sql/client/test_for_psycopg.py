"""Tuned cursors of psycopg 3 against a real server: what is in force during a statement, and after it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row
from tests.integration.client_helpers import (
    DEFAULT,
    EXACT,
    FOREIGN,
    QUERY,
    TUNED,
    prepare,
    publish,
    search,
)
from tests.integration.table_helpers import Connection, one, plain_role, scans

from vectuned import client
from vectuned.sql.client.snapshot import Snapshot

VALUES = (1, QUERY, 5)
FAILING = (0, QUERY, 5)  # divides by zero where kind is 0


@pytest.fixture
def tuned(conn: Connection) -> Iterator[Connection]:
    """A tuned connection in autocommit mode to a database with a statement that has settings."""
    prepare(conn)
    with psycopg.connect(conn.info.dsn, autocommit=True) as connection:
        client.tune(connection, snapshot=Snapshot())
        yield connection


def counters(conn: Connection) -> Any:
    return conn._vectuned.snapshot.counters  # type: ignore[attr-defined]


def in_force(conn: Connection, values: Any = VALUES, **options: Any) -> str:
    """Run the statement and return the ef_search it ran with."""
    row = conn.execute(search().encode(), values, **options).fetchone()
    assert row is not None
    return str(row[1])


def test_execute_sends_the_settings_and_leaves_none_behind(tuned: Connection) -> None:
    for _ in range(10):  # psycopg prepares it meanwhile
        assert in_force(tuned) == "80"
        assert one(tuned, FOREIGN) == DEFAULT
    assert counters(tuned).tuned == 10
    assert counters(tuned).untouched == {}
    saved = "SELECT current_setting('vectuned.saved', true)"
    assert one(tuned, saved) in (None, "")


@pytest.mark.parametrize("threshold", [0, 1, None])
@pytest.mark.parametrize("autocommit", [True, False])
def test_execute_works_with_statements_prepared_or_not(
    tuned: Connection, threshold: int | None, autocommit: bool
) -> None:
    tuned.prepare_threshold = threshold
    tuned.autocommit = autocommit
    for _ in range(4):
        assert in_force(tuned) == "80"
        assert one(tuned, FOREIGN) == DEFAULT
    assert in_force(tuned, prepare=True) == in_force(tuned, prepare=False) == "80"
    assert in_force(tuned, binary=True) == "80"


@pytest.mark.parametrize("form", ["text", "values", "bytes", "composed", "client", "raw", "dicts"])
def test_execute_recognises_the_statement_in_every_form(tuned: Connection, form: str) -> None:
    if form == "text":
        row = tuned.execute(search(), VALUES).fetchone()
    elif form == "values":
        row = tuned.execute(search("values")).fetchone()
    elif form == "bytes":
        row = tuned.execute(search().encode(), VALUES).fetchone()
    elif form == "composed":
        text = search().replace("items", "{table}").replace("%s::vector", "{query}::vector")
        query = sql.SQL(text).format(table=sql.Identifier("items"), query=sql.Literal(QUERY))
        # A quoted name is another text for the fingerprint.
        publish(tuned, 1, query.as_string(tuned), TUNED)
        counters(tuned)
        tuned._vectuned.snapshot.expire()  # type: ignore[attr-defined]
        row = tuned.execute(query, (1, 5)).fetchone()
    else:
        tuned.cursor_factory = {"client": psycopg.ClientCursor, "raw": psycopg.RawCursor}.get(
            form, psycopg.Cursor
        )
        if form == "dicts":
            tuned.row_factory = dict_row
        client.tune(tuned, snapshot=Snapshot())
        row = tuned.execute(search("$" if form == "raw" else "%s"), VALUES).fetchone()
    assert row is not None
    assert (row["ef"] if isinstance(row, dict) else row[1]) == "80"


def test_execute_in_a_transaction_puts_back_what_was_in_force(tuned: Connection) -> None:
    with tuned.transaction():
        assert in_force(tuned) == "80"
        assert one(tuned, FOREIGN) == DEFAULT
        tuned.execute("SET LOCAL hnsw.ef_search = 55")
        assert in_force(tuned) == "80"
        assert one(tuned, FOREIGN) == "55"
    assert one(tuned, FOREIGN) == DEFAULT
    with tuned.transaction():
        tuned.execute("SET hnsw.ef_search = 66")
        assert in_force(tuned) == "80"
        assert one(tuned, FOREIGN) == "66"
    assert one(tuned, FOREIGN) == "66"


def test_execute_leaves_nothing_after_rollback_and_savepoint(tuned: Connection) -> None:
    tuned.autocommit = False
    tuned.execute("SET LOCAL hnsw.ef_search = 55")
    tuned.execute("SAVEPOINT a")
    assert in_force(tuned) == "80"
    tuned.execute("ROLLBACK TO SAVEPOINT a")
    assert one(tuned, FOREIGN) == "55"
    assert in_force(tuned) == "80"
    tuned.execute("RELEASE SAVEPOINT a")
    assert one(tuned, FOREIGN) == "55"
    tuned.rollback()
    assert one(tuned, FOREIGN) == DEFAULT
    assert in_force(tuned) == "80"
    tuned.commit()
    assert one(tuned, FOREIGN) == DEFAULT


@pytest.mark.parametrize("autocommit", [True, False])
def test_execute_raises_the_statement_error_and_leaves_nothing(tuned: Connection, autocommit: bool) -> None:
    tuned.autocommit = autocommit
    with pytest.raises(psycopg.errors.DivisionByZero):
        in_force(tuned, FAILING)
    if not autocommit:
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            in_force(tuned)
        assert counters(tuned).untouched == {"failed transaction": 1}
    tuned.rollback()
    assert one(tuned, FOREIGN) == DEFAULT
    assert in_force(tuned) == "80"


def fail_in_a_pipeline(ours: psycopg.Cursor[Any], other: psycopg.Cursor[Any]) -> None:
    ours.execute(search(), FAILING)
    other.execute(FOREIGN)


@pytest.mark.parametrize("autocommit", [True, False])
def test_execute_in_a_pipeline_puts_back_before_the_next_statement(
    tuned: Connection, autocommit: bool
) -> None:
    tuned.autocommit = autocommit
    ours, other, again = tuned.cursor(), tuned.cursor(), tuned.cursor()
    with tuned.pipeline():
        ours.execute(search(), VALUES)
        other.execute(FOREIGN)
        again.execute(search(), VALUES)
    assert [row[1] for row in ours] == ["80"] * 5
    assert other.fetchone() == (DEFAULT,)
    assert again.fetchall()[0][1] == "80"
    tuned.commit()
    # The error comes with whatever reads the results next, which depends on how soon the server answers.
    with pytest.raises(psycopg.errors.DivisionByZero), tuned.pipeline():
        fail_in_a_pipeline(ours, other)
    tuned.rollback()
    assert one(tuned, FOREIGN) == DEFAULT


def test_execute_uses_the_first_settings_of_a_session_that_has_not_loaded_pgvector(conn: Connection) -> None:
    prepare(conn)
    for autocommit in (True, False):
        with psycopg.connect(conn.info.dsn, autocommit=autocommit) as fresh:
            client.tune(fresh, snapshot=Snapshot())
            assert in_force(fresh) == "80"
            assert one(fresh, FOREIGN) == DEFAULT


def test_exact_search_is_planned_without_index_even_after_a_generic_plan(tuned: Connection) -> None:
    publish(tuned, 1, search(), EXACT)
    tuned.prepare_threshold = 0
    untuned = Snapshot()
    own, tuned._vectuned.snapshot = tuned._vectuned.snapshot, untuned  # type: ignore[attr-defined]
    untuned.claim_refresh()
    for _ in range(8):  # the server has settled on a generic plan, by the index
        in_force(tuned)
    tuned._vectuned.snapshot = own  # type: ignore[attr-defined]
    own.expire()
    in_force(tuned)
    with scans(tuned) as counted:
        in_force(tuned)
    assert counted == {}
    assert one(tuned, "SELECT current_setting('enable_indexscan')") == "on"


def test_server_side_cursors_and_other_calls_are_untouched(tuned: Connection) -> None:
    with tuned.transaction(), tuned.cursor("named") as cursor:
        cursor.execute(search(), VALUES)
        assert [row[1] for row in cursor] == [DEFAULT] * 5
    plain = tuned.cursor()
    assert [row[1] for row in plain.stream(search(), VALUES)] == [DEFAULT] * 5
    plain.executemany(search(), [VALUES, VALUES], returning=True)
    assert plain.fetchall()[0][1] == DEFAULT


def test_foreign_statements_go_out_as_they_come(tuned: Connection) -> None:
    before = counters(tuned).tuned
    assert one(tuned, "SELECT 1") == 1
    assert one(tuned, "SELECT count(*) FROM items WHERE embedding <=> %s::vector < 3", QUERY) >= 0
    tuned.execute("SET work_mem = '8MB'; SET work_mem = '4MB'")
    assert counters(tuned).tuned == before
    with pytest.raises(psycopg.ProgrammingError):
        tuned.execute("SELECT %s", ())
    with pytest.raises(psycopg.errors.UndefinedTable):
        tuned.execute("SELECT * FROM nothing ORDER BY embedding <=> '[1]' LIMIT 1")


def test_settings_by_class_of_k_follow_the_limit(tuned: Connection) -> None:
    publish(tuned, 1, search(), {"hnsw.ef_search": "200"}, k_class=100)
    tuned._vectuned.snapshot.expire()  # type: ignore[attr-defined]
    assert in_force(tuned, (1, QUERY, 5)) == "80"
    assert in_force(tuned, (1, QUERY, 50)) == "200"
    assert in_force(tuned, (1, QUERY, 101)) == DEFAULT
    assert counters(tuned).untouched == {"more rows than proven": 1}


@pytest.mark.parametrize(
    "settings",
    [
        {"work_mem": "1GB"},
        {"hnsw.ef_search": "0"},
        {"hnsw.ef_search": "80'; DROP TABLE items; --"},
        {"enable_indexscan": "maybe"},
    ],
)
def test_settings_that_may_not_be_sent_are_counted(tuned: Connection, settings: dict[str, str]) -> None:
    publish(tuned, 1, search(), settings)
    tuned._vectuned.snapshot.expire()  # type: ignore[attr-defined]
    assert in_force(tuned) == DEFAULT
    assert counters(tuned).failures == {"invalid settings": 1}
    assert one(tuned, "SELECT count(*) FROM items") == 300


def test_settings_that_the_server_refuses_are_left_out(tuned: Connection) -> None:
    # As in a version of pgvector that does not know a value.
    assert in_force(tuned) == "80"
    known = tuned._vectuned.snapshot.find(search(), VALUES)  # type: ignore[attr-defined]
    object.__setattr__(known, "apply", known.apply.replace("relaxed_order", "no_order"))
    assert in_force(tuned) == DEFAULT
    assert counters(tuned).untouched == {"settings refused": 1}


@pytest.mark.parametrize("obstacle", ["no schema", "old schema", "no right", "read-only"])
def test_statement_goes_out_as_it_came_where_the_table_cannot_be_read(
    conn: Connection, database: str, obstacle: str
) -> None:
    column = prepare(conn)
    if obstacle == "no schema":
        conn.execute("DROP SCHEMA vectuned CASCADE")
    elif obstacle == "old schema":
        conn.execute("ALTER TABLE vectuned.statement DROP COLUMN settings CASCADE")
    elif obstacle == "no right":
        conn.execute("REVOKE USAGE ON SCHEMA vectuned FROM PUBLIC")
    assert column
    with plain_role(conn, database, "SELECT ON items") as reader:
        if obstacle == "read-only":
            reader.execute("SET default_transaction_read_only = on")
        snapshot = client.tune(reader, snapshot=Snapshot())
        row = reader.execute(search(), VALUES).fetchone()
        assert row is not None
        if obstacle == "read-only":
            assert row[1] == "80"
            assert snapshot.counters.failures == {}
        else:
            assert row[1] == DEFAULT
            assert snapshot.counters.failures == {"no table to read": 1}
            assert not snapshot.is_due


def test_snapshot_is_refreshed_by_age_and_by_notification(conn: Connection) -> None:
    column = prepare(conn)
    with psycopg.connect(conn.info.dsn, autocommit=True) as connection:
        snapshot = client.tune(connection, max_age=3600, snapshot=Snapshot())
        publish(conn, column, search(), {"hnsw.ef_search": "90"})
        assert in_force(connection) == "80"
        snapshot.expire()
        assert in_force(connection) == "90"
        client.tune(
            connection, dsn=f"{conn.info.dsn} application_name=listening", max_age=3600, snapshot=snapshot
        )
        listening = (
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE application_name = 'listening' AND query ~ 'vectuned.statement'"
        )
        wait_until(lambda: one(conn, listening) == 1)
        publish(conn, column, search(), {"hnsw.ef_search": "95"})
        wait_until(lambda: in_force(connection) == "95")


def test_locked_table_does_not_hold_up_the_application(conn: Connection) -> None:
    prepare(conn)
    with conn.transaction(), psycopg.connect(conn.info.dsn, autocommit=True) as connection:
        conn.execute("LOCK TABLE vectuned.statement")
        snapshot = client.tune(connection, snapshot=Snapshot())
        assert in_force(connection) == DEFAULT
        assert snapshot.counters.failures == {"no table to read": 1}
        assert one(connection, "SELECT current_setting('statement_timeout')") == "0"


def test_threads_that_share_a_connection_do_not_share_settings(tuned: Connection) -> None:
    def foreign() -> set[Any]:
        return {one(tuned, FOREIGN) for _ in range(300)}

    def ours() -> set[Any]:
        return {in_force(tuned) for _ in range(300)}

    in_force(tuned)
    with ThreadPoolExecutor(4) as pool:
        found = [(run, pool.submit(run)) for run in (foreign, ours, foreign, ours)]
        for run, future in found:
            assert future.result() == ({DEFAULT} if run is foreign else {"80"})


def test_tasks_that_share_a_connection_do_not_share_settings(conn: Connection) -> None:
    prepare(conn)

    async def values(connection: Any, statement: str, given: Any, at: int) -> set[Any]:
        found = set()
        for _ in range(100):
            try:
                row = await (await connection.execute(statement, given)).fetchone()
                found.add(row[at])
            except psycopg.errors.DivisionByZero:
                found.add("failed")
        return found

    async def run() -> None:
        async with await psycopg.AsyncConnection.connect(conn.info.dsn, autocommit=True) as connection:
            await client.tune_async(connection, snapshot=Snapshot())
            await connection.execute(search(), VALUES)
            found = await asyncio.gather(
                values(connection, FOREIGN, None, 0),
                values(connection, search(), VALUES, 1),
                values(connection, FOREIGN, None, 0),
                values(connection, search(), FAILING, 1),
            )
            assert list(found) == [{DEFAULT}, {"80"}, {DEFAULT}, {"failed"}]

    asyncio.run(run())


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_connections_of_one_database_share_a_snapshot(conn: Connection) -> None:
    prepare(conn)
    with psycopg.connect(conn.info.dsn) as one_, psycopg.connect(conn.info.dsn) as other:
        snapshot = client.tune(one_)
        assert client.tune(other) is snapshot
        assert snapshot.counters.refreshes == 1
        client.tune(other)
        assert in_force(other) == "80"


def test_async_cursors_send_the_settings_and_leave_none_behind(conn: Connection) -> None:
    prepare(conn)

    async def value(connection: Any, statement: str, values: Any = None, at: int = 0) -> Any:
        row = await (await connection.execute(statement, values)).fetchone()
        return row[at]

    async def run(autocommit: bool) -> None:
        async with await psycopg.AsyncConnection.connect(conn.info.dsn, autocommit=autocommit) as connection:
            snapshot = client.tune(connection, snapshot=Snapshot())
            for _ in range(6):
                assert await value(connection, search(), VALUES, 1) == "80"
                assert await value(connection, FOREIGN) == DEFAULT
            with pytest.raises(psycopg.errors.DivisionByZero):
                await connection.execute(search(), FAILING)
            await connection.rollback()
            assert await value(connection, FOREIGN) == DEFAULT
            async with connection.transaction():
                await connection.execute("SET LOCAL hnsw.ef_search = 55")
                assert await value(connection, search(), VALUES, 1) == "80"
                assert await value(connection, FOREIGN) == "55"
            ours, other = connection.cursor(), connection.cursor()
            async with connection.pipeline():
                await ours.execute(search(), VALUES)
                await other.execute(FOREIGN)
            assert (await ours.fetchall())[0][1] == "80"
            assert await other.fetchone() in [(DEFAULT,), ("55",)]
            assert snapshot.counters.untouched == {}
            assert snapshot.counters.failures == {}

    asyncio.run(run(True))
    asyncio.run(run(False))


def test_async_snapshot_survives_a_missing_table(plain_conn: Connection) -> None:
    async def run() -> None:
        async with await psycopg.AsyncConnection.connect(plain_conn.info.dsn) as connection:
            snapshot = client.tune(connection, snapshot=Snapshot())
            assert await (await connection.execute("SELECT 1")).fetchone() == (1,)
            assert snapshot.counters.failures == {"no table to read": 1}

    asyncio.run(run())


def test_tune_refuses_what_it_does_not_know() -> None:
    with pytest.raises(TypeError, match=r"cannot tune a builtins\.int"):
        client.tune(1)
