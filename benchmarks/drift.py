"""Change the data under a tuned column and measure how long its recall stays below the promise.

Run as `python -m benchmarks.drift [--dsn ...] [--json FILE] [--plot FILE]`; without a DSN it starts an
embedded server in a temporary folder. Takes ten minutes or more; `--plot` needs matplotlib. Half of WordNet's
glosses, by lexical category, are the rows, and usage examples of the same half the queries. After learning,
the other half of the rows is added, queries move to that half, the index is rebuilt, a third of the rows is
deleted, and all vectors, then the queries, are moved to another space by a random rotation.

A step is a number of searches, then the daemon's work: drain, replay, check, watch, learn. The figure to
watch is `longest_below`, the longest run of checks for which the mean recall of the last 100 was more than
0.02 under the target: at most 400. Beside it is the recall of the setting proven at the start and never
changed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import psycopg
from pgvector.psycopg import register_vector

from benchmarks.scratch import scratch_database
from benchmarks.tables import print_rows
from vectuned.config.settings import load_settings
from vectuned.daemon.console import Console
from vectuned.daemon.work.worker import Worker
from vectuned.learning.model.arrays import Floats, Singles
from vectuned.learning.model.vectors import Vector
from vectuned.learning.truth.recall import recall_at_k
from vectuned.learning.truth.truth import exact_neighbors
from vectuned.reasoning.embedding.embedder import StaticEmbedder
from vectuned.reasoning.wordnet.corpus import load_wordnet
from vectuned.sql.install import migrate

TABLE: Final = "vectuned_drift"
K: Final = 10
WINDOW: Final = 100
TOLERATED: Final = 0.02
LONGEST: Final = 400
HELD: Final = 50  # searches per step with the setting proven at the start


@dataclass(frozen=True)
class Step:
    """Result of a step: `checks` are recalls, `events` what the daemon noticed or did."""

    phase: str
    checks: list[float]
    kept_recall: float
    ef_search: int | None
    certified: bool
    alert: bool
    events: list[str]


@dataclass(frozen=True)
class Halves:
    """Rows and queries of the two halves of WordNet, float32 (n, d) each; `ids` of the rows."""

    ids: tuple[list[int], list[int]]
    rows: tuple[Singles, Singles]
    asked: tuple[Singles, Singles]


class Scenario:
    """A tuned column, the daemon's worker, and the results of the steps."""

    def __init__(self, conn: psycopg.Connection[Any], halves: Halves, options: argparse.Namespace) -> None:
        self.conn = conn
        self.halves = halves
        self.options = options
        self.rng = np.random.default_rng(options.seed)
        self.worker = Worker(
            conn, load_settings(None, {"learning.replay_batch": 1000, "learning.batch_min": 100}, {})
        )
        self.rotation: Singles | None = None
        self.kept = 40
        self.seen = 0
        self.told = 0
        self.steps: list[Step] = []

    def load(self, half: int) -> None:
        """Add the rows of a half."""
        with self.conn.cursor() as cursor, cursor.copy(f"COPY {TABLE} FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(["int4", "vector"])
            for number, vector in zip(self.halves.ids[half], self.halves.rows[half], strict=True):
                copy.write_row((number, vector))
        self.settle()

    def settle(self) -> None:
        """Analyze the table, as autovacuum would soon."""
        self.conn.execute("SELECT pg_stat_force_next_flush()")
        self.conn.execute(f"ANALYZE {TABLE}")

    def rotate(self) -> None:
        """Rotate every vector, which keeps the distances, like another embedding model."""
        dimensions = self.halves.rows[0].shape[1]
        self.rotation = np.linalg.qr(self.rng.normal(size=(dimensions, dimensions)))[0].astype(np.float32)
        self.conn.execute(f"CREATE TEMP TABLE rewritten (id int, embedding vector({dimensions}))")
        with self.conn.cursor() as cursor, cursor.copy("COPY rewritten FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(["int4", "vector"])
            for ids, rows in zip(self.halves.ids, self.halves.rows, strict=True):
                for number, vector in zip(ids, rows @ self.rotation, strict=True):
                    copy.write_row((number, vector))
        self.conn.execute(f"UPDATE {TABLE} t SET embedding = r.embedding FROM rewritten r WHERE r.id = t.id")
        self.settle()

    def phase(self, name: str, half: int, steps: int) -> None:
        """Search with the queries of a half, and run the daemon's work after each step."""
        for _ in range(steps):
            asked = self.halves.asked[half]
            queries = asked[self.rng.integers(len(asked), size=self.options.searches)]
            if self.rotation is not None:
                queries = queries @ self.rotation
            for query in queries:
                self.conn.execute(
                    f"SELECT id FROM vectuned.search('{TABLE}', %s, {K})", (Vector(query),), prepare=True
                ).fetchall()
            self.worker.drain()
            self.worker.replay_all()
            self.worker.learn_all()
            self.steps.append(self._step(name, queries[:HELD]))
            self.options.console.line(_line(self.steps[-1]))

    def _step(self, name: str, queries: Singles) -> Step:
        checks = self.conn.execute(
            "SELECT check_no, recall FROM vectuned.recall_check WHERE check_no > %s ORDER BY check_no",
            (self.seen,),
        ).fetchall()
        events = self.conn.execute(
            "SELECT id, action FROM vectuned.event WHERE id > %s ORDER BY id", (self.told,)
        ).fetchall()
        self.seen = checks[-1][0] if checks else self.seen
        self.told = events[-1][0] if events else self.told
        bank = self.conn.execute(
            "SELECT ef_search, certified FROM vectuned.bank WHERE k_class = %s", (K,)
        ).fetchone()
        alert = self.conn.execute("SELECT bool_or(alert) FROM vectuned.tuned_column").fetchall()[0][0]
        return Step(
            name,
            [float(recall) for _, recall in checks if recall is not None],
            self._kept_recall(queries),
            bank[0] if bank else None,
            bool(bank and bank[1]),
            bool(alert),
            [action for _, action in events],
        )

    def _kept_recall(self, queries: Singles) -> float:
        """Measure the recall of the setting proven at the start."""
        tuned = self.worker.columns()[0]
        found = np.full((len(queries), K), np.inf)
        with self.conn.transaction():
            self.conn.execute("SELECT set_config('hnsw.ef_search', %s, true)", (str(self.kept),))
            self.conn.execute("SET LOCAL enable_seqscan = off")
            for i, query in enumerate(queries):
                rows = self.conn.execute(
                    f"SELECT embedding <=> %s FROM {TABLE} ORDER BY embedding <=> %s LIMIT {K}",
                    (Vector(query), Vector(query)),
                ).fetchall()
                found[i, : len(rows)] = [row[0] for row in rows]
        return float(recall_at_k(found, exact_neighbors(self.conn, tuned.column, queries, K), K).mean())


def run(conn: psycopg.Connection[Any], options: argparse.Namespace) -> list[Step]:
    """Make all changes and return the steps."""
    scenario = Scenario(conn, _halves(options), options)
    dimensions = scenario.halves.rows[0].shape[1]
    conn.execute(f"DROP TABLE IF EXISTS {TABLE}")
    conn.execute(f"CREATE TABLE {TABLE} (id int PRIMARY KEY, embedding vector({dimensions}))")
    scenario.load(0)
    conn.execute(f"CREATE INDEX ON {TABLE} USING hnsw (embedding vector_cosine_ops)")
    conn.execute(
        f"SELECT vectuned.enable('{TABLE}', 'embedding', target_recall => %s, sample_rate => %s)",
        (options.target, options.sample_rate),
    )
    scenario.phase("start", 0, 2 * options.steps)
    if scenario.steps[-1].ef_search is not None:
        scenario.kept = scenario.steps[-1].ef_search
    scenario.load(1)
    scenario.phase("doubled", 0, options.steps)
    scenario.phase("other queries", 1, options.steps)
    conn.execute(f"REINDEX TABLE {TABLE}")
    scenario.phase("rebuilt", 1, options.steps)
    conn.execute(f"DELETE FROM {TABLE} WHERE id % 3 = 0")
    scenario.settle()
    scenario.phase("a third deleted", 1, options.steps)
    scenario.rotate()
    scenario.phase("rewritten", 1, options.steps)
    return scenario.steps


def longest_below(checks: Sequence[float], target: float) -> int:
    """Return the longest run of checks for which the mean of the last WINDOW was under the target."""
    if len(checks) < WINDOW:
        return 0
    sums = np.cumsum(np.append(0.0, checks))
    below = (sums[WINDOW:] - sums[:-WINDOW]) / WINDOW < target - TOLERATED
    longest = run_length = 0
    for under in below:
        run_length = run_length + 1 if under else 0
        longest = max(longest, run_length)
    return longest


def summary(steps: Sequence[Step], target: float) -> dict[str, dict[str, float]]:
    """Return the figures of each phase."""
    found: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(step.phase for step in steps):
        own = [step for step in steps if step.phase == name]
        checks = [recall for step in own for recall in step.checks]
        found[name] = {
            "checks": len(checks),
            "recall": round(float(np.mean(checks)), 4),
            "last": round(float(np.mean(checks[-WINDOW:])), 4),
            "longest_below": longest_below(checks, target),
            "kept_setting": round(float(np.mean([step.kept_recall for step in own])), 4),
            "ef_search": own[-1].ef_search or 0,
            "proven_after": next(
                (i for i, step in enumerate(own, 1) if step.certified and not step.alert), -1
            ),
        }
    return found


def plot(steps: Sequence[Step], target: float, path: Path) -> None:
    """Plot recall by check, as served and with the setting from the start."""
    from matplotlib import pyplot

    ends = np.cumsum([len(step.checks) for step in steps])
    checks: Floats = np.array([recall for step in steps for recall in step.checks])
    figure, axes = pyplot.subplots(figsize=(11, 4.5))
    smooth = np.convolve(checks, np.full(WINDOW, 1.0 / WINDOW), "valid")
    axes.plot(np.arange(len(smooth)) + WINDOW, smooth, label=f"served, mean of the last {WINDOW} checks")
    axes.plot(
        ends, [step.kept_recall for step in steps], "C1.-", lw=0.8, label="the setting kept from the start"
    )
    axes.axhline(target, color="black", lw=0.8, label="target")
    axes.axhline(target - TOLERATED, color="black", lw=0.8, ls=":")
    for place, step in enumerate(steps):
        begin = ends[place - 1] if place else 0
        if place and step.phase != steps[place - 1].phase:
            axes.axvline(begin, color="grey", lw=0.8)
        if not place or step.phase != steps[place - 1].phase:
            axes.text(begin, 1.003, step.phase, fontsize=8)
    axes.set(xlabel="checks", ylabel=f"recall@{K}", ylim=(0.7, 1.0))
    axes.legend(loc="lower left", fontsize=8)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    """Run, print the figures, and write the requested files."""
    options = _parser().parse_args()
    options.console = Console(as_json=False, quiet=False)
    with (
        scratch_database(options.dsn, {"maintenance_work_mem": "512MB", "autovacuum": "off"}) as conninfo,
        psycopg.connect(conninfo, autocommit=True) as conn,
    ):
        migrate(conn)
        register_vector(conn)
        steps = run(conn, options)
    figures = summary(steps, options.target)
    print_rows(options.console, f"{TABLE}, target {options.target:g}", figures)
    if options.json is not None:
        document = {"target": options.target, "phases": figures, "steps": [asdict(step) for step in steps]}
        options.json.write_text(json.dumps(document) + "\n")
    if options.plot is not None:
        plot(steps, options.target, options.plot)


def _halves(options: argparse.Namespace) -> Halves:
    """Split WordNet by lexical category, alternately, and embed both halves."""
    corpus, embedder = load_wordnet(), StaticEmbedder()
    half = {name: i % 2 for i, name in enumerate(sorted({s.category for s in corpus.synsets}))}
    of_source = {synset.id: half[synset.category] for synset in corpus.synsets}
    rows, examples = embedder.encode(corpus.texts()), corpus.queries()
    drawn = np.random.default_rng(options.seed).permutation(len(examples))[:20_000]
    asked = embedder.encode([examples[i].text for i in drawn])
    belongs = np.array([half[synset.category] for synset in corpus.synsets])
    left_out = np.random.default_rng(options.seed + 1).permutation(len(belongs))[options.rows :]
    belongs[left_out] = -1
    asks = np.array([of_source[examples[i].source] for i in drawn])
    ids = [np.flatnonzero(belongs == side).tolist() for side in (0, 1)]
    return Halves((ids[0], ids[1]), (rows[ids[0]], rows[ids[1]]), (asked[asks == 0], asked[asks == 1]))


def _line(step: Step) -> str:
    mean = np.mean(step.checks) if step.checks else np.nan
    proven = "proven" if step.certified else "unproven"
    return (
        f"{step.phase}: {len(step.checks)} checks, recall {mean:.3f}, ef_search {step.ef_search} ({proven}), "
        f"kept setting {step.kept_recall:.3f} {' '.join(step.events)}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dsn", help="a database in which vectuned may be installed (default: embedded)")
    parser.add_argument("--target", type=float, default=0.95)
    parser.add_argument("--sample-rate", type=float, default=0.2)
    parser.add_argument("--rows", type=int, default=50_000, help="how many of the glosses")
    parser.add_argument("--searches", type=int, default=250, help="searches in a step")
    parser.add_argument("--steps", type=int, default=10, help="steps in a phase")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="SVG or PNG")
    return parser


if __name__ == "__main__":
    main()
