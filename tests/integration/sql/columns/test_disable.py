"""disable: what goes on without tuning, and what is forgotten."""

from __future__ import annotations

import pytest
from psycopg import errors
from tests.integration.table_helpers import Connection, clustered, enable, exact, make, one, search, text

VECTORS = clustered(60, 4, seed=1)
QUERY = [1.0, -1.0, 0.5, 2.0]


def test_disable_keeps_searches_and_stops_recording(conn: Connection) -> None:
    make(conn, VECTORS)
    enable(conn, sample_rate=1.0)
    search(conn, QUERY)
    conn.execute("SELECT vectuned.disable('items', 'embedding')")
    assert search(conn, QUERY) == exact(conn, QUERY)
    assert one(conn, "SELECT count(*) FROM vectuned.inbox") == 1
    assert one(conn, "SELECT state FROM vectuned.status") == "disabled"
    assert "disabled" in one(conn, "SELECT reason FROM vectuned.params('items', %s)", text(QUERY))
    enable(conn, sample_rate=1.0)
    search(conn, QUERY)
    assert one(conn, "SELECT count(*) FROM vectuned.inbox") == 2


def test_disable_with_forget_deletes_everything(conn: Connection) -> None:
    make(conn, VECTORS)
    column = enable(conn, sample_rate=1.0)
    search(conn, QUERY)
    conn.execute("SELECT vectuned._drain(10)")
    search(conn, QUERY)
    conn.execute("SELECT vectuned.disable('items', 'embedding', forget => true)")
    for table in ("tuned_column", "inbox", "trajectory", "replay", "bank", "pattern", "event"):
        assert one(conn, f"SELECT count(*) FROM vectuned.{table}") == 0, table
    assert one(conn, "SELECT to_regprocedure(%s)", f"vectuned._search_{column}(vector, int)") is None
    with pytest.raises(errors.UndefinedObject, match=r"public.items has no column that vectuned tunes"):
        search(conn, QUERY)
    with pytest.raises(errors.UndefinedObject, match="has no column that vectuned tunes"):
        conn.execute("SELECT vectuned.disable('items', 'embedding')")


def test_disable_with_forget_of_a_dropped_table(conn: Connection) -> None:
    make(conn, VECTORS)
    make(conn, VECTORS, table="others")
    enable(conn)
    enable(conn, "others")
    oid = one(conn, "SELECT 'items'::regclass::oid")
    conn.execute("DROP TABLE items")
    assert search(conn, QUERY, relation="others") == exact(conn, QUERY, relation="others")
    state = one(conn, "SELECT state FROM vectuned.status ORDER BY relation LIMIT 1")
    assert state == (
        "table missing: forgotten a day after it was missed; "
        f"at once by vectuned.disable({oid}, 'embedding', forget => true)"
    )
    enable(conn, "others", sample_rate=1.0)
    conn.execute("SELECT vectuned.disable(%s::oid::regclass, 'embedding')", (oid,))
    conn.execute("SELECT vectuned.disable(%s::oid::regclass, 'embedding', forget => true)", (oid,))
    assert conn.execute("SELECT relation::text FROM vectuned.status").fetchall() == [("others",)]
