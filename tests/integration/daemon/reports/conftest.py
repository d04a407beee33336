"""A learned table, whose status, metrics and report are read."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.integration.daemon.reports.report_helpers import DIMENSIONS, KIND
from tests.integration.table_helpers import (
    Connection,
    build,
    clustered,
    copied,
    enable,
    make,
    prepared,
    search,
    search_filtered,
)

from vectuned.config.settings import load_settings
from vectuned.daemon.server.embedded import EmbeddedServer
from vectuned.daemon.work.worker import Worker


@pytest.fixture(scope="session")
def template_learned(server: EmbeddedServer, template: str) -> str:
    """A database with a table that was searched, with a filter and without, learned and checked."""
    name = "template_reports"
    with prepared(server.dsn, template, name) as conn:
        make(conn, clustered(900, DIMENSIONS, seed=1), index=False)
        quoted = '"' + KIND.replace('"', '""') + '"'
        conn.execute(f"ALTER TABLE items ADD COLUMN {quoted} int; UPDATE items SET {quoted} = id % 4")
        build(conn)
        conn.execute(f"CREATE INDEX ON items ({quoted}); ANALYZE items")
        enable(conn, sample_rate=1.0, min_samples=20, target_recall=0.9)
        worker = Worker(conn, load_settings(None, {"learning.batch_min": 10}, {}))
        for seed in (2, 3):
            for query in clustered(40, DIMENSIONS, seed=seed):
                search(conn, query)
                search_filtered(conn, query, 10, {KIND: 1})
            worker.drain()
            worker.replay_all()
            worker.judge()
            worker.learn_all()
    return name


@pytest.fixture
def learned(server: EmbeddedServer, template_learned: str) -> Iterator[Connection]:
    """A connection to a copy of the learned table."""
    with copied(server.dsn, template_learned, "reports") as conn:
        yield conn
