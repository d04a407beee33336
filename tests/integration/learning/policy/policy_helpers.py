"""Learning from recorded searches: a column that is easy and hard to search, and its replays."""

from __future__ import annotations

from typing import Any

import numpy as np
from tests.integration.table_helpers import Connection, Singles, build, drawn, enable, make, only, search

from vectuned.learning.model.trajectory import claim_pending, drain
from vectuned.learning.model.tuned_columns import TunedColumn, TunedIndex
from vectuned.learning.policy.learner import LearningOptions
from vectuned.learning.policy.replays import Replays, load_replays
from vectuned.learning.replay.replay import replay
from vectuned.learning.truth.recall import recall_at_k
from vectuned.learning.truth.truth import exact_neighbors

ROWS = 4000  # of the table: enough that the effort matters
TARGET = 0.9  # recall
# Whether the bank serves does not depend on what is measured: tests must not depend on which plan is faster.
ALWAYS, NEVER = LearningOptions(step_aside=-0.99), LearningOptions(step_aside=1e9)


def make_tuned(conn: Connection) -> TunedColumn:
    """Make a column of some thousand vectors, easy and hard ones; all of its searches are recorded."""
    make(conn, drawn(ROWS, seed=1), index=False)
    build(conn, options="WITH (m = 5, ef_construction = 24)")
    enable(conn, sample_rate=1.0, target_recall=TARGET)
    return only(conn)


def practise(conn: Connection, tuned: TunedColumn, count: int, *, seed: int = 100, k: int = 10) -> None:
    """Search, record, drain and replay."""
    for query in drawn(count, seed):
        search(conn, query, k)
    assert drain(conn) == count
    assert replay(conn, tuned, claim_pending(conn, tuned.column, count)) == count


def replays(conn: Connection, tuned: TunedColumn) -> list[tuple[TunedIndex, Replays]]:
    """Read the replays through every index."""
    return [(index, load_replays(conn, tuned, index)) for index in tuned.indexes]


def served_recall(
    conn: Connection, tuned: TunedColumn, queries: Singles, k: int = 10
) -> np.ndarray[Any, Any]:
    """Search with vectuned and compare with the exact answers."""
    found = np.array([[distance for _, distance in search(conn, query, k)] for query in queries])
    with conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        truth = exact_neighbors(conn, tuned.column, queries, k)
    return recall_at_k(found, truth, k)


def state(conn: Connection) -> list[tuple[Any, ...]]:
    """Return the setting that would serve a search, and the number of patterns."""
    return conn.execute(
        "SELECT b.k_class, b.version, b.access_path, b.ef_search, b.saving, b.reason, "
        "(SELECT count(*) FROM vectuned.pattern p WHERE (p.column_id, p.k_class) = (b.column_id, b.k_class)) "
        "FROM vectuned.bank b ORDER BY 1"
    ).fetchall()
