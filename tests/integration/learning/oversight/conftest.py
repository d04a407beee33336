"""A daemon's worker with one learned column."""

from __future__ import annotations

import pytest
from tests.integration.promises_helpers import TARGET, ask, points, served
from tests.integration.table_helpers import Connection, build, enable, make, prepared

from vectuned.config.settings import load_settings
from vectuned.daemon.server.embedded import EmbeddedServer
from vectuned.daemon.work.worker import Worker


@pytest.fixture(scope="session")
def learned(server: EmbeddedServer, template: str) -> str:
    """A database with a learned and proven column of vectors without clusters, so that effort matters."""
    name = "template_promises"
    with prepared(server.dsn, template, name) as conn:
        make(conn, points(3000, seed=1), index=False)
        build(conn, options="WITH (m = 6)")
        conn.execute("SELECT pg_stat_force_next_flush()")
        conn.execute("ANALYZE items")
        enable(conn, target_recall=TARGET, sample_rate=1.0, min_samples=100)
        conn.execute("ALTER TABLE items ADD COLUMN seen int")
        worker = _worker(conn)
        ask(worker, 200, seed=2)
        worker.learn_all()
        assert served(conn)[1]
    return name


@pytest.fixture
def worker(conn: Connection) -> Worker:
    """Make a worker on a copy of the learned column; the module overrides `initial_database` by `learned`."""
    # The server's statistics of the table are not copied.
    conn.execute("ANALYZE items")
    made = _worker(conn)
    made.refresh_all()
    return made


def _worker(conn: Connection) -> Worker:
    return Worker(conn, load_settings(None, {"learning.batch_min": 20}, {}))
