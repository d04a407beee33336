"""Upgrades of PostgreSQL or pgvector: costs of searches are measured again, while the same setting serves."""

from __future__ import annotations

from tests.integration.search_helpers import run_searches, tuned
from tests.integration.table_helpers import Connection, one

from vectuned.config.settings import load_settings
from vectuned.daemon.work.worker import Worker


def learn(conn: Connection) -> None:
    tuned(conn)
    run_searches(conn, 150)
    worker = Worker(conn, load_settings(None, {}, {}))
    worker.drain()
    worker.refresh_all()
    worker.replay_all()
    worker.learn_all()


def upgrade(conn: Connection) -> Worker:
    """Pretend that what was learned is from older versions; return a worker that begins after the upgrade."""
    conn.execute("UPDATE vectuned.baseline SET versions = 'PostgreSQL 12, pgvector 0.7.0'")
    return Worker(conn, load_settings(None, {}, {}))


def served(conn: Connection) -> tuple[int, int]:
    row = conn.execute("SELECT version, ef_search FROM vectuned.bank WHERE k_class = 10").fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def test_upgrade_replays_searches_again_while_the_same_setting_serves(conn: Connection) -> None:
    learn(conn)
    before = served(conn)
    assert one(conn, "SELECT count(*) FROM vectuned.replay") == 150
    worker = upgrade(conn)
    worker.refresh_all()
    assert one(conn, "SELECT count(*) FROM vectuned.replay") == 0
    assert one(conn, "SELECT count(*) FROM vectuned.trajectory WHERE replayed_at IS NULL") == 150
    assert served(conn) == before
    why = one(conn, "SELECT details ->> 'why' FROM vectuned.event WHERE action = 'upgraded'")
    assert why.startswith("PostgreSQL 12, pgvector 0.7.0 became PostgreSQL ")
    # Once is enough.
    Worker(conn, load_settings(None, {}, {})).refresh_all()
    assert one(conn, "SELECT count(*) FROM vectuned.event WHERE action = 'upgraded'") == 1
    worker.replay_all()
    worker.learn_all()
    assert one(conn, "SELECT count(*) FROM vectuned.replay") == 150
    assert served(conn)[0] > before[0]


def test_upgrade_without_query_vectors_keeps_the_replays(conn: Connection) -> None:
    learn(conn)
    conn.execute("UPDATE vectuned.tuned_column SET store_vectors = false")
    upgrade(conn).refresh_all()
    assert one(conn, "SELECT count(*) FROM vectuned.replay") == 150
    assert one(conn, "SELECT first_replay FROM vectuned.baseline") > 150
