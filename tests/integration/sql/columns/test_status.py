"""`vectuned status`, as data and as text."""

from __future__ import annotations

import json

import psycopg
import pytest
from psycopg import sql
from tests.integration.table_helpers import (
    Connection,
    clustered,
    enable,
    make,
    one,
    plain_role,
    search,
    search_filtered,
)

from vectuned.config.settings import load_settings
from vectuned.daemon.console import Console
from vectuned.daemon.reports import status
from vectuned.daemon.work.worker import Worker

DIMENSIONS = 16


def test_status_without_tuned_columns(conn: Connection, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.read(conn) == []
    status.show(Console(as_json=False, quiet=False), [])
    assert "vectuned enable RELATION COLUMN" in "".join(capsys.readouterr())


def test_status_from_the_first_search_to_an_event(
    conn: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    make(conn, clustered(800, DIMENSIONS, seed=1))
    enable(conn, sample_rate=1.0, min_samples=20, target_recall=0.9)
    worker = Worker(conn, load_settings(None, {"learning.batch_min": 10}, {}))
    for query in clustered(40, DIMENSIONS, seed=2):
        search(conn, query)
    (column,) = status.read(conn)
    assert (column["in_inbox"], column["classes"], column["promises"]) == (40, [], [])
    worker.drain()
    worker.replay_all()
    worker.judge()
    worker.learn_all()
    conn.execute("REINDEX INDEX items_embedding_idx")
    worker.replay_all()
    (column,) = status.read(conn)
    assert column["relation"] == "items"
    assert column["alert"] is True
    assert [row["k_class"] for row in column["classes"]][:1] == [1]
    assert column["promises"][0]["k_class"] == 10
    assert column["events"][0]["action"] == "rebuilt"
    assert column["successes"] + column["failures"] == 40
    json.dumps(column, default=str)
    status.show(Console(as_json=False, quiet=False), [column])
    said = "".join(capsys.readouterr())
    assert "items.embedding" in said
    assert "rebuilt: the index was rebuilt" in said
    assert "until what serves is proven again" in said


def test_status_shows_each_columns_own_promises(conn: Connection) -> None:
    for name in ("first", "second"):
        make(conn, clustered(300, DIMENSIONS, seed=3), table=name)
        enable(conn, name, sample_rate=1.0, min_samples=20)
    worker = Worker(conn, load_settings(None, {}, {}))
    for query in clustered(5, DIMENSIONS, seed=4):
        search(conn, query, relation="second")
    worker.drain()
    worker.replay_all()
    first, second = status.read(conn)
    assert first["promises"] == []
    (promise,) = second["promises"]
    assert promise["checks"] == 5
    assert "from 5 exact checks; searches in read-only" in promise["claim"]
    # A claim whose checks stopped says since when.
    conn.execute("UPDATE vectuned.recall_check SET checked_at = '2026-01-02 12:00'")
    (promise,) = status.read(conn)[1]["promises"]
    assert "from 5 exact checks; no check since 2026-01-02 12:00; searches in" in promise["claim"]


def test_status_shows_backlog_and_standby(conn: Connection, capsys: pytest.CaptureFixture[str]) -> None:
    make(conn, clustered(300, DIMENSIONS, seed=3))
    column = enable(conn, sample_rate=1.0)
    for query in clustered(5, DIMENSIONS, seed=4):
        search(conn, query)
    Worker(conn, load_settings(None, {}, {})).drain()
    details = json.dumps({"per_minute": 0.1, "advice": "raise budget.core_share or lower sample_rate"})
    conn.execute(
        "INSERT INTO vectuned.event (column_id, action, details) VALUES (%s, 'behind', %s)", (column, details)
    )
    (read,) = status.read(conn)
    status.show(Console(as_json=False, quiet=False), [read | {"in_inbox": None}])
    said = "".join(capsys.readouterr())
    assert (
        "  behind: 5 searches wait, 50 minutes at the present rate; raise budget.core_share or lower" in said
    )
    assert "5 searches recorded, 5 to replay" in said


def notes(conn: Connection) -> str:
    return " | ".join(one(conn, "SELECT notes FROM vectuned.status"))


def test_status_notes_searches_that_are_never_recorded(conn: Connection, database: str) -> None:
    make(conn, clustered(300, 8, seed=1))
    conn.execute(
        "ALTER TABLE items ADD COLUMN kind int DEFAULT 1; CREATE INDEX ON items (kind); ANALYZE items"
    )
    said: list[str] = []
    conn.add_notice_handler(lambda notice: said.append(notice.message_primary or ""))
    enable(conn, sample_rate=1.0)
    assert (notes(conn), said) == ("", [])
    conn.execute("ALTER TABLE items ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON items USING (kind = 1)")
    enable(conn, sample_rate=1.0)
    expected = (
        "searches by roles under the row level security of public.items (1 policy): they are answered, but "
        "not recorded"
    )
    assert expected in notes(conn)
    assert any(expected in message for message in said)
    with plain_role(conn, database, "SELECT ON items") as caller:
        assert len(search(caller, [1, 2, 3, 4, 5, 6, 7, 8])) == 10
        (shown,) = caller.execute("SELECT notes FROM vectuned.status").fetchall()
        assert expected in shown[0][0]
        caller.execute("RESET ROLE")
    assert one(conn, "SELECT count(*) FROM vectuned.inbox") == 0
    assert one(conn, "SELECT unrecordable FROM vectuned.stats('items')") == 1

    kinds = list(range(20_000))
    search_filtered(conn, [1, 2, 3, 4, 5, 6, 7, 8], 10, {"kind": kinds})
    assert one(conn, "SELECT count(*) FROM vectuned.inbox") == 0
    assert one(conn, "SELECT unrecordable FROM vectuned.stats('items')") == 2
    assert "2 sampled searches were of a kind that is never recorded" in notes(conn)
    search_filtered(conn, [1, 2, 3, 4, 5, 6, 7, 8], 10, {"kind": kinds[:10]})
    worker = Worker(conn, load_settings(None, {}, {}))
    worker.drain()
    assert worker.replay_all() == 1
    assert "searches with a filter over 64 kB" in notes(conn)

    name = sql.Identifier(conn.info.dbname)
    conn.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
    assert "searches in read-only transactions, the default of this database" in notes(conn)
    with psycopg.connect(database, autocommit=True) as reader:
        assert len(search(reader, [1, 2, 3, 4, 5, 6, 7, 8])) == 10
    assert one(conn, "SELECT count(*) FROM vectuned.inbox") == 0
