"""A table that was searched, for the advisor and the evaluation."""

from __future__ import annotations

import pytest
from tests.integration.search_helpers import points, run_searches
from tests.integration.table_helpers import Connection, build, enable, make


@pytest.fixture
def searched(conn: Connection) -> Connection:
    """Return a connection to a table of 700 rows with an index of low recall, and 60 recorded searches."""
    make(conn, points(700, seed=1), index=False)
    build(conn, options="WITH (m = 2, ef_construction = 4)")
    conn.execute("SELECT pg_stat_force_next_flush()")
    conn.execute("VACUUM ANALYZE items")
    enable(conn, target_recall=0.9, sample_rate=1.0, min_samples=100)
    run_searches(conn, 60)
    return conn
