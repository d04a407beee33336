"""A tuned table whose searches are recorded, and requests to the daemon about it."""

from __future__ import annotations

from typing import Any

import numpy as np
from tests.integration.table_helpers import Connection, Singles, build, enable, make, one, search

from vectuned.config.settings import Settings, load_settings
from vectuned.daemon.service.requests import run_next_request

DIMENSIONS = 16
ROWS = 3000


def settings(**values: object) -> Settings:
    """Return settings with these values, independent of the environment."""
    return load_settings(None, {key.replace("__", "."): value for key, value in values.items()}, {})


def points(count: int, seed: int) -> Singles:
    """Draw vectors without any structure, so that effort shows."""
    return np.random.default_rng(seed).normal(size=(count, DIMENSIONS)).astype(np.float32)


def tuned(conn: Connection, *, target: float = 0.9, min_samples: int = 100) -> int:
    """Create a table of 3,000 rows with a sparse index, and record every search of it."""
    make(conn, points(ROWS, seed=1), index=False)
    conn.execute("ALTER TABLE items ADD COLUMN kind int")
    conn.execute("UPDATE items SET kind = id % 4")
    conn.execute("SELECT pg_stat_force_next_flush()")
    conn.execute("VACUUM ANALYZE items")
    build(conn, options="WITH (m = 6)")
    return enable(conn, target_recall=target, sample_rate=1.0, min_samples=min_samples)


def run_searches(conn: Connection, count: int, seed: int = 2) -> None:
    """Run searches, which are recorded."""
    for query in points(count, seed):
        search(conn, query)


def request(conn: Connection, call: str, *values: object) -> int:
    """Make a request to the daemon; return its number."""
    return int(one(conn, f"SELECT vectuned.{call}", *values))


def serve(conn: Connection, number: int, chosen: Settings | None = None) -> dict[str, Any]:
    """Process the oldest request, which must be this one and succeed; return its result."""
    assert run_next_request(conn.info.dsn, chosen or settings())
    state, result, error = row(conn, number)
    assert (state, error) == ("done", None)
    assert isinstance(result, dict)
    return result


def row(conn: Connection, number: int) -> tuple[str, Any, str | None]:
    """Return the state, result and error of a request."""
    found = conn.execute(
        "SELECT state, result, error FROM vectuned.requests WHERE request_id = %s", (number,)
    ).fetchone()
    assert found is not None
    return found[0], found[1], found[2]
