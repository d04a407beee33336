"""`vectuned status`, as data and as text."""

from __future__ import annotations

import json

import pytest
from tests.integration.table_helpers import Connection, clustered, enable, make, search

from vectuned.config.settings import load_settings
from vectuned.daemon.console import Console
from vectuned.daemon.reports import status
from vectuned.daemon.service.worker import Worker

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
    assert promise["claim"].endswith("from 5 exact checks")


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
