"""Measure the overhead of vectuned.search over the bare query at the same ef_search, recording 5 %.

Run as `python -m benchmarks.overhead [--dsn ...]` after `vectuned demo`, whose table it searches, in the
embedded server or the database of --dsn. Both arms answer the same held-out queries, each over its own
connection, in blocks of 50 in random order. The fixed setting is served during the run. Prints one JSON
document. The figure to watch: at most 0.1 ms of overhead at the median.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys

from vectuned.config.errors import UsageError
from vectuned.daemon.database.choice import choose_database, open_database
from vectuned.daemon.database.session import open_session
from vectuned.daemon.demo.demo_comparison import K
from vectuned.daemon.demo.demo_data import INDEX, draw_queries, find_tuned_columns
from vectuned.daemon.measure.arms import compare_arms, prepare_plain_arm, prepare_vectuned_arm
from vectuned.learning.truth.truth import exact_neighbors
from vectuned.reasoning.embedding.embedder import StaticEmbedder
from vectuned.reasoning.wordnet.corpus import load_wordnet


def main() -> None:
    """Run the benchmark and print its result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dsn", help="the database in which the demo ran")
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with open_database(choose_database(options.dsn, {})) as conninfo:
        json.dump(measure(conninfo, options), sys.stdout, indent=2)
    sys.stdout.write("\n")


def measure(conninfo: str, options: argparse.Namespace) -> dict[str, object]:
    """Compare the arms `options.repeat` times, each time in another order."""
    vectors = draw_queries(load_wordnet(), StaticEmbedder(), options.queries, options.seed).vectors
    with open_session(conninfo) as admin, open_session(conninfo) as plain, open_session(conninfo) as ours:
        found = find_tuned_columns(admin)
        row = admin.execute(
            "SELECT access_path, ef_search FROM vectuned.bank WHERE column_id = %s AND k_class = %s",
            (found[0].column.id if found else None, K),
        ).fetchone()
        if row is None:
            raise UsageError("There is nothing to measure in this database: run `vectuned demo` there first.")
        tuned, (path, ef) = found[0], row
        set_path = "UPDATE vectuned.bank SET access_path = %s WHERE column_id = %s AND k_class = %s"
        truth = exact_neighbors(admin, tuned.column, vectors, K)
        arms = {
            "bare": prepare_plain_arm(plain, tuned.column, ef, INDEX),
            "vectuned": prepare_vectuned_arm(ours, tuned.column, ef),
        }
        try:
            admin.execute(set_path, ("hnsw", tuned.column.id, K))
            runs = [
                compare_arms(arms, vectors, truth, K, seed=options.seed + i) for i in range(options.repeat)
            ]
        finally:
            admin.execute(set_path, (path, tuned.column.id, K))
    return {
        "ef_search": ef,
        "sample_rate": tuned.sample_rate,
        "queries": len(vectors),
        "runs": [{name: outcome.as_dict() for name, outcome in run.items()} for run in runs],
        "more_at_p50_ms": [round(run["vectuned"].p50_ms - run["bare"].p50_ms, 4) for run in runs],
        "more_at_mean_ms": [round(run["vectuned"].mean_ms - run["bare"].mean_ms, 4) for run in runs],
        "machine": {"cores": os.cpu_count(), "architecture": platform.machine()},
    }


if __name__ == "__main__":
    main()
