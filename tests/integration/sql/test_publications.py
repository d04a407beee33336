"""A publication FOR ALL TABLES, which copies vectuned's tables too: no work may fail under it."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from pgvector.psycopg import register_vector
from tests.integration.embedded_helpers import FAST, open_folder
from tests.integration.search_helpers import settings
from tests.integration.table_helpers import Connection, clustered, enable, make, one, search, text

from vectuned.daemon.server.embedded import EmbeddedServer
from vectuned.daemon.work.worker import Worker
from vectuned.reasoning.store.store import EntityStore
from vectuned.sql.install import migrate

WITHOUT_IDENTITY = """
    SELECT c.oid::regclass::text FROM pg_class c
    WHERE c.relnamespace IN (SELECT n.oid FROM pg_namespace n WHERE n.nspname = ANY (%s))
      AND c.relkind IN ('r', 'p') AND c.relpersistence = 'p'
      AND NOT (c.relreplident = 'f'
               OR c.relreplident = 'd' AND EXISTS (SELECT FROM pg_index x
                                                      WHERE x.indrelid = c.oid AND x.indisprimary)
               OR c.relreplident = 'i' AND EXISTS (SELECT FROM pg_index x
                                                      WHERE x.indrelid = c.oid AND x.indisreplident))
    ORDER BY 1"""


def logged_tables_without_identity(conn: Connection, *schemas: str) -> list[str]:
    """Return the logged tables whose updates and deletes a publication would reject."""
    return [name for (name,) in conn.execute(WITHOUT_IDENTITY, (list(schemas),)).fetchall()]


def test_every_logged_table_has_a_replica_identity(conn: Connection) -> None:
    assert logged_tables_without_identity(conn, "vectuned") == []


def test_every_logged_table_of_the_entity_store_has_a_replica_identity(shared: EntityStore) -> None:
    assert logged_tables_without_identity(shared.conn, "vectuned", "vectuned_entities") == []


@pytest.fixture
def published() -> Iterator[Connection]:
    """A database of a server with wal_level logical, all tables of which are published."""
    with (
        open_folder() as home,
        EmbeddedServer(home, settings={**FAST, "wal_level": "logical"}) as server,
        psycopg.connect(server.dsn, autocommit=True) as conn,
    ):
        conn.execute("CREATE EXTENSION IF NOT EXISTS vector")
        migrate(conn)
        register_vector(conn)
        conn.execute("CREATE PUBLICATION everything FOR ALL TABLES")
        yield conn


def test_all_work_goes_on_under_a_publication_for_all_tables(published: Connection) -> None:
    conn = published
    assert one(conn, "SHOW wal_level") == "logical"
    vectors = clustered(800, 8, seed=1)
    make(conn, vectors)
    conn.execute("ALTER TABLE items ADD COLUMN kind int")
    conn.execute("UPDATE items SET kind = id % 4")
    conn.execute("ANALYZE items")
    column_id = enable(conn, sample_rate=1.0, min_samples=20)
    worker = Worker(conn, settings())
    for round_ in range(2):  # the second publish deletes what the first one wrote
        for query in clustered(40, 8, seed=2 + round_):
            search(conn, query)
            conn.execute(
                "SELECT * FROM vectuned.search('items', %s::vector, 10, '{\"kind\": 1}')", (text(query),)
            ).fetchall()
        conn.execute("SELECT vectuned.record_feedback(query_id, ARRAY['1']) FROM vectuned.inbox LIMIT 1")
        worker.drain()
        worker.replay_all()
        worker.judge()
        assert worker.learn_all() == 1
    worker.refresh_all()
    worker.maintain()
    assert one(conn, "SELECT count(*) FROM vectuned.measured_path") > 0
    conn.execute("SELECT vectuned._fall_back(%s, NULL, NULL, 'a test')", (column_id,))
    conn.execute("SELECT vectuned.disable('items', 'embedding')")
    assert one(conn, "SELECT count(*) FROM vectuned.measured_path") == 0
    enable(conn, sample_rate=1.0, min_samples=20)
    conn.execute("SELECT vectuned.disable('items', 'embedding', forget => true)")
    assert one(conn, "SELECT count(*) FROM vectuned.tuned_column") == 0
