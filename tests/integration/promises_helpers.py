"""Searches, checks and what serves, for tests of promises and of changed tables."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tests.integration.table_helpers import Connection, one, search

from vectuned.daemon.work.worker import Worker
from vectuned.learning.oversight.promises import check_promises

DIMENSIONS = 16  # enough without structure that effort matters
TARGET = 0.9  # low enough to be proven from 200 searches


def points(count: int, seed: int, shift: float = 0.0) -> Any:
    return (np.random.default_rng(seed).normal(size=(count, DIMENSIONS)) + shift).astype(np.float32)


def ask(worker: Worker, count: int, seed: int, shift: float = 0.0, k: int = 10) -> None:
    """Search, then replay and check what was recorded."""
    for query in points(count, seed, shift):
        search(worker.conn, query, k)
    worker.drain()
    worker.replay_all()


def insert_checks(conn: Connection, recalls: Any, shape: str = "") -> None:
    """Store checks of the searches for up to 10 rows, as if a replay had made them."""
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO vectuned.recall_check "
            "(column_id, query_id, recorded_at, k_class, shape, version, recall) "
            "SELECT id, gen_random_uuid(), clock_timestamp(), 10, %s, "
            "(SELECT max(version) FROM vectuned.bank), %s FROM vectuned.tuned_column",
            [(shape, float(recall)) for recall in recalls],
        )


def served(conn: Connection) -> tuple[int, bool]:
    row = conn.execute("SELECT ef_search, certified FROM vectuned.bank WHERE k_class = 10").fetchone()
    assert row is not None
    return int(row[0]), bool(row[1])


def actions(conn: Connection) -> list[str]:
    rows = conn.execute("SELECT action FROM vectuned.event ORDER BY id").fetchall()
    return [row[0] for row in rows if row[0] not in ("enable", "indexes")]


def alert(conn: Connection) -> bool:
    return bool(one(conn, "SELECT alert FROM vectuned.tuned_column"))


def ef_of_all(worker: Worker) -> int:
    """Learn again and return what is published."""
    worker.learn(worker.columns()[0])
    return served(worker.conn)[0]


def fail(worker: Worker, k_class: int, shape: str = "") -> None:
    """Let checks of a class of searches miss everything, until there is an alarm."""
    alarms = actions(worker.conn).count("alarm")
    worker.conn.execute(
        "INSERT INTO vectuned.recall_check "
        "(column_id, query_id, recorded_at, k_class, shape, version, recall) "
        "SELECT c.id, gen_random_uuid(), clock_timestamp(), %s, %s, "
        "(SELECT max(version) FROM vectuned.bank), 0 "
        "FROM vectuned.tuned_column c, generate_series(1, 60)",
        (k_class, shape),
    )
    check_promises(worker.conn, worker.columns()[0], worker.limits)
    assert actions(worker.conn).count("alarm") == alarms + 1


def bank(conn: Connection) -> dict[int, tuple[int, bool]]:
    """Return ef_search and whether it is proven, by class of k."""
    rows = conn.execute("SELECT k_class, ef_search, certified FROM vectuned.bank").fetchall()
    return {k: (ef, certified) for k, ef, certified in rows}


def after_alarm(conn: Connection, k_class: int) -> int:
    """Return the ef_search after an alarm: 1.8 times what replays ask for, 1.2 to 2 times what serves."""
    row = conn.execute(
        "SELECT ef_search, asked_effort FROM vectuned.bank WHERE k_class = %s", (k_class,)
    ).fetchone()
    assert row is not None
    published, asked = int(row[0]), int(row[1])
    return min(math.ceil(max(1.2 * published, 1.8 * asked) - 1e-6), 2 * published)


def claim_of(conn: Connection, worker: Worker, shape: str = "") -> tuple[int, Any]:
    """Update the promises; return the number of checks and the recall of a class of searches."""
    check_promises(conn, worker.columns()[0], worker.limits)
    row = conn.execute(
        "SELECT checks, recall FROM vectuned.promise WHERE shape = %s AND k_class = 10", (shape,)
    ).fetchone()
    assert row is not None
    return row[0], row[1]


def serve_filter(conn: Connection, *rows: tuple[int, str, int | None, int | None]) -> None:
    """Publish paths for searches filtered by `seen =`: bucket, path, index and effort of each."""
    conn.execute("DELETE FROM vectuned.measured_path WHERE shape = 'seen ='")
    conn.execute("UPDATE vectuned.bank SET version = version + 1, published_at = clock_timestamp()")
    for bucket, path, index_no, effort in rows:
        conn.execute(
            "INSERT INTO vectuned.measured_path (column_id, k_class, shape, bucket, access_path, index_no, "
            "effort, proven, samples, serves) SELECT id, 10, 'seen =', %s, %s, %s, %s, true, 100, true "
            "FROM vectuned.tuned_column",
            (bucket, path, index_no, effort),
        )
