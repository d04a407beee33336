"""Measure a mixed workload, and k from 1 to 1,000.

Run as `python -m benchmarks.mixed [--parts mixed k] [--dsn ...]`; it replaces the schema vectuned_demo of the
embedded server or of the database of --dsn. Half of the searches are filtered by the query's own lexical
category, k is 1, 10 or 50, and vectuned learns from such searches. Arms run in blocks of 50 in random order;
times are the latency seen by the client.

mixed: by class, against the best single setting of plain SQL: the fastest ef_search of a grid, with relaxed
iterative scans, at which every class of the training searches reaches the target.
k: unfiltered searches for values of k that vectuned has mostly not learned from.

The figures to watch: recall >= target in every class and mean <= 0.7 of the best single setting's; never
fewer than k rows.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import psycopg

from benchmarks.tables import print_rows
from vectuned.config.errors import VectunedError
from vectuned.config.settings import load_settings
from vectuned.daemon.console import Console
from vectuned.daemon.database.choice import choose_database, open_database
from vectuned.daemon.database.session import open_session
from vectuned.daemon.demo import demo_data
from vectuned.daemon.demo.demo_data import ATTRIBUTE, INDEX, enable, follow_advice
from vectuned.daemon.measure.arms import (
    BLOCK,
    Arm,
    ArmResults,
    find_filtered_truth,
    prepare_filtered_arm,
    prepare_plain_arm,
    prepare_vectuned_arm,
    race,
)
from vectuned.daemon.work.worker import Worker
from vectuned.learning.model.arrays import Bools, Floats, Ints
from vectuned.learning.model.vectors import Vector
from vectuned.learning.truth.recall import recall_at_k
from vectuned.learning.truth.truth import Truth
from vectuned.reasoning.embedding.embedder import StaticEmbedder
from vectuned.reasoning.wordnet.corpus import load_wordnet
from vectuned.sql.install import migrate

Connection = psycopg.Connection[Any]
Search = Callable[[Vector, int, str | None], list[float]]
"""Takes query, k and the category to search in, None for all rows; returns the distances found."""

KS: Final = (1, 10, 50)
MANY_KS: Final = (1, 3, 10, 30, 100, 300, 1000)
EFS: Final = (50, 80, 120, 160, 200, 280, 400, 560, 800)  # fewer than k rows are never found


@dataclass(frozen=True)
class Mixture:
    """Searches: the query of each, its k, int64 (n,), and the category of its filter, or None."""

    queries: list[Vector]
    ks: Ints
    values: list[str | None]

    @classmethod
    def of(cls, mixture: demo_data.DemoQueries) -> Mixture:
        """Assign the six classes in turn to the queries, whose order is random."""
        values = [category if i % 2 else None for i, category in enumerate(mixture.categories)]
        ks = np.array([KS[i // 2 % len(KS)] for i in range(len(mixture))], dtype=np.int64)
        return cls([Vector(vector) for vector in mixture.vectors], ks, values)

    def take(self, mask: Bools) -> Mixture:
        """Return the searches of a mask."""
        rows = np.flatnonzero(mask).tolist()
        return Mixture([self.queries[i] for i in rows], self.ks[mask], [self.values[i] for i in rows])

    @property
    def filtered(self) -> Bools:
        """Return a mask of the filtered searches."""
        return np.array([value is not None for value in self.values])

    @property
    def classes(self) -> dict[str, Bools]:
        """Return masks of the searches of each class, and of all searches."""
        kinds = {"all rows": ~self.filtered, "filtered": self.filtered}
        masks = {f"{name}, k {k}": kind & (self.ks == k) for name, kind in kinds.items() for k in KS}
        return {name: mask for name, mask in masks.items() if mask.any()} | {"all": self.ks > 0}


def figures(seen: ArmResults, mixture: Mixture, truth: Truth) -> dict[str, dict[str, float]]:
    """Return recall, tail, short answers and times of every class and of all searches together."""
    recall = recall_at_k(seen.distances, truth, mixture.ks)
    short = np.isfinite(seen.distances).sum(axis=1) < np.minimum(mixture.ks, truth.counts)
    found = {}
    for name, mask in mixture.classes.items():
        own, (p50, p99) = recall[mask], np.quantile(seen.millis[mask], [0.5, 0.99])
        values = {
            "searches": mask.sum(),
            "recall": own.mean(),
            "below_08": (own < 0.8).mean(),
            "short": short[mask].sum(),
            "mean_ms": seen.millis[mask].mean(),
            "p50_ms": p50,
            "p99_ms": p99,
        }
        found[name] = {label: round(float(value), 4) for label, value in values.items()}
    return found


def pair(free: Arm, matching: Arm) -> Search:
    """Combine an arm for unfiltered searches and one for filtered searches."""

    def search(query: Vector, k: int, value: str | None) -> list[float]:
        return (free if value is None else matching).search(query, k, value)

    return search


def ratio(ours: Floats, theirs: Floats, seed: int) -> dict[str, float]:
    """Return the ratio of the mean times and its upper 95 % bound, by bootstrap of the blocks."""
    starts = np.arange(0, len(ours), BLOCK)
    sums = np.stack([np.add.reduceat(ours, starts), np.add.reduceat(theirs, starts)], axis=1)
    totals = sums[np.random.default_rng(seed).integers(0, len(sums), (2000, len(sums)))].sum(axis=1)
    bound = np.quantile(totals[:, 0] / totals[:, 1], 0.95)
    return {"ratio": round(float(ours.mean() / theirs.mean()), 4), "at_most": round(float(bound), 4)}


class Bench:
    """The tuned table on a server, and the arms that search it."""

    def __init__(self, conninfo: str, conn: Connection, options: argparse.Namespace, talk: Console) -> None:
        self.conninfo, self.conn, self.options, self.talk = conninfo, conn, options, talk
        self.worker = Worker(conn, load_settings())
        self.tuned = enable(conn, target=options.target, sample_rate=1.0)

    def learn(self, training: Mixture) -> None:
        """Record all of these searches, replay them and learn; from then on record 5 %."""
        count = len(training.ks)
        with ExitStack() as stack, self.talk.progress("training searches", count) as progress:
            search = self.with_vectuned(stack)
            for i, k in enumerate(training.ks.tolist()):
                search(training.queries[i], k, training.values[i])
                progress(i + 1)
        self.worker.drain()
        with self.talk.progress("replays", count) as progress:
            self.worker.replay(self.tuned, count, progress)
        self.tuned = enable(self.conn, target=self.options.target, sample_rate=0.05)
        self.worker.learn(self.tuned)

    def truth(self, mixture: Mixture) -> Truth:
        """Find the exact answers."""
        vectors = np.array([query.to_numpy() for query in mixture.queries])
        return find_filtered_truth(
            self.conn, self.tuned.column, vectors, mixture.ks, ATTRIBUTE, mixture.values
        )

    def session(self, stack: ExitStack) -> Connection:
        """Open a connection."""
        return stack.enter_context(open_session(self.conninfo))

    def plain(self, stack: ExitStack, ef: int, *, iterative: bool = True, advised: bool = False) -> Search:
        """Return an arm with one setting for all searches; each of its two statements has a connection."""
        free, matching, column = self.session(stack), self.session(stack), self.tuned.column
        if iterative:
            free.execute("SET hnsw.iterative_scan = relaxed_order")
        return pair(
            prepare_plain_arm(free, column, ef, INDEX),
            prepare_filtered_arm(matching, column, ATTRIBUTE, ef, iterative=iterative, advised=advised),
        )

    def with_vectuned(self, stack: ExitStack) -> Search:
        """Return the arm that searches with vectuned."""
        conn, column = self.session(stack), self.tuned.column
        return pair(
            prepare_vectuned_arm(conn, column, None),
            prepare_vectuned_arm(conn, column, None, attribute=ATTRIBUTE),
        )

    def race(self, searches_by_arm: dict[str, Search], mixture: Mixture, label: str) -> dict[str, ArmResults]:
        """Run every search by every arm."""
        searches = list(zip(mixture.queries, mixture.ks.tolist(), mixture.values, strict=True))
        with self.talk.progress(label, len(searches) * len(searches_by_arm)) as progress:
            return race(
                searches_by_arm, searches, int(mixture.ks.max()), seed=self.options.seed, progress=progress
            )


def best_single(bench: Bench, mixture: Mixture) -> dict[str, Any]:
    """Find the fastest ef_search at which every class reaches the target, or that of the highest recall."""
    truth, searches_by_arm = bench.truth(mixture), dict[str, Search]()
    with ExitStack() as stack:
        for ef in EFS:
            try:
                searches_by_arm[str(ef)] = bench.plain(stack, ef)
            except VectunedError as error:
                bench.talk.say(f"ef_search {ef} is left out: {error}")
        seen = bench.race(searches_by_arm, mixture, "grid of single settings")
    grid = {}
    for name, each in seen.items():
        classes = figures(each, mixture, truth)
        mean_ms = classes.pop("all")["mean_ms"]
        grid[name] = {"worst_recall": min(own["recall"] for own in classes.values()), "mean_ms": mean_ms}
    reaching = [name for name in grid if grid[name]["worst_recall"] >= bench.options.target]
    best = (
        min(reaching, key=lambda name: grid[name]["mean_ms"])
        if reaching
        else max(grid, key=lambda name: grid[name]["worst_recall"])
    )
    return {"ef_search": int(best), "reaches_target": bool(reaching), "grid": grid}


def mixed(bench: Bench, mixture: Mixture, truth: Truth, ef: int, label: str) -> dict[str, Any]:
    """Compare the default, the best single setting and vectuned."""
    with ExitStack() as stack:
        searches_by_arm = {
            "default": bench.plain(stack, 40, iterative=False),
            "best single": bench.plain(stack, ef),
            "vectuned": bench.with_vectuned(stack),
        }
        if len(bench.tuned.indexes) > 1:
            searches_by_arm["best single, advised indexes"] = bench.plain(stack, ef, advised=True)
        seen = bench.race(searches_by_arm, mixture, label)
    against = ratio(seen["vectuned"].millis, seen["best single"].millis, bench.options.seed)
    return {"arms": {name: figures(each, mixture, truth) for name, each in seen.items()}} | against


def by_k(bench: Bench, mixture: Mixture) -> dict[str, dict[str, float]]:
    """Search without a filter for every k, including values without replays."""
    chosen = mixture.queries[: bench.options.per_k]
    same = {k: Mixture(chosen, np.full(len(chosen), k), [None] * len(chosen)) for k in MANY_KS}
    truth, result = bench.truth(same[MANY_KS[-1]]), {}
    for k in MANY_KS:
        with ExitStack() as stack:
            seen = bench.race({"vectuned": bench.with_vectuned(stack)}, same[k], f"k = {k}")["vectuned"]
        result[str(k)] = figures(seen, same[k], truth)["all"]
    return result


def measure(conninfo: str, options: argparse.Namespace, talk: Console) -> dict[str, Any]:
    """Load, learn, and measure the requested parts."""
    corpus = load_wordnet()
    sizes = demo_data.DemoSizes(options.training, options.held_out, options.seed)
    rows, *drawn = demo_data.embed_corpus(corpus, StaticEmbedder(), sizes, talk)
    training, mixture = map(Mixture.of, drawn)
    result: dict[str, Any] = {
        "options": {name: value for name, value in vars(options).items() if name not in ("dsn", "json")},
        "machine": {"cores": os.cpu_count(), "architecture": platform.machine()},
        "rows": len(rows),
        "dimensions": rows.shape[1],
    }
    with psycopg.connect(conninfo, autocommit=True) as admin:
        migrate(admin)
    with open_session(conninfo) as conn:
        demo_data.load_table(conn, corpus, rows, talk)
        demo_data.build_index(conn, conninfo, rows.shape, talk)
        bench = Bench(conninfo, conn, options, talk)
        bench.learn(training)
        if "mixed" in options.parts:
            truth = bench.truth(mixture)
            single = best_single(bench, training.take(np.arange(len(training.ks)) < options.grid))
            result |= {
                "single": single,
                "before_advice": mixed(bench, mixture, truth, single["ef_search"], "before advice"),
            }
        if options.advice:
            bench.tuned, advice = follow_advice(bench.worker, bench.tuned, conninfo, talk)
            result["advice"] = [each.statement for each in advice.taken]
            if "mixed" in options.parts:
                result["after_advice"] = mixed(bench, mixture, truth, single["ef_search"], "after advice")
        if "k" in options.parts:
            result["by_k"] = by_k(bench, mixture)
    return result


def show(result: dict[str, Any], talk: Console) -> None:
    """Print the tables."""
    if "single" in result:
        single = result["single"]
        print_rows(talk, "ef_search, relaxed iterative scans", single["grid"])
        found = "the quickest to reach" if single["reaches_target"] else "the surest, for none reaches"
        talk.line(f"Best single setting: ef_search {single['ef_search']}, {found} the target.\n")
    for phase in (phase for phase in ("before_advice", "after_advice") if phase in result):
        for arm, classes in result[phase]["arms"].items():
            print_rows(talk, f"{phase.replace('_', ' ')}: {arm}", classes)
        worst = min(own["recall"] for own in result[phase]["arms"]["vectuned"].values())
        talk.line(
            f"vectuned: {result[phase]['ratio']:.3f} of the best single setting's mean (at most "
            f"{result[phase]['at_most']:.3f} with 95 % confidence), recall of the worst class {worst:.3f}\n"
        )
    if "by_k" in result:
        print_rows(talk, "all rows, by k", result["by_k"])


def main() -> None:
    """Run the benchmark and print its result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dsn", help="a database whose schema vectuned_demo may be replaced")
    parts = ("mixed", "k")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts, help="what to measure")
    parser.add_argument("--target", type=float, default=0.95)
    parser.add_argument("--training", type=int, default=3000, help="searches to learn from")
    parser.add_argument("--held-out", type=int, default=1500, help="searches to be judged by")
    parser.add_argument("--grid", type=int, default=600, help="searches to find the best single setting by")
    parser.add_argument("--per-k", type=int, default=200, help="searches for every k")
    parser.add_argument("--advice", action=argparse.BooleanOptionalAction, default=True, help="follow it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there too")
    options = parser.parse_args()
    talk = Console()
    with open_database(choose_database(options.dsn, {})) as conninfo:
        result = measure(conninfo, options, talk)
    show(result, talk)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
