"""Measure what many tuned columns cost each other: enabling one more, and finding a column's function.

Run as `python benchmarks/many_columns.py [--columns N] [--json] [--dsn DSN]`. Small equal tables are created
and tuned one after the other. At some numbers of columns the newest calls of `vectuned.enable` count, and the
first and the last table are searched in shuffled blocks, each over a connection of its own that prepares its
statement. The figures to watch: `enable_ms` of the last column, at most 100 ms, and `last_over_first_ms`, at
most 0.02 ms.
"""

from __future__ import annotations

import argparse
import json
from time import perf_counter
from typing import Any, Final

import numpy as np
import psycopg

from benchmarks.scratch import scratch_database
from vectuned.sql.files import trusted
from vectuned.sql.install import migrate

SCHEMA: Final = "vectuned_bench"
ROWS: Final = 200  # few: what is measured is the way to the search, not the search
DIMENSIONS: Final = 8  # few, for the same reason
STAGES: Final = (1, 50, 64, 250, 1000, 2000)  # numbers of columns to measure at; over 64 they are divided
ENABLES: Final = 9  # enables of a stage: their median
BLOCKS: Final = 60  # an arm
BLOCK: Final = 50  # searches of a block: some milliseconds, so that load drifts alike for both arms
RESAMPLES: Final = 2000  # of whole blocks, for the intervals


def create_table(conn: psycopg.Connection[Any], number: int) -> str:
    """Create a table like all others, with random vectors and an index; return its name."""
    name = f"{SCHEMA}.t{number}"
    conn.execute(
        trusted(
            f"CREATE TABLE {name} (id bigint PRIMARY KEY, embedding vector({DIMENSIONS})); "
            f"INSERT INTO {name} SELECT * FROM {SCHEMA}.seed; "
            f"CREATE INDEX ON {name} USING hnsw (embedding vector_cosine_ops) "
            f"WITH (m = 4, ef_construction = 8); "
            f"ANALYZE {name}"
        )
    )
    return name


def enable(conn: psycopg.Connection[Any], name: str) -> float:
    """Tune a table without recording; return the milliseconds it took."""
    started = perf_counter()
    conn.execute("SELECT vectuned.enable(%s::regclass, 'embedding', sample_rate => 0)", (name,))
    return 1e3 * (perf_counter() - started)


def compare(dsn: str, first: str, last: str, rng: np.random.Generator) -> dict[str, Any]:
    """Search two tables in shuffled blocks; return medians and their difference with bounds, in ms."""
    queries = [_text(vector) for vector in rng.normal(size=(100, DIMENSIONS))]
    names = (first, last)
    conns = [psycopg.connect(dsn, autocommit=True, prepare_threshold=0) for _ in names]
    statements = [trusted(f"SELECT id FROM vectuned.search('{name}', %s::vector, 10)") for name in names]
    taken: list[list[list[float]]] = [[], []]
    opened = []
    for conn, statement in zip(conns, statements, strict=True):
        started = perf_counter()
        conn.execute(statement, (queries[0],)).fetchall()
        opened.append(1e3 * (perf_counter() - started))
    for block in range(BLOCKS + 2):  # the first two warm up
        asked = [queries[each] for each in rng.integers(len(queries), size=BLOCK)]
        for arm in rng.permutation(2).tolist():
            times = []
            for query in asked:
                started = perf_counter()
                conns[arm].execute(statements[arm], (query,)).fetchall()
                times.append(1e3 * (perf_counter() - started))
            if block >= 2:
                taken[arm].append(times)
    for conn in conns:
        conn.close()
    medians = [np.median(np.array(each), axis=1) for each in taken]
    added = medians[1] - medians[0]
    picks = rng.integers(BLOCKS, size=(RESAMPLES, BLOCKS))
    low, high = np.quantile(np.median(added[picks], axis=1), [0.025, 0.975])
    return {
        "first_p50_ms": round(float(np.median(taken[0])), 4),
        "last_p50_ms": round(float(np.median(taken[1])), 4),
        "first_p99_ms": round(float(np.quantile(taken[0], 0.99)), 4),
        "last_p99_ms": round(float(np.quantile(taken[1], 0.99)), 4),
        "last_over_first_ms": {
            "value": round(float(np.median(added)), 4),
            "at_least": round(float(low), 4),
            "at_most": round(float(high), 4),
        },
        "first_search_of_a_session_ms": round(float(np.mean(opened)), 2),
    }


def _text(vector: np.ndarray[Any, Any]) -> str:
    return "[" + ",".join(f"{value:.6g}" for value in vector.tolist()) + "]"


def measure(dsn: str, columns: int, seed: int) -> dict[str, Any]:
    """Return the figures of every stage up to a number of columns."""
    rng = np.random.default_rng(seed)
    stages = []
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(trusted(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE; CREATE SCHEMA {SCHEMA}"))
        conn.execute(
            trusted(f"CREATE TABLE {SCHEMA}.seed (id bigint PRIMARY KEY, embedding vector({DIMENSIONS}))")
        )
        with conn.cursor().copy(trusted(f"COPY {SCHEMA}.seed FROM STDIN")) as copy:
            for number, vector in enumerate(rng.normal(size=(ROWS, DIMENSIONS))):
                copy.write_row((number, _text(vector)))
        names: list[str] = []
        recent: list[float] = []
        for number in range(1, columns + 1):
            names.append(create_table(conn, number))
            recent = [*recent[-ENABLES + 1 :], enable(conn, names[-1])]
            if number in STAGES or number == columns:
                figures = compare(dsn, names[0], names[-1], rng)
                stages.append(
                    {
                        "columns": number,
                        "enable_ms": round(float(np.median(recent)), 1),
                        "enable_slowest_ms": round(max(recent), 1),
                        **figures,
                    }
                )
    return {"rows": ROWS, "dimensions": DIMENSIONS, "searches": BLOCKS * BLOCK, "stages": stages}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--dsn", help="a database to use (default: an embedded server)")
    parser.add_argument("--columns", type=int, default=STAGES[-1])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with scratch_database(options.dsn) as dsn:
        with psycopg.connect(dsn, autocommit=True) as conn:
            migrate(conn)
        found = measure(dsn, options.columns, options.seed)
    if options.json:
        print(json.dumps(found, indent=1))
        return
    for stage in found["stages"]:
        added = stage["last_over_first_ms"]
        print(
            f"{stage['columns']:5} columns: enable {stage['enable_ms']:.1f} ms, last search over first "
            f"{added['value']:.4f} ms ({added['at_least']:.4f} to {added['at_most']:.4f}), "
            f"p50 {stage['last_p50_ms']:.3f} ms, first of a session "
            f"{stage['first_search_of_a_session_ms']:.1f} ms"
        )


if __name__ == "__main__":
    main()
