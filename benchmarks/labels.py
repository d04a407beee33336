"""Measure how many replays learning needs: recall and saving by the number of replays.

Run as `python -m benchmarks.labels [--dsn ...] [--json]` after `vectuned demo`, whose replays it reads from
the embedded server or the database of --dsn. With `--build 1500` it loads WordNet and replays that many
queries itself in a temporary server; with `--data FILE` it reads replays in the format of
tests/data/replays.npz. Each draw holds out a third of the replays for evaluation and learns from n of the
others, as the learner does.

The figure to watch is `needed`, the number of replays from which on the held-out ones reach the target on
average and the saving is within 10 % of that with the most replays: at most 1,000.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import psycopg

from benchmarks.scratch import scratch_database
from vectuned.config.errors import UsageError
from vectuned.config.settings import load_settings
from vectuned.daemon.console import Console
from vectuned.daemon.database.choice import choose_database, open_database
from vectuned.daemon.database.session import open_session
from vectuned.daemon.demo.demo_data import (
    RELATION,
    DemoSizes,
    build_index,
    embed_corpus,
    enable,
    find_tuned_columns,
    load_table,
)
from vectuned.daemon.work.worker import Worker
from vectuned.learning.model import ladder
from vectuned.learning.model.vectors import Vector
from vectuned.learning.patterns.optimizer import SearchOptimizer
from vectuned.learning.patterns.reasoning_bank import ReasoningBank
from vectuned.learning.policy.calibration import Candidate, find_fixed_policy, learn_adaptive_policy
from vectuned.learning.policy.replays import load_replays
from vectuned.learning.statistics.demand import Demand
from vectuned.learning.statistics.replay_sample import ReplaySample
from vectuned.reasoning.embedding.embedder import StaticEmbedder
from vectuned.reasoning.wordnet.corpus import load_wordnet
from vectuned.sql.install import migrate

K: Final = 10
SIZES: Final = (100, 200, 300, 400, 500, 700, 1000, 1500, 2000, 3000, 5000)
WORTH_IT: Final = 1.05
WITHIN: Final = 0.9
HELD: Final = 1 / 3


def main() -> None:
    """Run the benchmark and print its result."""
    options = _parser().parse_args()
    console = Console(as_json=options.json)
    replays = _replays(options, console)
    rng = np.random.default_rng(options.seed)
    result: dict[str, Any] = {"replays": len(replays), "draws": options.draws, "targets": {}}
    for target in options.target:
        demand = Demand(target, max_tail=min(2.5 * (1 - target), 1.0))
        rows = curve(replays, demand, options.draws, rng)
        result["targets"][f"{target:g}"] = {"needed": needed(rows, target), "rows": rows}
    _print(result, console)
    if options.json:
        console.document(result)


def curve(
    replays: ReplaySample, demand: Demand, draws: int, rng: np.random.Generator
) -> list[dict[str, float]]:
    """Learn from increasing numbers of replays, and evaluate on held-out ones."""
    most = len(replays) - int(len(replays) * HELD)
    sizes = [size for size in SIZES if size < most] + [most]
    found = []
    for size in sizes:
        outcomes = []
        for _ in range(draws):
            order = rng.permutation(len(replays))
            outcomes.append(_outcome(replays.take(order[:size]), replays.take(order[most:]), demand))
        found.append(_row(size, outcomes))
    return found


def _outcome(learned: ReplaySample, heldout: ReplaySample, demand: Demand) -> tuple[float, float, bool, bool]:
    """Learn; return recall and saving on the held-out replays, whether proven, and whether by query."""
    fixed = find_fixed_policy(learned, demand)
    adaptive = learn_adaptive_policy(learned, fixed.policy, demand) if fixed.policy.certified else None
    by_query = adaptive is not None and fixed.cost >= WORTH_IT * adaptive.cost
    served = adaptive if adaptive is not None and by_query else fixed
    recall, cost = _serve(served, heldout)
    grid = np.linspace(0, ladder.HIGHEST_POSITION, 400)
    recalls, costs = (ladder.interpolate(each, grid).mean(axis=0) for each in (heldout.recall, heldout.cost))
    best = float(np.interp(demand.target, recalls, costs))
    return recall, best / cost, fixed.policy.certified, by_query


def _serve(served: Candidate, heldout: ReplaySample) -> tuple[float, float]:
    """Return mean recall and mean cost, in index buffers, of searches served by a policy."""
    fitted = served.policy.signature
    efs = np.full(len(heldout), served.policy.fixed_ef)
    if fitted is not None:
        optimizer = SearchOptimizer(ReasoningBank(served.patterns), served.policy)
        efs = optimizer.ef_search(heldout.probes[fitted.probe_ef], K)
    at = ladder.position_of(efs)[:, None]
    recall, cost = (ladder.interpolate(each, at) for each in (heldout.recall, heldout.cost))
    return float(recall.mean()), float(cost.mean())


def _row(size: int, outcomes: Sequence[tuple[float, float, bool, bool]]) -> dict[str, float]:
    recall, saving, proven, by_query = np.array(outcomes, dtype=np.float64).T
    return {
        "replays": size,
        "recall": round(float(recall.mean()), 4),
        "lowest": round(float(recall.min()), 4),
        "saving": round(float(saving.mean()), 3),
        "proven": round(float(proven.mean()), 3),
        "by_query": round(float(by_query.mean()), 3),
    }


def needed(rows: Sequence[dict[str, float]], target: float) -> int | None:
    """Return the number of replays from which on the target is met and the saving is near its last value."""
    good = [row["recall"] >= target and row["saving"] >= WITHIN * rows[-1]["saving"] for row in rows]
    first = next((i for i in range(len(rows)) if all(good[i:])), None)
    return None if first is None else int(rows[first]["replays"])


def _replays(options: argparse.Namespace, console: Console) -> ReplaySample:
    if options.data:
        with np.load(options.data) as file:
            probes = {n: file[f"probe_{n}"].astype(np.float64) for n in ladder.PROBES}
            cost = file["blocks"].astype(np.float64)
            return ReplaySample(K, probes, file["recall"] / K, cost, cost)
    database = (
        scratch_database(options.dsn, {"shared_buffers": "512MB", "maintenance_work_mem": "512MB"})
        if options.build
        else open_database(choose_database(options.dsn, {}))
    )
    with database as conninfo:
        if options.build:
            with psycopg.connect(conninfo, autocommit=True) as admin:
                migrate(admin)
        with open_session(conninfo) as conn:
            if options.build:
                _build(conn, conninfo, options, console)
            found = find_tuned_columns(conn)
            if not found or not found[0].indexes:
                raise UsageError("There are no replays in this database: run `vectuned demo` there first.")
            tuned = replace(found[0], trajectory_window=10**9, learning_rate=0.001)
            return replace(load_replays(conn, tuned, tuned.indexes[0]).sample(K), own=None, weight=None)


def _build(
    conn: psycopg.Connection[Any], conninfo: str, options: argparse.Namespace, console: Console
) -> None:
    """Load WordNet, search and replay."""
    corpus, embedder = load_wordnet(), StaticEmbedder()
    rows, asked, _ = embed_corpus(corpus, embedder, DemoSizes(options.build, 0, options.seed), console)
    load_table(conn, corpus, rows, console)
    build_index(conn, conninfo, rows.shape, console)
    worker, tuned = Worker(conn, load_settings(None, {}, {})), enable(conn, target=0.95, sample_rate=1.0)
    for vector in asked.vectors:
        conn.execute("SELECT FROM vectuned.search(%s::regclass, %s, %s)", (RELATION, Vector(vector), K))
    worker.drain()
    with console.progress("replaying at every effort", len(asked)) as progress:
        worker.replay(tuned, len(asked), progress)


def _print(result: dict[str, Any], console: Console) -> None:
    console.line(f"{result['replays']:,} replays, means of {result['draws']} draws, judged by a third\n")
    heads = ["replays", "recall", "lowest", "saving", "proven", "by_query"]
    for target, found in result["targets"].items():
        rows = [[f"{row[head]:g}" for head in heads] for row in found["rows"]]
        console.table(heads, rows, title=f"target {target}: needed {found['needed']}", left=0)
        console.line()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--build", type=int, metavar="QUERIES", help="replay so many queries here and now")
    source.add_argument("--data", type=Path, metavar="FILE", help="take replays from a file")
    parser.add_argument("--dsn", help="the database in which the demo ran")
    parser.add_argument("--target", type=float, nargs="+", default=[0.95, 0.98])
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    return parser


if __name__ == "__main__":
    main()
