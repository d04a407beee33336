"""Illnesses of tuned columns on a real server: in events, in the status and in the recommendations."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from tests.integration.search_helpers import points
from tests.integration.table_helpers import enable, make, one, raw, recall_of, search

from vectuned.config.settings import load_settings
from vectuned.daemon.work.worker import Worker

Connection = psycopg.Connection[Any]
INVALID = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'items_embedding_idx'::regclass"


def tuned(conn: Connection) -> Worker:
    make(conn, points(2000, seed=1))
    enable(conn)
    conn.execute("SELECT pg_stat_force_next_flush()")
    return Worker(conn, load_settings(None, {}, {}))


def events(conn: Connection) -> list[str]:
    rows = conn.execute("SELECT details ->> 'why' FROM vectuned.event WHERE action = 'health' ORDER BY id")
    return [str(row[0]) for row in rows]


def notes(conn: Connection) -> str:
    return " | ".join(one(conn, "SELECT notes FROM vectuned.status LIMIT 1"))


def recommended(conn: Connection) -> dict[str, str]:
    rows = conn.execute(
        "SELECT kind, statement FROM vectuned.recommend_params('items') WHERE kind LIKE '%index'"
    )
    return {str(kind): str(statement) for kind, statement in rows}


def test_index_that_becomes_invalid_is_in_the_status_at_once_and_in_one_event(conn: Connection) -> None:
    worker = tuned(conn)
    worker.maintain()
    assert (events(conn), notes(conn), recommended(conn)) == ([], "", {})
    conn.execute(INVALID)
    said = "the index public.items_embedding_idx is invalid: no search uses it, and every write pays for its"
    assert said in notes(conn)
    assert "Mend it by: REINDEX INDEX CONCURRENTLY public.items_embedding_idx" in notes(conn)
    assert recommended(conn) == {"invalid index": "REINDEX INDEX CONCURRENTLY public.items_embedding_idx"}
    worker.maintain()
    worker.maintain()
    (why,) = events(conn)
    assert "items_embedding_idx is invalid" in why
    # The status does not say it twice.
    assert notes(conn).count("items_embedding_idx is invalid") == 1
    conn.execute("REINDEX INDEX items_embedding_idx")
    worker.maintain()
    assert events(conn)[1:] == ["nothing is wrong with its table and indexes any more"]
    assert notes(conn) == ""


def test_invalid_index_beside_a_valid_one_is_to_be_dropped(conn: Connection) -> None:
    tuned(conn)
    conn.execute(INVALID)
    conn.execute("CREATE INDEX second ON items USING hnsw (embedding vector_cosine_ops)")
    assert recommended(conn)["invalid index"] == "DROP INDEX CONCURRENTLY public.items_embedding_idx"
    assert "DROP INDEX CONCURRENTLY public.items_embedding_idx" in notes(conn)


def test_dead_rows_are_an_event_and_stay_in_the_status_until_they_are_gone(conn: Connection) -> None:
    worker = tuned(conn)
    conn.execute("INSERT INTO items SELECT id + 5000, embedding FROM items")
    conn.execute("DELETE FROM items WHERE id % 2 = 0")
    conn.execute("SELECT pg_stat_force_next_flush()")
    worker.maintain()
    (why,) = events(conn)
    assert "dead rows" in why
    assert 'Mend it by: VACUUM "public"."items"' in notes(conn)
    conn.execute("VACUUM items")
    conn.execute("SELECT pg_stat_force_next_flush()")
    worker.maintain()
    assert notes(conn) == ""


def test_partial_index_is_not_recommended_beside_an_invalid_one_for_the_same_filter(conn: Connection) -> None:
    make(conn, points(2000, seed=1))
    conn.execute("ALTER TABLE items ADD COLUMN kind int DEFAULT 1")
    conn.execute("CREATE INDEX part ON items USING hnsw (embedding vector_cosine_ops) WHERE kind = 1")
    enable(conn)
    conn.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'part'::regclass")
    assert recommended(conn) == {"invalid index": "REINDEX INDEX CONCURRENTLY public.part"}


def test_target_out_of_reach_is_in_the_status_and_the_recommendations(conn: Connection) -> None:
    make(conn, points(3000, seed=1), index=False)
    options = "WITH (m = 2, ef_construction = 4)"
    conn.execute(raw(f"CREATE INDEX thin ON items USING hnsw (embedding vector_cosine_ops) {options}"))
    enable(conn, target_recall=0.999, sample_rate=1.0, min_samples=50)
    for query in points(120, seed=2):
        search(conn, query)
    worker = Worker(conn, load_settings(None, {}, {}))
    worker.drain()
    worker.replay_all()
    worker.learn_all()
    row = conn.execute("SELECT certified, expected_recall FROM vectuned.bank WHERE k_class = 10").fetchone()
    assert row is not None
    assert not row[0]
    assert row[1] < 0.999
    said = "recall 0.999 is out of reach of public.thin (m=2, ef_construction=4): for k up to 10 it gives"
    assert said in notes(conn)
    best = one(
        conn,
        "SELECT (figures ->> 'best_recall')::float8 FROM vectuned.recommend_params('items') "
        "WHERE kind = 'out of reach'",
    )
    # It is what the index gives these searches with the highest ef_search.
    assert best == pytest.approx(
        recall_of(conn, points(120, seed=2), "thin", {"hnsw.ef_search": "1000"}), abs=0.02
    )
