"""A daemon's worker with one learned column."""

from __future__ import annotations

import pytest
from tests.integration.promises_helpers import TARGET, ask, points, served
from tests.integration.table_helpers import Connection, build, enable, make

from vectuned.config.settings import load_settings
from vectuned.daemon.work.worker import Worker


@pytest.fixture
def worker(conn: Connection) -> Worker:
    """Make a worker on a learned and proven column without any structure, so that effort matters."""
    make(conn, points(3000, seed=1), index=False)
    build(conn, options="WITH (m = 6)")
    conn.execute("SELECT pg_stat_force_next_flush()")
    conn.execute("ANALYZE items")
    enable(conn, target_recall=TARGET, sample_rate=1.0, min_samples=100)
    conn.execute("ALTER TABLE items ADD COLUMN seen int")
    learned = Worker(conn, load_settings(None, {"learning.batch_min": 20}, {}))
    ask(learned, 200, seed=2)
    learned.learn_all()
    assert served(conn)[1]
    return learned
