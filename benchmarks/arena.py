"""The table that policies are compared on: vectors of a set, the usual index, and a tuned column."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import psycopg
from psycopg import sql

from benchmarks.scratch import scratch_database
from benchmarks.sets import VectorSet
from vectuned.config.settings import load_settings
from vectuned.daemon.console import Console
from vectuned.daemon.database.index_build import build_with_progress, compose_create_index
from vectuned.daemon.database.session import open_session
from vectuned.daemon.work.worker import Worker
from vectuned.learning.advisor import Definition
from vectuned.learning.index_build import plan_build, read_build_server
from vectuned.learning.model.arrays import Singles
from vectuned.learning.model.column import VectorColumn
from vectuned.learning.model.tuned_columns import TunedColumn, read_tuned_columns
from vectuned.learning.model.vectors import Vector
from vectuned.learning.patterns.optimizer import Policy
from vectuned.sql.install import migrate

SCHEMA: Final = "vectuned_bench"
TABLE: Final = "vectors"
RELATION: Final = f"{SCHEMA}.{TABLE}"
USUAL: Final = Definition("hnsw", "plain", m=16, ef_construction=64)
# Settings of a server that has the machine to itself, so that indexes are built and searched in memory.
SERVER: Final = {
    "shared_buffers": "3GB",
    "maintenance_work_mem": "3GB",
    "max_wal_size": "8GB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "fsync": "off",
    "autovacuum": "off",
}


@dataclass
class Arena:
    """A loaded table: `tuned` is its column, as `worker` knows it; `k` is the k of all searches."""

    conninfo: str
    conn: psycopg.Connection[Any]
    worker: Worker
    tuned: TunedColumn
    data: VectorSet
    k: int
    console: Console
    build_seconds: float
    replay_ms: float = 0.0

    def record(self, queries: Singles, categories: npt.NDArray[np.int16] | None = None) -> None:
        """Search with vectuned.search, filtered if categories are given; record and replay every search."""
        self.tuned = enable(self.conn, self.tuned.target_recall, sample_rate=1.0)
        with self.console.progress("searches to learn from", len(queries)) as progress:
            for number, vector in enumerate(queries):
                condition = None if categories is None else f'{{"category": {categories[number]}}}'
                self.conn.execute(
                    "SELECT FROM vectuned.search(%s::regclass, %s, %s, %s)",
                    (RELATION, Vector(vector), self.k, condition),
                )
                progress(number + 1)
        self.worker.drain()
        began = monotonic()
        with self.console.progress("replaying them", len(queries)) as progress:
            self.worker.replay(self.tuned, len(queries), progress)
        self.replay_ms = (monotonic() - began) * 1000 / len(queries)

    def learn(self, target: float, sample_rate: float = 0.05) -> Policy:
        """Set the column's target recall, learn from the replays, and return the served policy."""
        self.tuned = enable(self.conn, target, sample_rate)
        lesson = self.worker.learn(self.tuned)
        self.tuned = self.worker.refresh(self.tuned)
        return lesson.served[self.k].policy

    def server(self) -> str:
        """Return the names and versions of server and extension."""
        row = self.conn.execute(
            "SELECT current_setting('server_version'), extversion FROM pg_extension WHERE extname = 'vector'"
        ).fetchone()
        assert row is not None
        return f"PostgreSQL {row[0]}, pgvector {row[1]}"

    def index_mb(self) -> float:
        """Return the size of the main index."""
        name = self.tuned.indexes[0].name
        row = self.conn.execute("SELECT pg_relation_size(%s::regclass)", (name,)).fetchone()
        assert row is not None
        return round(float(row[0]) / 2**20, 1)


@contextmanager
def open_arena(data: VectorSet, k: int, target: float, console: Console, dsn: str | None) -> Iterator[Arena]:
    """Load a set into a scratch server, or the database at `dsn`, with the usual index on its vectors.

    Replaces the schema vectuned_bench of that database.
    """
    with scratch_database(dsn, SERVER) as conninfo:
        with psycopg.connect(conninfo, autocommit=True) as admin:
            migrate(admin)
        with open_session(conninfo) as conn:
            load_rows(conn, data, console)
            column = _column(conn, data)
            statement = compose_create_index(column, USUAL, column.relation, "vectors_embedding")
            index = sql.Identifier(column.schema, "vectors_embedding")
            plan = plan_build(read_build_server(conn), USUAL, *data.rows.shape)
            seconds = build_with_progress(
                conn, conninfo, statement, index, plan, f"building {USUAL}", console
            )
            conn.execute("CREATE INDEX ON vectuned_bench.vectors (category)")
            conn.execute("VACUUM ANALYZE vectuned_bench.vectors")
            tuned = enable(conn, target, sample_rate=1.0)
            worker = Worker(conn, load_settings(None, {}, {}))
            yield Arena(conninfo, conn, worker, tuned, data, k, console, seconds)


def enable(conn: psycopg.Connection[Any], target: float, sample_rate: float) -> TunedColumn:
    """Enable tuning of the table for a target recall, with `sample_rate` of its searches recorded."""
    conn.execute(
        "SELECT vectuned.enable(%s::regclass, 'embedding', target_recall => %s, sample_rate => %s)",
        (RELATION, target, sample_rate),
    )
    return tuned_columns(conn)[0]


def tuned_columns(conn: psycopg.Connection[Any]) -> list[TunedColumn]:
    """Return the tuned columns of the table."""
    return [tuned for tuned in read_tuned_columns(conn) if tuned.column.schema == SCHEMA]


def _column(conn: psycopg.Connection[Any], data: VectorSet) -> VectorColumn:
    """Describe the column before vectuned knows it, which requires an index."""
    row = conn.execute(
        "SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'vector'"
    ).fetchone()
    assert row is not None
    width = data.rows.shape[1]
    return VectorColumn(0, SCHEMA, TABLE, "embedding", data.metric, "vector", width, ("id",), row[0])


def load_rows(conn: psycopg.Connection[Any], data: VectorSet, console: Console) -> None:
    """Load a set into a new table without a vector index."""
    conn.execute("SET client_min_messages = warning")
    for _ in tuned_columns(conn):
        conn.execute("SELECT vectuned.disable(%s::regclass, 'embedding', forget => true)", (RELATION,))
    conn.execute("DROP SCHEMA IF EXISTS vectuned_bench CASCADE")
    conn.execute("CREATE SCHEMA vectuned_bench")
    conn.execute(
        sql.SQL(
            "CREATE TABLE vectuned_bench.vectors"
            " (id int PRIMARY KEY, category int NOT NULL, embedding vector({}) NOT NULL)"
        ).format(sql.Literal(data.rows.shape[1]))
    )
    statement = "COPY vectuned_bench.vectors FROM STDIN (FORMAT BINARY)"
    with console.progress("loading rows", len(data.rows)) as progress, conn.cursor().copy(statement) as copy:
        copy.set_types(["int4", "int4", "vector"])
        for number, (category, vector) in enumerate(zip(data.categories, data.rows, strict=True), 1):
            copy.write_row((number, int(category), Vector(vector)))
            if number % 5000 == 0:
                progress(number)
