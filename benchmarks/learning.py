"""Measure learning: distillation, the ReasoningBank, its lookup in Python and in SQL, and replay.

Run as `python -m benchmarks.learning [--dsn ... --relation items --column embedding]`. Without a DSN an
embedded server in a temporary folder and synthetic vectors are used for the lookup in SQL and the replay.
Prints one JSON document; each time is the best and the median of `--repeat` runs. The figures to watch:
distillation of 1,000 replays in 1 s, 10,000 patterns in 100 MB, a replay in 40 ms on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import psycopg
from pgvector.psycopg import register_vector
from psycopg import sql

from benchmarks.scratch import scratch_database
from vectuned.learning.model import ladder
from vectuned.learning.model.trajectory import Trajectories
from vectuned.learning.model.tuned_columns import TunedColumn, read_tuned_columns
from vectuned.learning.model.vectors import Vector, to_array
from vectuned.learning.patterns import signature
from vectuned.learning.patterns.distillation import distil
from vectuned.learning.patterns.optimizer import SearchOptimizer
from vectuned.learning.patterns.reasoning_bank import Patterns, ReasoningBank, confidence_from_samples
from vectuned.learning.policy.calibration import find_fixed_policy, learn_adaptive_policy
from vectuned.learning.replay.replay import replay
from vectuned.learning.statistics.demand import Demand
from vectuned.learning.statistics.replay_sample import ReplaySample
from vectuned.sql.install import migrate

Singles = npt.NDArray[np.float32]
Connection = psycopg.Connection[Any]

_SIZES = (64, 500, 10_000)
_MS_PER_BUFFER = 0.002
_STATUS = Path("/proc/self/status")


def main() -> None:
    """Run the benchmark and print its result."""
    options = _parser().parse_args()
    result: dict[str, Any] = {
        "machine": {
            "cores": os.cpu_count(),
            "platform": platform.platform(),
            "python": platform.python_version(),
        },
        "options": {n: v for n, v in vars(options).items() if n not in ("dsn", "data")}
        | {"data": options.data.name if options.data else None},
        "distillation": distillation(options),
        "bank": bank(options),
    }
    memory = {"shared_buffers": "512MB", "maintenance_work_mem": "512MB"}
    with scratch_database(options.dsn, memory) as dsn, psycopg.connect(dsn, autocommit=True) as conn:
        if options.dsn is None:
            conn.execute("CREATE EXTENSION IF NOT EXISTS vector")
            migrate(conn)
        register_vector(conn)
        row = conn.execute("SELECT current_setting('server_version')").fetchone()
        result["machine"]["postgresql"] = row[0] if row else None
        with _column(conn, options) as tuned:
            result["replay"] = replaying(conn, tuned, options)
        result["lookup_sql_ms"] = lookup_in_sql(conn, options)
    json.dump(result, sys.stdout, indent=2)
    sys.stdout.write("\n")


def timed(work: Callable[[], object], repeat: int, per: int = 1) -> dict[str, float]:
    """Return the best and the median time of `repeat` runs, in ms divided by `per`."""
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        work()
        times.append((time.perf_counter() - started) * 1000 / per)
    return {"best": round(min(times), 5), "median": round(statistics.median(times), 5)}


def replay_sample(options: argparse.Namespace) -> ReplaySample:
    """Return `options.replays` replays: real ones drawn from a file, or synthetic ones."""
    rng = np.random.default_rng(options.seed)
    if options.data:
        with np.load(options.data) as file:
            rows = rng.integers(0, len(file["recall"]), options.replays)
            probes = {n: file[f"probe_{n}"][rows].astype(np.float64) for n in ladder.PROBES}
            cost = file["blocks"][rows].astype(np.float64)
            return ReplaySample(10, probes, file["recall"][rows] / 10.0, cost, _MS_PER_BUFFER * cost)
    hardness = rng.random((options.replays, 1))
    steps = rng.gamma(1 + 3 * hardness, 1.0, (options.replays, ladder.PROBES[-1]))
    seen = 1 + np.cumsum(steps, axis=1) / 100
    chance = 1 - hardness * np.exp(-np.arange(len(ladder.RUNGS)) / 4)
    recall = np.sort(rng.binomial(10, chance) / 10, axis=1)
    cost = np.array(ladder.RUNGS) * 15.0 * rng.uniform(0.8, 1.2, (options.replays, 1)) + 200
    return ReplaySample(10, {n: seen[:, :n] for n in ladder.PROBES}, recall, cost, _MS_PER_BUFFER * cost)


def distillation(options: argparse.Namespace) -> dict[str, Any]:
    """Time the calibration of replays into a certified policy, and its parts."""
    data = replay_sample(options)
    seen = data.probes[56]
    fitted = signature.fit_signature(seen, 10, 56, data.recall)
    signatures = fitted.transform(seen)
    fixed = find_fixed_policy(data, Demand(options.target))
    adaptive = learn_adaptive_policy(data, fixed.policy, Demand(options.target))

    def whole() -> None:
        learn_adaptive_policy(
            data, find_fixed_policy(data, Demand(options.target)).policy, Demand(options.target)
        )

    return {
        "replays": len(data),
        "whole_ms": timed(whole, options.repeat),
        "signature_ms": timed(lambda: signature.fit_signature(seen, 10, 56, data.recall), options.repeat),
        "clusters_ms": timed(lambda: distil(signatures, data.recall, data.cost), options.repeat),
        "fixed_ef": fixed.policy.fixed_ef,
        "saving": round(fixed.cost / adaptive.cost, 3) if adaptive is not None else None,
    }


def patterns(count: int, seed: int) -> Patterns:
    """Draw patterns."""
    rng = np.random.default_rng(seed)
    samples = rng.integers(1, 100, count)
    return Patterns(
        np.clip(np.rint(rng.normal(0, 64, (count, 4))), -1000, 1000).astype(np.float32),
        np.sort(rng.random((count, len(ladder.RUNGS))), axis=1).astype(np.float32),
        np.cumsum(rng.random((count, len(ladder.RUNGS))), axis=1).astype(np.float32),
        samples,
        rng.uniform(2, 13, count),
        rng.random(count),
        confidence_from_samples(samples),
        np.zeros(count),
        np.zeros(count),
        np.zeros(count),
    )


def bank(options: argparse.Namespace) -> dict[str, Any]:
    """Measure memory and time of banks of several sizes."""
    return {str(count): _bank_of(count, options) for count in _SIZES}


def _bank_of(count: int, options: argparse.Namespace) -> dict[str, Any]:
    # tracemalloc counts NumPy's memory; the resident size includes hnswlib's, roughly.
    before = _resident_mb()
    tracemalloc.start()
    held = ReasoningBank(patterns(count, options.seed))
    traced = tracemalloc.get_traced_memory()[0] / 2**20
    tracemalloc.stop()
    resident = max(_resident_mb() - before, 0.0)
    wanted = patterns(1000, options.seed + 1).centroids
    data = replay_sample(options)
    fitted = signature.fit_signature(data.probes[56], 10, 56, data.recall)
    policy = replace(find_fixed_policy(data, Demand(options.target)).policy, signature=fitted, reach=1e9)
    optimizer, probe = SearchOptimizer(held, policy), data.probes[56][0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bank.npz"
        return {
            "numpy_mb": round(traced, 3),
            "resident_mb": round(resident, 1),
            "lookup_ms_one_by_one": timed(
                lambda: [held.lookup(each) for each in wanted[:, None]], options.repeat, per=len(wanted)
            ),
            "lookup_ms_together": timed(lambda: held.lookup(wanted), options.repeat, per=len(wanted)),
            "optimize_ms": timed(
                lambda: [optimizer.optimize(probe, 10) for _ in range(200)], options.repeat, per=200
            ),
            "save_ms": timed(lambda: held.save(path), options.repeat),
            "load_ms": timed(lambda: ReasoningBank.load(path), options.repeat),
            "file_mb": round(path.stat().st_size / 2**20, 3),
        }


def lookup_in_sql(conn: Connection, options: argparse.Namespace) -> dict[str, Any]:
    """Time the decision in the database for several sizes, without the overhead of the statement."""
    return {str(count): _decisions_of(conn, count, options) for count in _SIZES}


def _decisions_of(conn: Connection, count: int, options: argparse.Namespace) -> dict[str, float]:
    with conn.transaction(force_rollback=True):
        column = _synthetic(conn, 100, 8, options.seed)
        _publish(conn, column, patterns(count, options.seed))
        # A DO block calls the function as plpgsql does, a thousand times in one round trip.
        body = (
            "DO $$ DECLARE d record; BEGIN FOR i IN 1 .. 1000 LOOP "
            f"SELECT * INTO d FROM vectuned._decide({column}, 10, "
            "ARRAY[i % 90, i % 70, i % 50, i % 30]::real[]::vector, 1e9); END LOOP; END $$"
        )
        empty = (
            "DO $$ DECLARE d record; BEGIN FOR i IN 1 .. 1000 LOOP "
            "SELECT ARRAY[i % 90, i % 70, i % 50, i % 30]::real[]::vector INTO d; END LOOP; END $$"
        )
        calls = timed(lambda: conn.execute(body.encode()), options.repeat, per=1000)
        nothing = timed(lambda: conn.execute(empty.encode()), options.repeat, per=1000)
    return {name: round(calls[name] - nothing[name], 5) for name in calls}


def _publish(conn: Connection, column: int, held: Patterns) -> None:
    conn.execute(
        "INSERT INTO vectuned.bank (column_id, k_class, version, generation, access_path, ef_search, "
        "expected_recall, recall_bound, certified, samples, target_recall, probe_ef, center, weights, reach, "
        "reason) VALUES (%s, 10, 1, 0, 'hnsw_adaptive', 100, 0.95, 0.95, true, 100, 0.95, 56, %s, %s, 1e9, "
        "'benchmark')",
        (column, [0.0] * signature.FEATURES, [0.0] * signature.FEATURES * signature.COMPONENTS),
    )
    rows = [
        (
            column,
            i,
            Vector(held.centroids[i]),
            held.effort[i],
            held.expected_recall[i],
            held.confidence[i],
            int(held.samples[i]),
            held.recall[i].tolist(),
            held.cost[i].tolist(),
        )
        for i in range(len(held))
    ]
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO vectuned.pattern (column_id, k_class, pattern_no, centroid, effort, "
            "expected_recall, confidence, samples, recall, cost) "
            "VALUES (%s, 10, %s, %s, %s, %s, %s, %s, %s, %s)",
            rows,
        )
    conn.execute("ANALYZE vectuned.pattern")


def replaying(conn: Connection, tuned: TunedColumn, options: argparse.Namespace) -> dict[str, Any]:
    """Time replays, with exact answers, of queries near rows of the table; store nothing."""
    vectors = _queries(conn, tuned, options.queries, options.seed)
    trajectories = Trajectories(
        [uuid4() for _ in vectors],
        [row[0] for row in conn.execute("SELECT now()").fetchall()] * len(vectors),
        vectors,
        [10] * len(vectors),
        [[] for _ in vectors],
        [None] * len(vectors),
        [None] * len(vectors),
        [False] * len(vectors),
        [True] * len(vectors),
        [None] * len(vectors),
        [None] * len(vectors),
    )
    marks: list[float] = []

    def work() -> None:
        replay(conn, tuned, trajectories, progress=lambda _: marks.append(time.perf_counter()))
        conn.execute("DELETE FROM vectuned.replay WHERE query_id = ANY (%s)", (trajectories.query_ids,))

    whole = timed(work, options.repeat, per=len(vectors))
    scans = np.diff(np.array(marks).reshape(options.repeat, len(vectors)), axis=1) * 1000
    row = conn.execute(
        "SELECT reltuples FROM pg_class WHERE oid = %s::regclass",
        (f'"{tuned.column.schema}"."{tuned.column.table}"',),
    ).fetchone()
    return {
        "rows": int(row[0]) if row else None,
        "dimensions": tuned.column.dimensions,
        "queries": len(vectors),
        "ms_per_query_with_truth": whole,
        "scan_ms": {
            "mean": round(float(scans.mean()), 3),
            "p50": round(float(np.median(scans)), 3),
            "p99": round(float(np.quantile(scans, 0.99)), 3),
        },
    }


def _queries(conn: Connection, tuned: TunedColumn, count: int, seed: int) -> Singles:
    """Return rows of the table with noise of a tenth of their norm."""
    column = tuned.column
    statement = sql.SQL("SELECT {}::{} FROM {} WHERE {} IS NOT NULL ORDER BY random() LIMIT {}").format(
        column.vector,
        sql.Identifier(column.extension_schema, "vector"),
        column.relation,
        column.vector,
        sql.Literal(count),
    )
    with conn.transaction():
        conn.execute("SELECT setseed(%s)", (seed % 1000 / 1000,))
        rows = conn.execute(statement).fetchall()
    vectors = np.array([to_array(row[0]) for row in rows], dtype=np.float32)
    noise = np.random.default_rng(seed).standard_normal(vectors.shape, dtype=np.float32)
    length = np.linalg.norm(vectors, axis=1, keepdims=True) / np.sqrt(vectors.shape[1])
    return np.asarray(vectors + np.float32(0.1) * noise * length, dtype=np.float32)


@contextmanager
def _column(conn: Connection, options: argparse.Namespace) -> Iterator[TunedColumn]:
    """Yield the column to replay on: the one given, or a temporary synthetic one."""
    if options.relation:
        row = conn.execute(
            "SELECT id FROM vectuned.tuned_column WHERE relation = %s::regclass AND column_name = %s",
            (options.relation, options.column),
        ).fetchone()
        if row is None:
            sys.exit(f"{options.relation}.{options.column} is not tuned: call vectuned.enable first.")
        yield next(tuned for tuned in read_tuned_columns(conn) if tuned.column.id == row[0])
        return
    column = _synthetic(conn, options.rows, options.dimensions, options.seed)
    try:
        yield next(tuned for tuned in read_tuned_columns(conn) if tuned.column.id == column)
    finally:
        conn.execute("SELECT vectuned.disable('vectuned_benchmark', 'embedding', forget => true)")
        conn.execute("DROP TABLE vectuned_benchmark")


def _synthetic(conn: Connection, rows: int, dimensions: int, seed: int) -> int:
    """Create a table of random vectors and enable tuning; return the id of the tuned column."""
    vectors = np.random.default_rng(seed).standard_normal((rows, dimensions), dtype=np.float32)
    conn.execute(
        sql.SQL("CREATE TABLE vectuned_benchmark (id int PRIMARY KEY, embedding vector({}))").format(
            sql.Literal(dimensions)
        )
    )
    with (
        conn.cursor() as cursor,
        cursor.copy("COPY vectuned_benchmark FROM STDIN WITH (FORMAT binary)") as copy,
    ):
        copy.set_types(["int4", "vector"])
        for number, vector in enumerate(vectors):
            copy.write_row((number, Vector(vector)))
    conn.execute("CREATE INDEX ON vectuned_benchmark USING hnsw (embedding vector_cosine_ops)")
    conn.execute("ANALYZE vectuned_benchmark")
    conn.execute("SELECT vectuned.enable('vectuned_benchmark', 'embedding', sample_rate => 0)")
    row = conn.execute(
        "SELECT id FROM vectuned.tuned_column WHERE relation = 'vectuned_benchmark'::regclass"
    ).fetchone()
    if row is None:
        raise RuntimeError("vectuned.enable left no tuned column")
    return int(row[0])


def _resident_mb() -> float:
    """Return the resident size of this process."""
    for line in _STATUS.read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dsn", help="a database with the schema vectuned (default: an embedded server)")
    parser.add_argument("--relation", help="a tuned table to replay on (default: random vectors)")
    parser.add_argument("--column", default="embedding")
    parser.add_argument("--data", type=Path, help="real replays, such as tests/data/replays.npz")
    parser.add_argument("--replays", type=int, default=1000)
    parser.add_argument("--target", type=float, default=0.95)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dimensions", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    main()
