"""A table that changes under a tuned column: what falls back, by how much, and what is learned again."""

from __future__ import annotations

import math

import pytest
from tests.integration.promises_helpers import TARGET, actions, alert, ask, points, served
from tests.integration.table_helpers import Connection, make, one, raw

from vectuned.daemon.work.worker import Worker


@pytest.fixture
def initial_database(learned: str) -> str:
    """Begin each test with the learned column."""
    return learned


@pytest.mark.parametrize(
    ("change", "action"),
    [
        ("INSERT INTO items (id, embedding) SELECT id + 3000, embedding FROM extra", "growth"),
        ("DELETE FROM items WHERE id % 3 = 0", "deletes"),
        ("UPDATE items i SET embedding = e.embedding FROM extra e WHERE e.id = i.id", "rewritten"),
        ("REINDEX INDEX items_embedding_idx", "rebuilt"),
    ],
)
def test_detect_table_change_falls_back_and_learns_again(
    conn: Connection, worker: Worker, change: str, action: str
) -> None:
    make(conn, points(3000, seed=7, shift=0.5), table="extra", index=False)
    before, _ = served(conn)
    conn.execute(raw(change))
    conn.execute("SELECT pg_stat_force_next_flush()")
    conn.execute("SELECT 1")
    worker.replay_all()
    assert actions(conn)[:2] == ["publish", action]
    ef, certified = served(conn)
    # Growth takes effort to the power of 0.38, by estimated rows; the other changes say nothing about it.
    grown = one(conn, "SELECT rows / 3000 FROM vectuned.baseline")
    assert (ef, certified) == (math.ceil(before * grown**0.38) if action == "growth" else before, False)
    assert alert(conn)
    assert one(conn, "SELECT count(*) > 0 FROM vectuned.replay") == (action != "rewritten")
    kept = one(conn, "SELECT count(*) FROM vectuned.trajectory WHERE query IS NOT NULL")
    assert kept == (0 if action == "rewritten" else 200)
    assert one(conn, "SELECT count(*) FROM vectuned.promise WHERE checks > 0") == 0
    # The graph differs from build to build: enough searches for a proof in each.
    for seed in range(8, 18):
        ask(worker, 50, seed=seed, shift=0.5 if action == "rewritten" else 0.0)
    worker.learn_all()
    assert served(conn)[1]
    assert not alert(conn)
    first = one(conn, "SELECT max(check_no) FROM vectuned.recall_check")
    ask(worker, 100, seed=13, shift=0.5 if action == "rewritten" else 0.0)
    recall = one(conn, "SELECT avg(recall) FROM vectuned.recall_check WHERE check_no > %s", first)
    assert recall >= TARGET - 0.02
    assert actions(conn)[:4] == ["publish", action, "publish", "proven"]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE items SET seen = 1",
        "VACUUM FULL items",
        "DELETE FROM items WHERE id % 20 = 0",
        "INSERT INTO items (id, embedding) SELECT id + 3000, embedding FROM items WHERE id <= 200",
        # As after a crash of the server, which loses its statistics.
        "SELECT pg_stat_reset(); INSERT INTO items (id, embedding) SELECT -id, embedding FROM items LIMIT 99",
    ],
)
def test_detect_table_change_ignores_ordinary_changes(conn: Connection, worker: Worker, change: str) -> None:
    conn.execute(raw(change))
    conn.execute("SELECT pg_stat_force_next_flush()")
    conn.execute("SELECT 1")
    if change.startswith("VACUUM"):
        conn.execute("UPDATE vectuned.baseline SET generation = pg_relation_filenode('items_embedding_idx')")
    worker.replay_all()
    assert actions(conn) == ["publish"]
    assert served(conn)[1]


def grow(worker: Worker, rows: int) -> None:
    """Add rows and let the worker look at the table."""
    there = one(worker.conn, "SELECT count(*)::int FROM items")
    worker.conn.execute(
        "INSERT INTO items (id, embedding) SELECT %s + id, embedding FROM items WHERE id <= %s", (there, rows)
    )
    worker.conn.execute("SELECT pg_stat_force_next_flush()")
    worker.conn.execute("ANALYZE items")
    worker.refresh_all()


def test_detect_table_change_raises_effort_once_by_the_total_growth(conn: Connection, worker: Worker) -> None:
    before, _ = served(conn)
    replays = one(conn, "SELECT count(*) FROM vectuned.replay")
    rows = 3000
    for step in (750, 900, 1200, 1500):
        grow(worker, step)
        rows += step
        assert served(conn) == (math.ceil(before * (rows / 3000) ** 0.38), False)
    assert actions(conn) == ["publish", *["growth"] * 4]
    # All replays stay, as no evidence, until the same searches have been replayed again.
    assert one(conn, "SELECT count(*) FROM vectuned.replay") == replays
    assert one(conn, "SELECT min(first_replay) FROM vectuned.baseline") > replays
    assert worker.learn(worker.columns()[0]).version is None
    worker.replay_all()
    assert one(conn, "SELECT count(*) FROM vectuned.replay") == replays
    assert one(conn, "SELECT count(*) FROM vectuned.replay WHERE rows > 7000") == replays
    worker.learn_all()
    assert served(conn)[1]
    assert not alert(conn)
