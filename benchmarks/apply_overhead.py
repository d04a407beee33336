"""Measure what `vectuned.apply` and `vectuned.search` add to a statement at the same ef_search.

Run as `python -m benchmarks.apply_overhead [--json] [--dsn DSN]`. A table of random vectors of its own is
searched for the ten nearest rows in shuffled blocks: by the bare statement, by the same with `apply`, for one
that has no filter and for one that may have, and by `vectuned.search`, which records 5 %. Each arm has a
connection and a text of its own, for three kinds of client: statements that the driver prepares, that it does
not, and the simple protocol. The figure to watch: `added_ms` of `apply`, at most 0.03 ms where the statement
has no filter.
"""

from __future__ import annotations

import argparse
import itertools
import json
from time import perf_counter
from typing import Any, Final

import numpy as np
import psycopg
from psycopg import sql

from benchmarks.scratch import scratch_database
from vectuned.sql.files import trusted
from vectuned.sql.install import migrate

CLIENTS: Final = ("prepared", "unprepared", "simple")
TABLE: Final = "vectuned_bench.points"
ROWS: Final = 20_000  # a search takes about a millisecond
DIMENSIONS: Final = 64  # few, so that the text of a query is short beside the search
BLOCKS: Final = 40  # an arm: the intervals of medians come from whole blocks
BLOCK: Final = 40  # searches of a block: some tens of milliseconds, so that load drifts alike for all arms
RESAMPLES: Final = 2000  # of whole blocks, for the intervals
ORDER: Final = "SELECT id FROM vectuned_bench.points ORDER BY embedding <=> {} LIMIT 10"
ARMS: Final = {
    "bare": ORDER.format("%s::vector"),
    "apply": ORDER.format(f"(SELECT vectuned.apply('{TABLE}', %s::vector, 10, filtered => false))"),
    "apply, may be filtered": ORDER.format(f"(SELECT vectuned.apply('{TABLE}', %s::vector, 10))"),
    "search": f"SELECT id FROM vectuned.search('{TABLE}', %s::vector, 10)",
}


def prepare_table(conn: psycopg.Connection[Any], seed: int) -> None:
    """Create and tune a table of random vectors (ROWS, DIMENSIONS)."""
    conn.execute("DROP SCHEMA IF EXISTS vectuned_bench CASCADE; CREATE SCHEMA vectuned_bench")
    conn.execute(trusted(f"CREATE TABLE {TABLE} (id bigint PRIMARY KEY, embedding vector({DIMENSIONS}))"))
    with conn.cursor().copy(trusted(f"COPY {TABLE} FROM STDIN")) as copy:
        for number, vector in enumerate(np.random.default_rng(seed).normal(size=(ROWS, DIMENSIONS))):
            copy.write_row((number, _text(vector)))
    conn.execute(trusted(f"CREATE INDEX ON {TABLE} USING hnsw (embedding vector_cosine_ops)"))
    conn.execute(trusted(f"VACUUM ANALYZE {TABLE}"))
    conn.execute("SELECT vectuned.enable(%s, 'embedding')", (TABLE,))


def _text(vector: np.ndarray[Any, Any]) -> str:
    return "[" + ",".join(f"{value:.6g}" for value in vector.tolist()) + "]"


def _connect(dsn: str, client: str) -> psycopg.Connection[Any]:
    conn = psycopg.connect(dsn, autocommit=True)
    conn.prepare_threshold = 0 if client == "prepared" else None
    if client == "simple":
        conn.cursor_factory = psycopg.ClientCursor
    return conn


def measure(dsn: str, seed: int) -> dict[str, Any]:
    """Return p50 and p99 of every client and arm in milliseconds, and what each adds to the bare one."""
    rng = np.random.default_rng(seed)
    queries = [_text(vector) for vector in rng.normal(size=(200, DIMENSIONS))]
    runs = list(itertools.product(CLIENTS, ARMS))
    conns = {(client, arm): _connect(dsn, client) for client, arm in runs}
    ms: dict[tuple[str, str], list[list[float]]] = {run: [] for run in runs}
    for block in range(BLOCKS + 2):  # the first two warm up: the driver prepares the statements
        asked = [queries[each] for each in rng.integers(len(queries), size=BLOCK)]
        for place in rng.permutation(len(runs)).tolist():
            run = runs[place]
            statement, taken = trusted(ARMS[run[1]]), []
            for query in asked:
                started = perf_counter()
                found = conns[run].execute(statement, (query,)).fetchall()
                taken.append(1e3 * (perf_counter() - started))
                if len(found) != 10:
                    raise RuntimeError(f"{run} found {len(found)} rows of 10")
            if block >= 2:
                ms[run].append(taken)
    for conn in conns.values():
        conn.close()
    picks = rng.integers(BLOCKS, size=(RESAMPLES, BLOCKS))
    return {
        "rows": ROWS,
        "dimensions": DIMENSIONS,
        "searches": BLOCKS * BLOCK,
        "clients": {
            client: {arm: _figures(ms[client, arm], ms[client, "bare"], picks) for arm in ARMS}
            for client in CLIENTS
        },
    }


def _figures(
    taken: list[list[float]], bare: list[list[float]], picks: np.ndarray[Any, Any]
) -> dict[str, Any]:
    times, others = np.array(taken), np.array(bare)
    added = np.median(times, axis=1) - np.median(others, axis=1)
    ratio = times.mean(axis=1)[picks].mean(axis=1) / others.mean(axis=1)[picks].mean(axis=1)
    bounds = {
        "added_ms": np.quantile(np.median(added[picks], axis=1), [0.025, 0.975]),
        "ratio_of_means": np.quantile(ratio, [0.025, 0.975]),
    }
    values = {"added_ms": np.median(added), "ratio_of_means": times.mean() / others.mean()}
    return {
        "p50_ms": round(float(np.median(times)), 4),
        "p99_ms": round(float(np.quantile(times, 0.99)), 4),
        **{
            name: {
                "value": round(float(values[name]), 4),
                "at_least": round(float(low), 4),
                "at_most": round(float(high), 4),
            }
            for name, (low, high) in bounds.items()
        },
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--dsn", help="a database to use (default: an embedded server)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with scratch_database(options.dsn) as dsn, psycopg.connect(dsn, autocommit=True) as conn:
        migrate(conn)
        prepare_table(conn, options.seed)
        try:
            found = measure(dsn, options.seed)
        finally:
            conn.execute("SELECT vectuned.disable(%s, 'embedding', forget => true)", (TABLE,))
            conn.execute(sql.SQL("DROP SCHEMA vectuned_bench CASCADE"))
    if options.json:
        print(json.dumps(found, indent=1))
        return
    for client, arms in found["clients"].items():
        for arm, figures in arms.items():
            added = figures["added_ms"]
            print(
                f"{client:10} {arm:22} p50 {figures['p50_ms']:.3f} ms, p99 {figures['p99_ms']:.3f} ms, added "
                f"{added['value']:.3f} ms ({added['at_least']:.3f} to {added['at_most']:.3f})"
            )


if __name__ == "__main__":
    main()
