"""Tuned cursors of psycopg2 against a real server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.integration.client_helpers import DEFAULT, FOREIGN, QUERY, prepare, search
from tests.integration.table_helpers import Connection

from vectuned import client
from vectuned.sql.client.snapshot import Snapshot

psycopg2 = pytest.importorskip("psycopg2", reason="psycopg2 is not installed")

VALUES = (1, QUERY, 5)
FAILING = (0, QUERY, 5)
Tuned = tuple[Any, Snapshot]


@pytest.fixture
def tuned(conn: Connection) -> Iterator[Tuned]:
    """A tuned connection of psycopg2, which begins transactions by itself, and its snapshot."""
    prepare(conn)
    connection = psycopg2.connect(conn.info.dsn)
    snapshot = client.tune(connection, snapshot=Snapshot())
    yield connection, snapshot
    connection.close()


def value(connection: Any, statement: str, values: Any = None, at: int = 0) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return cursor.fetchone()[at]


def in_force(connection: Any, values: Any = VALUES) -> Any:
    return value(connection, search(), values, 1)


@pytest.mark.parametrize("autocommit", [True, False])
def test_execute_sends_the_settings_and_leaves_none_behind(tuned: Tuned, autocommit: bool) -> None:
    connection, snapshot = tuned
    connection.autocommit = autocommit
    for _ in range(3):
        assert in_force(connection) == "80"
        assert value(connection, FOREIGN) == DEFAULT
        assert in_force(connection) == "80"
        connection.commit()
        assert value(connection, FOREIGN) == DEFAULT
    assert value(connection, search("values"), at=1) == "80"
    assert snapshot.counters.tuned == 7
    assert snapshot.counters.untouched == {}


def test_execute_in_a_transaction_puts_back_what_was_in_force(tuned: Tuned) -> None:
    connection, _ = tuned
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL hnsw.ef_search = 55")
        assert in_force(connection) == in_force(connection) == "80"
        assert value(connection, FOREIGN) == "55"
        cursor.execute("SAVEPOINT a")
        assert in_force(connection) == "80"
        cursor.execute("ROLLBACK TO SAVEPOINT a")
        assert value(connection, FOREIGN) == "55"
        cursor.execute("SAVEPOINT a")
        assert in_force(connection) == "80"
        cursor.execute("RELEASE SAVEPOINT a")
        assert value(connection, FOREIGN) == "55"
        assert in_force(connection) == "80"
        # What is sent by other means than execute() brings the settings back first.
        cursor.executemany("SELECT %s", [(1,), (2,)])
        cursor.execute(FOREIGN)
        assert cursor.fetchone() == ("55",)
    connection.rollback()
    assert value(connection, FOREIGN) == DEFAULT


def test_execute_after_a_commit_puts_nothing_back_into_the_next_transaction(tuned: Tuned) -> None:
    connection, _ = tuned
    assert in_force(connection) == "80"
    connection.commit()
    with connection.cursor("named") as cursor:  # begins the transaction
        cursor.execute("SELECT 1")
        cursor.fetchall()
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL hnsw.ef_search = 55")
    assert value(connection, FOREIGN) == "55"


@pytest.mark.parametrize("autocommit", [True, False])
def test_execute_raises_the_statement_error_and_leaves_nothing(tuned: Tuned, autocommit: bool) -> None:
    connection, snapshot = tuned
    connection.autocommit = autocommit
    with pytest.raises(psycopg2.errors.DivisionByZero):
        in_force(connection, FAILING)
    if not autocommit:
        with pytest.raises(psycopg2.errors.InFailedSqlTransaction):
            in_force(connection)
        assert snapshot.counters.untouched == {"failed transaction": 1}
    connection.rollback()
    assert value(connection, FOREIGN) == DEFAULT
    assert in_force(connection) == "80"


def test_execute_in_a_failed_transaction_lets_rollback_to_savepoint_through(tuned: Tuned) -> None:
    connection, _ = tuned
    with connection.cursor() as cursor:
        cursor.execute("SAVEPOINT a")
        assert in_force(connection) == "80"
        with pytest.raises(psycopg2.errors.UndefinedTable):
            cursor.execute("SELECT * FROM nothing")
        cursor.execute("ROLLBACK TO SAVEPOINT a")
        assert value(connection, FOREIGN) == DEFAULT
        assert in_force(connection) == "80"


def test_server_side_cursors_are_untouched(tuned: Tuned) -> None:
    connection, snapshot = tuned
    assert in_force(connection) == "80"
    with connection.cursor("named") as cursor:
        cursor.execute(search(), VALUES)
        assert [row[1] for row in cursor] == [DEFAULT] * 5
    assert snapshot.counters.untouched == {"server-side cursor": 1}


def test_cursor_factories_of_the_application_are_kept(conn: Connection) -> None:
    from psycopg2.extras import RealDictCursor

    prepare(conn)
    connection = psycopg2.connect(conn.info.dsn, cursor_factory=RealDictCursor)
    snapshot = client.tune(connection, snapshot=Snapshot())
    client.tune(connection, snapshot=snapshot)  # twice does no harm
    with connection.cursor() as cursor:
        cursor.execute(search(), VALUES)
        assert cursor.fetchone()["ef"] == "80"
    connection.close()


def test_statement_goes_out_as_it_came_where_there_is_no_table(plain_conn: Connection) -> None:
    connection = psycopg2.connect(plain_conn.info.dsn)
    snapshot = client.tune(connection, snapshot=Snapshot())
    assert value(connection, "SELECT 1 WHERE '[1]'::vector <=> %s < 3", ("[2]",)) == 1
    assert snapshot.counters.failures == {"no table to read": 1}
    connection.close()
