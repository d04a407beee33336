"""Tuned connections through PgBouncer in transaction mode: sessions of the server are shared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from tests.integration.bouncer_helpers import needs_pgbouncer, pgbouncer
from tests.integration.client_helpers import DEFAULT, FOREIGN, QUERY, prepare, search
from tests.integration.table_helpers import Connection

from vectuned import client
from vectuned.sql.client.snapshot import Snapshot

pytestmark = needs_pgbouncer

VALUES = (1, QUERY, 5)
FAILING = (0, QUERY, 5)


@pytest.fixture
def bouncer(conn: Connection) -> Iterator[str]:
    """The connection string of a pool with one session, so that every leak would show."""
    prepare(conn)
    with pgbouncer(conn) as dsn:
        yield dsn


def value(connection: Any, statement: str, values: Any = None, at: int = 0) -> Any:
    return connection.execute(statement, values).fetchone()[at]


@pytest.mark.parametrize("autocommit", [True, False])
def test_psycopg_leaks_nothing_into_the_sessions_of_others(bouncer: str, autocommit: bool) -> None:
    with ExitStack() as stack:
        ours, other = (
            stack.enter_context(psycopg.connect(bouncer, autocommit=autocommit, prepare_threshold=None))
            for _ in range(2)
        )
        snapshot = client.tune(ours, snapshot=Snapshot())
        for _ in range(7):
            assert value(ours, search(), VALUES, 1) == "80"
            if not autocommit:
                assert value(ours, FOREIGN) == DEFAULT
                ours.commit()
            assert value(other, FOREIGN) == DEFAULT
            other.commit()
        with pytest.raises(psycopg.errors.DivisionByZero):
            value(ours, search(), FAILING)
        ours.rollback()
        assert value(other, FOREIGN) == DEFAULT
        other.commit()
        cursor, foreign = ours.cursor(), ours.cursor()
        with ours.pipeline():
            cursor.execute(search(), VALUES)
            foreign.execute(FOREIGN)
        assert cursor.fetchall()[0][1] == "80"
        assert foreign.fetchone() == (DEFAULT,)
        ours.commit()
        assert value(other, FOREIGN) == DEFAULT
        assert snapshot.counters.failures == {}


@pytest.mark.parametrize("autocommit", [True, False])
def test_psycopg2_leaks_nothing_into_the_sessions_of_others(bouncer: str, autocommit: bool) -> None:
    psycopg2 = pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    ours, other = psycopg2.connect(bouncer), psycopg2.connect(bouncer)
    ours.autocommit = other.autocommit = autocommit
    client.tune(ours, snapshot=Snapshot())
    mine, theirs = ours.cursor(), other.cursor()
    for _ in range(3):
        mine.execute(search(), VALUES)
        assert mine.fetchone()[1] == "80"
        ours.commit()
        theirs.execute(FOREIGN)
        assert theirs.fetchone()[0] == DEFAULT
        other.commit()
    ours.close()
    other.close()
