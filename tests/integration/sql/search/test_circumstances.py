"""Searches by other roles, in every kind of transaction, on changing tables; settings stay as they were."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg import errors
from tests.integration.table_helpers import (
    build,
    clustered,
    counted,
    enable,
    exact,
    make,
    one,
    plain_role,
    publish,
    raw,
    search,
    settings,
    text,
)

Connection = psycopg.Connection[Any]

VECTORS = clustered(300, 4, seed=1)
QUERY = [1.0, -1.0, 0.5, 2.0]


def test_search_in_a_read_only_transaction_records_nothing(conn: Connection) -> None:
    make(conn, VECTORS)
    enable(conn, sample_rate=1.0)
    with conn.transaction():
        conn.execute("SET TRANSACTION READ ONLY")
        assert search(conn, QUERY) == exact(conn, QUERY)
        assert (
            one(conn, "SELECT right(query_id::text, 1) FROM vectuned.search('items', %s, 1)", text(QUERY))
            == "0"
        )
        assert one(conn, "SELECT ef_search FROM vectuned.params('items', %s)", text(QUERY)) == 40
        rows = conn.execute(
            "SELECT * FROM vectuned.search_rows(NULL::items, %s, 3)", (text(QUERY),)
        ).fetchall()
        assert len(rows) == 3
    assert one(conn, "SELECT count(*) FROM vectuned.inbox") == 0


def test_search_needs_only_select_on_the_table(conn: Connection, database: str) -> None:
    make(conn, VECTORS)
    column = enable(conn, sample_rate=1.0)
    wanted = exact(conn, QUERY)
    with plain_role(conn, database, "SELECT ON items") as reader:
        # The first statement of a session, before anything loaded pgvector.
        assert search(reader, QUERY) == wanted
        assert (
            len(reader.execute("SELECT * FROM vectuned.search_rows(NULL::items, '[1,2,3,4]', 3)").fetchall())
            == 3
        )
        assert one(reader, "SELECT ef_search FROM vectuned.params('items', '[1,2,3,4]')") == 40
        assert one(reader, "SELECT vectuned.apply('items', '[1,2,3,4]')::text") == "[1,2,3,4]"
        assert one(reader, "SELECT state FROM vectuned.status") == "learning"
        for statement in (
            "SELECT * FROM vectuned.inbox",
            "DELETE FROM vectuned.inbox",
            "SELECT * FROM vectuned.trajectory",
            "SELECT * FROM vectuned.replay",
            "SELECT * FROM vectuned.event",
            "DELETE FROM vectuned.bank",
            "UPDATE vectuned.pattern SET effort = 0",
            "INSERT INTO vectuned.migration VALUES ('x')",
            "UPDATE vectuned.tuned_column SET sample_rate = 0",
            "SELECT vectuned.enable('items', 'embedding')",
            "SELECT vectuned.disable('items', 'embedding')",
            "SELECT vectuned._drain(1)",
            "SELECT vectuned._generate_all()",
            f"SELECT vectuned._replay({column}, 1, '[1,2,3,4]', '{{10}}')",
            "SELECT vectuned._partition(1, '1 day')",
            "SELECT vectuned.stats('items')",
            "CREATE TABLE vectuned.mine (id int)",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                reader.execute(raw(statement))
    with (
        plain_role(conn, database) as other,
        pytest.raises(errors.InsufficientPrivilege, match="table items"),
    ):
        search(other, QUERY)
    assert one(conn, "SELECT count(*) FROM vectuned.inbox") == 2


def test_search_under_row_security_hides_rows_and_is_not_recorded(conn: Connection, database: str) -> None:
    make(conn, VECTORS)
    enable(conn, sample_rate=1.0)
    conn.execute("ALTER TABLE items ENABLE ROW LEVEL SECURITY")
    conn.execute("CREATE POLICY few ON items USING (id % 20 = 0)")
    visible = [(key, distance) for key, distance in exact(conn, QUERY, 300) if int(key) % 20 == 0]
    with plain_role(conn, database, "SELECT ON items") as reader:
        assert search(reader, QUERY, 10) == visible[:10]
        assert search(reader, QUERY, 15) == visible
        assert search(reader, QUERY, 40) == visible
        assert (
            one(reader, "SELECT right(query_id::text, 1) FROM vectuned.search('items', %s, 1)", text(QUERY))
            == "0"
        )
    assert one(conn, "SELECT count(*) FROM vectuned.inbox") == 0
    assert search(conn, QUERY) == exact(conn, QUERY)
    assert one(conn, "SELECT count(*) FROM vectuned.inbox") == 1


def test_search_after_set_role_returns_what_the_role_may_read(conn: Connection, database: str) -> None:
    make(conn, VECTORS)
    enable(conn)
    conn.execute("ALTER TABLE items ENABLE ROW LEVEL SECURITY")
    conn.execute("CREATE POLICY few ON items USING (id % 20 = 0)")
    with plain_role(conn, database, "SELECT ON items") as reader:
        for _ in range(3):
            assert search(conn, QUERY) == exact(conn, QUERY)
            conn.execute(raw(f"SET ROLE {reader.info.user}"))
            assert all(int(key) % 20 == 0 for key, _ in search(conn, QUERY))
            conn.execute("RESET ROLE")


CALLS = (
    "SELECT * FROM vectuned.search('items', '[1,2,3,4]', 10)",
    "SELECT * FROM vectuned.search('items', '[1,2,3,4]', 1000)",
    "SELECT * FROM vectuned.search_rows(NULL::items, '[1,2,3,4]', 10)",
    "SELECT * FROM vectuned.params('items', '[1,2,3,4]', 10)",
    "SELECT * FROM vectuned._replay(1, 1, '[1,2,3,4]', '{10,20,40}')",
)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("failing", [False, True])
def test_search_restores_settings(conn: Connection, failing: bool, adaptive: bool) -> None:
    make(conn, VECTORS)
    column = enable(conn, sample_rate=1.0)
    if adaptive:
        publish(conn, column, [3.0])
    conn.execute("SET hnsw.ef_search = 123")
    conn.execute("SET hnsw.iterative_scan = strict_order")
    conn.execute("SET hnsw.max_scan_tuples = 777")
    conn.execute("SET enable_seqscan = off")
    with conn.transaction():
        conn.execute("SET LOCAL enable_sort = off")
        before = settings(conn)
        for call in CALLS:
            statement = call.replace("[1,2,3,4]", "[1,2,3,4,5]") if failing else call
            if failing:
                with pytest.raises(errors.DataException), conn.transaction():
                    conn.execute(raw(statement))
            else:
                conn.execute(raw(statement))
            assert settings(conn) == before, call
    assert one(conn, "SELECT current_setting('enable_sort')") == "on"


def test_search_that_is_cancelled_restores_settings(conn: Connection) -> None:
    make(conn, VECTORS)
    column = enable(conn)
    conn.execute("SET hnsw.ef_search = 123")
    conn.execute(
        raw(
            f"CREATE OR REPLACE FUNCTION vectuned._k_class(k int) RETURNS int LANGUAGE plpgsql AS "
            f"$$ BEGIN PERFORM pg_sleep(10); RETURN {column}; END $$"
        )
    )
    before = settings(conn)
    conn.execute("SET statement_timeout = 100")
    with pytest.raises(errors.QueryCanceled):
        search(conn, QUERY)
    conn.execute("RESET statement_timeout")
    assert settings(conn) == before


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
@pytest.mark.parametrize("kind", ["vector", "halfvec"])
def test_search_without_the_index_is_exact(conn: Connection, kind: str, metric: str) -> None:
    make(conn, VECTORS, kind=kind, metric=metric)
    enable(conn)
    search(conn, QUERY)
    conn.execute("DROP INDEX items_embedding_idx")
    for k in (1, 10, 300, 301):
        assert search(conn, QUERY, k) == exact(conn, QUERY, k, kind=kind, metric=metric)
    assert "index missing" in one(conn, "SELECT state FROM vectuned.status")
    assert conn.execute(
        "SELECT access_path, ef_search, index::oid FROM vectuned.params('items', %s)", (text(QUERY),)
    ).fetchone() == ("exact", None, None)
    # A new index in place of the old one, with another oid.
    build(conn, kind=kind, metric=metric)
    with counted(conn, "items") as table:
        assert len(search(conn, QUERY)) == 10
    assert table["scans"] == 0


def test_enable_while_other_sessions_search(conn: Connection, database: str) -> None:
    make(conn, VECTORS)
    enable(conn, sample_rate=0.5)
    wanted = exact(conn, QUERY)
    stop = threading.Event()

    def reader() -> int:
        searched = 0
        with psycopg.connect(database, autocommit=True) as session:
            while not stop.is_set():
                assert search(session, QUERY) == wanted
                searched += 1
        return searched

    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(reader) for _ in range(3)]
        try:
            for number in range(12):
                conn.execute(raw(f"ALTER TABLE items ADD COLUMN extra_{number} int DEFAULT {number}"))
                if number % 3 == 0:
                    conn.execute(raw(f"ALTER TABLE items DROP COLUMN extra_{number}"))
                enable(conn, sample_rate=number / 12)
        finally:
            stop.set()
        assert all(future.result() > 5 for future in running)


def test_search_rows_returns_a_column_added_since(conn: Connection, database: str) -> None:
    make(conn, VECTORS)
    enable(conn)
    statement = "SELECT * FROM vectuned.search_rows(NULL::items, %s, 2)"
    with psycopg.connect(database, autocommit=True) as session:
        for number in range(4):
            for _ in range(8):
                rows = session.execute(statement, (text(QUERY),), prepare=False).fetchall()
                assert [str(row[0]) for row in rows] == [key for key, _ in exact(conn, QUERY, 2)]
                assert [len(row) for row in rows] == [2 + number] * 2
            conn.execute(raw(f"ALTER TABLE items ADD COLUMN extra_{number} int"))


def test_search_rows_of_a_table_with_dropped_columns(conn: Connection) -> None:
    make(conn, VECTORS)
    enable(conn)
    conn.execute("ALTER TABLE items ADD COLUMN gone int, ADD COLUMN kept text DEFAULT 'kept'")
    conn.execute("ALTER TABLE items DROP COLUMN gone, ADD COLUMN query int DEFAULT 9")
    rows = conn.execute(
        "SELECT id, kept, query FROM vectuned.search_rows(NULL::items, %s, 3)", (text(QUERY),)
    )
    assert rows.fetchall() == [(int(key), "kept", 9) for key, _ in exact(conn, QUERY, 3)]


def test_search_rows_refuses_other_types(conn: Connection) -> None:
    make(conn, VECTORS)
    enable(conn)
    with pytest.raises(errors.DatatypeMismatch, match="search_rows takes a row of a table, got integer"):
        conn.execute("SELECT vectuned.search_rows(5, %s)", (text(QUERY),))
    with pytest.raises(errors.UndefinedObject, match="pg_class has no column"):
        conn.execute("SELECT vectuned.search_rows(NULL::pg_class, %s)", (text(QUERY),))
    with pytest.raises(errors.InvalidParameterValue, match="k must be between 1 and 1000, got 0"):
        conn.execute("SELECT vectuned.search_rows(NULL::items, %s, 0)", (text(QUERY),))
    with pytest.raises(errors.UndefinedColumn, match='column "nothing" of the filter'):
        conn.execute("SELECT vectuned.search_rows(NULL::items, %s, 1, '{\"nothing\": 1}')", (text(QUERY),))


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_search_in_every_isolation_level_is_recorded(conn: Connection, level: str) -> None:
    make(conn, VECTORS)
    enable(conn, sample_rate=1.0)
    with conn.transaction():
        conn.execute(raw(f"SET TRANSACTION ISOLATION LEVEL {level}"))
        assert search(conn, QUERY) == exact(conn, QUERY)
        assert search(conn, QUERY, 3) == exact(conn, QUERY, 3)
    assert one(conn, "SELECT count(*) FROM vectuned.inbox") == 2
