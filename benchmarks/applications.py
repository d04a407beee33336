"""Measure what applications get that search by SQL of their own: as they come, and with vectuned.

The same held-out queries go through every application in four arms, in shuffled blocks: as it comes; with
`iterative_scan = relaxed_order` at ef_search 40, the usual advice; with what `vectuned adopt --apply` set for
its role, after `vectuned observe` read the server's log; and with the one line `client.tune`. Each arm is a
role with connections of its own, and differs in nothing else. Times are those that the application waits
for, so they contain the framework's own. Recall is judged by the exact answers under the same condition.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
import psycopg

from benchmarks.application_kinds import (
    KINDS,
    LANGCHAIN_TABLE,
    LLAMAINDEX_TABLE,
    K,
    Place,
    Question,
    is_of_kind,
    load,
    matching,
    open_search,
)
from benchmarks.arena import SERVER
from benchmarks.scratch import scratch_database
from benchmarks.sets import VectorSet
from benchmarks.sets import load as load_set
from vectuned.config.errors import VectunedError
from vectuned.daemon.console import Console
from vectuned.daemon.measure.arms import ArmResults, race
from vectuned.daemon.measure.intervals import summarize_searches, time_ratios
from vectuned.learning.model.arrays import Floats, Singles
from vectuned.learning.truth.recall import recall_at_k
from vectuned.learning.truth.truth import Truth
from vectuned.sql.client.snapshot import Snapshot
from vectuned.sql.install import migrate

LOGGING: Final = {
    **SERVER,
    "shared_buffers": "2GB",
    "maintenance_work_mem": "2GB",
    "logging_collector": "on",
    "log_destination": "jsonlog",
    "log_rotation_size": "0",  # one file, however long
}
ARMS: Final = {"as it comes": "bench_app", "relaxed": "bench_relaxed", "adopted": "bench_adopted"}
ARMS_WITH_LINE: Final = {"one line": "bench_tuned"}
_TOLERANCE: Final = 1e-5  # of a cosine distance in float32
_SETTLED: Final = "settled"  # a statement that marks the end of the log


@dataclass
class Applications:
    """A loaded database, its applications, and what is known of their statements."""

    place: Place
    conn: psycopg.Connection[Any]
    data: VectorSet
    console: Console
    seed: int
    within: float
    seen: dict[str, Any] = field(default_factory=dict)
    first_proofs: dict[str, dict[str, int | None]] = field(default_factory=dict)

    @cached_property
    def units(self) -> Singles:
        """Return the rows, each of length 1."""
        units: Singles = self.data.rows / np.linalg.norm(self.data.rows, axis=1, keepdims=True)
        return units

    def questions(self, vectors: Singles, categories: Any) -> list[Question]:
        """Return queries with the values of all conditions."""
        return [
            Question(vector.tolist(), int(category), number % 100, self.within)
            for number, (vector, category) in enumerate(zip(vectors, categories, strict=True))
        ]

    def vectuned(self, *arguments: str) -> dict[str, Any]:
        """Run a command of vectuned as the database's owner, and return its document."""
        done = subprocess.run(
            [sys.executable, "-m", "vectuned.daemon", *arguments, "--json", "--dsn", self.place.conninfo],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        if done.returncode:
            raise VectunedError(f"vectuned {' '.join(arguments)} failed: {done.stderr.strip()[-500:]}")
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def learn(self, steps: Sequence[int], targets: Sequence[float]) -> None:
        """Let the applications search as they come, and learn from the log, step by step.

        Notes how many calls of a statement each target took until its settings were proven.
        """
        self.first_proofs = {kind: {f"{target:g}": None for target in targets} for kind in KINDS}
        training = self.questions(self.data.training[: steps[-1]], self.data.training_categories[: steps[-1]])
        with ExitStack() as stack:
            searches = {kind: open_search(kind, self.place, ARMS["as it comes"], stack) for kind in KINDS}
            for before, step in zip((0, *steps), steps, strict=False):
                for search in searches.values():
                    for question in training[before:step]:
                        search(question)
                self.observe()
                for target in targets:
                    self.learn_for(target)
                    self.note_proofs(step, f"{target:g}")
                self.console.say(f"{step} calls of each: proven {self.first_proofs}")

    def observe(self) -> None:
        """Read the log, and add up what is said of it."""
        said = self.vectuned("observe", "--enable")
        for name in ("statements", "stored", "damaged_records"):
            self.seen[name] = self.seen.get(name, 0) + said[name]
        for name in ("left_out", "not_planned"):
            counts = self.seen.setdefault(name, {})
            for reason, count in said[name].items():
                counts[reason] = counts.get(reason, 0) + count

    def learn_for(self, target: float) -> None:
        """Set the target of both tables, and learn."""
        for table in (LANGCHAIN_TABLE, LLAMAINDEX_TABLE):
            self.conn.execute(
                "SELECT vectuned.enable(%s::regclass, 'embedding', target_recall => %s)", (table, target)
            )
        self.vectuned("learn", "--once")

    def note_proofs(self, calls: int, target: str) -> None:
        """Note the statements all of whose settings are proven now."""
        for kind, proofs in self.first_proofs.items():
            found = self.statements(kind)
            if proofs[target] is None and found and all(each["proven"] for each in found):
                proofs[target] = calls

    def statements(self, kind: str) -> list[dict[str, Any]]:
        """Return what is published for the statements of a kind."""
        rows = self.conn.execute(
            "SELECT text, settings, coalesce(certified, false) AND settings IS NOT NULL, calls, "
            "expected_recall, recall_bound FROM vectuned.statement ORDER BY 1"
        ).fetchall()
        names = ("settings", "proven", "calls", "expected_recall", "recall_bound")
        return [dict(zip(names, row[1:], strict=True)) for row in rows if is_of_kind(row[0], kind)]

    def find_truth(self, kind: str, questions: Sequence[Question]) -> Truth:
        """Compare every query with every row that meets the condition."""
        distances = np.full((len(questions), K), np.inf)
        for at, question in enumerate(questions):
            vector = np.array(question.vector, dtype=np.float32)
            every: Floats = 1.0 - (self.units @ (vector / np.linalg.norm(vector))).astype(np.float64)
            found = every[matching(kind, question, self.data, every)]
            nearest = np.sort(found[np.argpartition(found, K)[:K]] if len(found) > K else found)
            distances[at, : len(nearest)] = nearest
        is_there = np.isfinite(distances)
        nowhere = np.full(distances.shape, -1, dtype=np.int64)
        tolerances = np.where(is_there, _TOLERANCE, 0.0)
        return Truth(distances, tolerances, is_there.sum(axis=1), nowhere, nowhere, len(self.data.rows))

    def judge(self, kind: str, questions: Sequence[Question], snapshot: Snapshot) -> dict[str, Any]:
        """Answer the questions by every arm of a kind."""
        truth = self.find_truth(kind, questions)
        arms = ARMS | ARMS_WITH_LINE
        label, count = kind, len(arms) * len(questions)
        with ExitStack() as stack, self.console.progress(label, count) as progress:
            searches = {
                arm: open_search(kind, self.place, role, stack, snapshot if arm in ARMS_WITH_LINE else None)
                for arm, role in arms.items()
            }
            seen = race(
                searches,
                [(question,) for question in questions],
                K,
                seed=self.seed,
                warm_up=50,
                progress=progress,
            )
        ratios = {arm: time_ratios(seen[arm].millis, seen["relaxed"].millis, self.seed) for arm in arms}
        return {
            "calls_to_proof": self.first_proofs[kind],
            "published": self.statements(kind),
            "arms": {
                arm: {**_figures(found, truth, self.seed), "over_relaxed": ratios[arm]}
                for arm, found in seen.items()
            },
        }


def measure(options: dict[str, Any], console: Console, dsn: str | None) -> dict[str, Any]:
    """Run the benchmark; `options` are the keys of the definition."""
    if dsn is not None:
        console.say("The applications are measured on a server of their own, whose log is read.")
    data = load_set(options["set"], console, options.get("rows"))
    seed, heldout = int(options.get("seed", 0)), int(options["heldout"])
    targets = [float(target) for target in options["targets"]]
    with (
        scratch_database(None, LOGGING) as conninfo,
        psycopg.connect(conninfo, autocommit=True) as conn,
    ):
        place = Place(conninfo)
        _create_roles(conn)
        load(place, conn.info.user, data, console)
        conn.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC")
        migrate(conn)
        here = Applications(place, conn, data, console, seed, _typical_distance(data))
        here.learn(options["steps"], targets)
        # Settings of a role are proposed for the first target, the one line's are those of the last.
        here.learn_for(targets[0])
        adopted = here.vectuned("adopt", "--role", ARMS["adopted"], "--apply")
        here.learn_for(targets[-1])
        snapshot = Snapshot()
        questions = here.questions(data.heldout[:heldout], data.heldout_categories[:heldout])
        judged = {kind: here.judge(kind, questions, snapshot) for kind in KINDS}
        return {
            "set": data.name,
            "rows": len(data.rows),
            "dimensions": data.rows.shape[1],
            "metric": "cosine",
            "k": K,
            "calls": options["steps"][-1],
            "heldout": heldout,
            "seed": seed,
            "targets": targets,
            "server": _server(conn),
            "observed": here.seen,
            "adopted": {name: adopted[name] for name in ("statements", "outlook", "refused")},
            "counters": vars(snapshot.counters),
            "statements": judged,
        }


def _create_roles(conn: psycopg.Connection[Any]) -> None:
    for role in (ARMS | ARMS_WITH_LINE).values():
        conn.execute(f"CREATE ROLE {role} LOGIN".encode())
    # The statements of one role alone are logged: those that are learned from.
    conn.execute(f"ALTER ROLE {ARMS['as it comes']} SET log_min_duration_statement = 0".encode())
    for setting in ("hnsw.iterative_scan = relaxed_order", "hnsw.ef_search = 40"):
        conn.execute(f"ALTER ROLE {ARMS['relaxed']} SET {setting}".encode())


def _typical_distance(data: VectorSet, sample: int = 100) -> float:
    """Return the median distance of a query's 20th neighbour."""
    units = data.rows / np.linalg.norm(data.rows, axis=1, keepdims=True)
    queries = data.training[-sample:]
    near = 1.0 - units @ (queries / np.linalg.norm(queries, axis=1, keepdims=True)).T
    return float(np.median(np.partition(near, 20, axis=0)[20]))


def _figures(found: ArmResults, truth: Truth, seed: int) -> dict[str, Any]:
    recall = recall_at_k(found.distances, truth, K)
    rows = np.isfinite(found.distances).sum(axis=1)
    return {
        **summarize_searches(found.millis, recall, seed),
        "rows": float(rows.mean()),
        "rows_there": float(truth.counts.mean()),
        "short": float((rows < truth.counts).mean()),
    }


def _server(conn: psycopg.Connection[Any]) -> str:
    row = conn.execute(
        "SELECT current_setting('server_version'), extversion FROM pg_extension WHERE extname = 'vector'"
    ).fetchone()
    assert row is not None
    return f"PostgreSQL {row[0]}, pgvector {row[1]}"
