"""Workers that are killed at any time: publishes stay atomic, and no recorded search is lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from tests.integration.embedded_helpers import PACKAGE, eventually
from tests.integration.table_helpers import (
    Connection,
    clustered,
    enable,
    make,
    one,
    prepared,
    search,
    search_filtered,
)

from vectuned.config.settings import load_settings
from vectuned.daemon.server.embedded import EmbeddedServer
from vectuned.daemon.work.worker import Worker

DIMENSIONS = 8
# One statement, so that all of it is read in one snapshot: versions, what was published, and its parts.
BANK = """
SELECT (SELECT array_agg(DISTINCT b.version) FROM vectuned.bank b),
       (SELECT max((e.details ->> 'version')::int) FROM vectuned.event e WHERE e.action = 'publish'),
       (SELECT array_agg(b.k_class ORDER BY b.k_class) FROM vectuned.bank b),
       (SELECT count(*) FROM vectuned.bank b WHERE b.access_path LIKE '%adaptive' AND NOT EXISTS (
            SELECT FROM vectuned.pattern p WHERE p.column_id = b.column_id AND p.k_class = b.k_class)),
       (SELECT count(DISTINCT (m.k_class, m.shape)) FROM vectuned.measured_path m WHERE m.serves),
       (SELECT array_agg(DISTINCT s.state) FROM vectuned.status s)
"""


class Publisher:
    """A process that starts workers, which the test kills."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def _ask(self, order: str) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    @contextmanager
    def started(self) -> Iterator[None]:
        """Start a worker, and kill it after the block."""
        child = self._ask("start")
        try:
            yield
        finally:
            os.kill(child, signal.SIGKILL)
            assert self._ask("wait") == -signal.SIGKILL, "the worker had died by itself before"


@pytest.fixture
def publisher(conn: Connection) -> Iterator[Publisher]:
    environ = {
        **os.environ,
        "PYTHONPATH": str(PACKAGE.parent),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    command = [sys.executable, str(Path(__file__).parents[2] / "publisher_helpers.py"), conn.info.dsn]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ, cwd="/"
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield Publisher(process)
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="module")
def template(server: EmbeddedServer, template: str) -> str:
    """A database with a table that was learned about, and a complete bank."""
    with prepared(server.dsn, template, "template_crashes") as conn:
        make(conn, clustered(400, DIMENSIONS, seed=1))
        conn.execute("ALTER TABLE items ADD COLUMN kind int; UPDATE items SET kind = id % 4")
        conn.execute("CREATE INDEX ON items (kind); ANALYZE items")
        enable(conn, sample_rate=1.0, min_samples=20, target_recall=0.9)
        ask(conn, 60, seed=2)
        worker = Worker(conn, load_settings(None, {}, {}))
        worker.drain()
        worker.replay_all()
        worker.learn_all()
        assert complete_version(conn) == 1
    return "template_crashes"


def ask(conn: Connection, count: int, seed: int) -> None:
    for number, query in enumerate(clustered(count, DIMENSIONS, seed=seed)):
        if number % 2:
            search_filtered(conn, query, 10, {"kind": 1})
        else:
            search(conn, query)


def complete_version(conn: Connection) -> int:
    """Return the version of the bank, all of whose parts must come from one publish."""
    row = conn.execute(BANK).fetchone()
    assert row is not None
    versions, published, classes, broken, paths, states = row
    assert versions == [published]
    assert classes == [1, 3, 10, 30, 100, 300, 1000]
    assert broken == 0
    assert paths > len(classes)
    assert states == ["serving"]
    return int(published)


def count_recorded(conn: Connection) -> int:
    """Count the recorded searches; each must exist once."""
    row = conn.execute(
        "SELECT count(*), count(DISTINCT query_id) FROM "
        "(SELECT query_id FROM vectuned.inbox UNION ALL SELECT query_id FROM vectuned.trajectory) t"
    ).fetchone()
    assert row is not None
    assert row[0] == row[1]
    return int(row[0])


def alone(conn: Connection) -> bool:
    """Return whether no other session is left."""
    statement = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    return int(one(conn, statement)) == 0


def test_worker_killed_at_any_time_leaves_a_complete_bank_and_every_search(
    conn: Connection, publisher: Publisher
) -> None:
    draw = random.Random(5)
    ask(conn, 5, seed=9)
    began = time.monotonic()
    with publisher.started():
        assert eventually(lambda: complete_version(conn) > 2)
    cycle = time.monotonic() - began
    recorded, versions, amid = count_recorded(conn), [complete_version(conn)], 0
    # At least 50 times, and until some were killed amid a publish and some not, however fast the machine is.
    for trial in range(500):
        if trial >= 50 and amid >= 3 and versions[-1] > 12:
            break
        ask(conn, 6, seed=10 + trial)
        recorded += 6
        with publisher.started():
            time.sleep(draw.uniform(0.0, 1.5 * cycle))
            amid += int(one(conn, "SELECT count(*) FROM pg_stat_activity WHERE backend_xid IS NOT NULL"))
        versions.append(complete_version(conn))
        assert count_recorded(conn) == recorded
    assert versions == sorted(versions)
    assert versions[-1] > 12
    assert amid >= 3, "hardly any worker was killed in a writing transaction"
    assert eventually(lambda: alone(conn))
    worker = Worker(conn, load_settings(None, {}, {}))
    worker.drain()
    while worker.replay_all():
        pass
    assert one(conn, "SELECT count(*) FROM vectuned.trajectory WHERE replayed_at IS NOT NULL") == recorded
    assert one(conn, "SELECT count(*) FROM vectuned.inbox") == 0
    (tuned,) = worker.columns()
    assert worker.learn(tuned).version == complete_version(conn) == versions[-1] + 1


@pytest.mark.parametrize("table", ["filter_statistics", "bank", "pattern", "measured_path", "event"])
def test_worker_killed_while_it_publishes_leaves_the_previous_bank(
    conn: Connection, publisher: Publisher, table: str
) -> None:
    """A lock blocks the publish, so that the worker dies in that statement."""
    with psycopg.connect(conn.info.dsn) as holder:
        holder.execute(f"LOCK TABLE vectuned.{table} IN SHARE MODE")
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~* %s"
        with publisher.started():
            assert eventually(lambda: one(conn, waiting, ("vectuned|publish",)) == 1)
            assert complete_version(conn) == 2
    assert eventually(lambda: alone(conn))
    assert complete_version(conn) == 2
