"""Measure the truth engine: exact neighbours of many queries by one pass over a table of random vectors.

Run as `python -m benchmarks.truth [--dsn ...]`; without a DSN it starts an embedded server in a temporary
folder. Prints one JSON document. The figure to watch: 1,000 queries against 117,659 x 384, k = 10, in 4 s
on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg
from pgvector.psycopg import register_vector
from psycopg import sql

from benchmarks.scratch import scratch_database
from vectuned.learning.model.column import VectorColumn
from vectuned.learning.model.vectors import HalfVector
from vectuned.learning.truth.truth import exact_neighbors

Singles = npt.NDArray[np.float32]
Connection = psycopg.Connection[Any]

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


def main() -> None:
    """Run the benchmark and print its result."""
    options = _parser().parse_args()
    with scratch_database(options.dsn) as dsn, psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE EXTENSION IF NOT EXISTS vector")
        register_vector(conn)
        column = _describe(conn, options)
        try:
            _load(conn, column, options)
            result = measure(conn, column, options)
        finally:
            conn.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(column.relation))
    json.dump(result, sys.stdout, indent=2)
    sys.stdout.write("\n")


def measure(conn: Connection, column: VectorColumn, options: argparse.Namespace) -> dict[str, Any]:
    """Time the truth engine `options.repeat` times, and plain SQL on the first `options.compare` queries."""
    rng = np.random.default_rng(options.seed + 1)
    queries = rng.standard_normal((options.queries, options.dimensions), dtype=np.float32)
    baseline = _reset_peak()
    seconds = []
    for _ in range(options.repeat):
        start = time.perf_counter()
        truth = exact_neighbors(conn, column, queries, options.k)
        seconds.append(time.perf_counter() - start)
    peak = _peak()
    result: dict[str, Any] = {
        "table": {"rows": options.rows, "dimensions": options.dimensions, "type": options.type},
        "search": {"queries": options.queries, "k": options.k, "metric": options.metric},
        "seconds": [round(value, 3) for value in seconds],
        "best_seconds": round(min(seconds), 3),
        "median_seconds": round(statistics.median(seconds), 3),
        "rows_per_second": round(options.rows / statistics.median(seconds)),
        "peak_memory_mb": None if baseline is None or peak is None else round((peak - baseline) / 1024),
        "machine": {
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "architecture": platform.machine(),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "postgresql": conn.info.server_version,
        },
    }
    if options.compare:
        statement = sql.SQL("SELECT {d} FROM {t} ORDER BY 1 LIMIT {k}").format(
            d=column.distance(sql.Placeholder()), t=column.relation, k=options.k
        )
        compared = queries[: options.compare]
        start = time.perf_counter()
        answers = [[row[0] for row in conn.execute(statement, (query,), binary=True)] for query in compared]
        each = (time.perf_counter() - start) / len(compared)
        width = len(answers[0])
        off = np.abs(truth.distances[: len(answers), :width] - np.array(answers))
        result["sql"] = {
            "queries": len(answers),
            "seconds_per_query": round(each, 4),
            "seconds_for_all": round(each * options.queries, 1),
            "times_as_long": round(each * options.queries / statistics.median(seconds), 1),
            "agrees": bool((off <= truth.tolerances[: len(answers), :width]).all()),
        }
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dsn", help="the database to use; pgvector is created in it if it is missing")
    parser.add_argument("--rows", type=int, default=117_659)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--type", choices=["vector", "halfvec"], default="vector")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--metric", choices=["cosine", "l2", "ip"], default="cosine")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument(
        "--compare", type=int, default=0, help="queries to answer by a sequential scan each, too"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser


def _describe(conn: Connection, options: argparse.Namespace) -> VectorColumn:
    """Describe the column of a table that does not exist yet."""
    found = conn.execute(
        "SELECT current_schema(), extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'vector'"
    ).fetchone()
    if found is None or found[0] is None:
        sys.exit("The database has no schema to create a table in: set search_path in the DSN.")
    schema, extension = found
    name = f"vectuned_benchmark_{os.getpid()}"
    return VectorColumn(
        0, schema, name, "embedding", options.metric, options.type, options.dimensions, ("id",), extension
    )


def _load(conn: Connection, column: VectorColumn, options: argparse.Namespace) -> None:
    """Create the table and fill it with normally distributed vectors."""
    conn.execute(
        sql.SQL("CREATE UNLOGGED TABLE {} (id bigint, {} {}({}))").format(
            column.relation, column.vector, column.type_name, sql.Literal(options.dimensions)
        )
    )
    rng = np.random.default_rng(options.seed)
    target = sql.SQL("COPY {} FROM STDIN (FORMAT BINARY)").format(column.relation)
    with conn.cursor() as cursor, cursor.copy(target) as copy:
        copy.set_types(["int8", options.type])
        for row in range(options.rows):
            vector = rng.standard_normal(options.dimensions, dtype=np.float32)
            copy.write_row((row, HalfVector(vector) if options.type == "halfvec" else vector))
    conn.execute(sql.SQL("VACUUM ANALYZE {}").format(column.relation))


def _reset_peak() -> int | None:
    """Reset the peak memory of this process and return its current use in kB, on Linux."""
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:
        return None
    return _peak()


def _peak() -> int | None:
    """Return the peak memory of this process in kB, on Linux."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)


if __name__ == "__main__":
    main()
