"""Compare policies: recall and latency of held-out queries at each target, in one run.

All arms answer the same queries, each over a connection of its own, in blocks of 50 with the arms in random
order; times are the latency seen by the client. The best fixed setting and the policies are fitted on
training queries only. The other policies' decisions are passed with the statement, and their cost is not
included (`decision_paid` false). vectuned is called as an application calls it, and its times include
everything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import psycopg
from psycopg import sql

from benchmarks.arena import RELATION, USUAL, Arena, open_arena
from benchmarks.policies import POLICIES, Policies, exact, replays
from benchmarks.sets import VectorSet, load
from vectuned.daemon.console import Console
from vectuned.daemon.database.session import open_session
from vectuned.daemon.measure.arms import ArmResults, compose_nearest, find_filtered_truth, race
from vectuned.daemon.measure.fixed_setting import choose_best_fixed, compute_fixed_curve, list_fixed_efforts
from vectuned.daemon.measure.intervals import summarize_searches, time_ratios
from vectuned.learning.model.arrays import Ints, Singles
from vectuned.learning.model.column import VectorColumn
from vectuned.learning.model.vectors import Vector
from vectuned.learning.truth.recall import recall_at_k
from vectuned.learning.truth.truth import Truth

_EXACT: Final = 50  # queries answered exactly; few, because each reads the whole table
_RELAXED: Final = (40, 80, 160, 320, 640, 1000)
_CHOOSING: Final = 200  # filtered training queries by which the best fixed setting is chosen
Categories = npt.NDArray[np.int16]
Answers = dict[str, tuple[ArmResults, Truth]]


@dataclass(frozen=True)
class Arm:
    """A statement with the query as $1 and further values from $2, and the settings of its session."""

    statement: sql.Composable
    description: str
    settings: Mapping[str, str] = field(default_factory=dict)
    values: Callable[[int], tuple[Any, ...]] = lambda i: ()
    decision_paid: bool = True


def measure(options: dict[str, Any], console: Console, dsn: str | None) -> dict[str, Any]:
    """Run a contest; `options` are the keys of the definition."""
    filtered = options.get("workload", "unfiltered") == "filtered"
    data = load(options["set"], console, options.get("rows"))
    k, targets = int(options.get("k", 10)), options["targets"]
    with open_arena(data, k, targets[0], console, dsn) as arena:
        contest = (Filtered if filtered else Unfiltered)(arena, options)
        contest.learn()
        found = {f"{target:g}": contest.at(target) for target in targets}
        return {
            **describe(arena),
            "training": len(contest.training),
            "heldout": len(contest.heldout),
            "seed": contest.seed,
            "workload": "filtered" if filtered else "unfiltered",
            "targets": found,
        }


def describe(arena: Arena) -> dict[str, Any]:
    """Describe the data that is searched."""
    rows = arena.data.rows
    return {
        "set": arena.data.name,
        "rows": len(rows),
        "dimensions": rows.shape[1],
        "metric": arena.data.metric,
        "k": arena.k,
        "index": f"{USUAL.method}, {USUAL.options}",
        "index_mb": arena.index_mb(),
        "build_seconds": round(arena.build_seconds, 1),
        "server": arena.server(),
    }


class Unfiltered:
    """Searches without a filter: fixed settings, policies fitted on replays, and vectuned."""

    def __init__(self, arena: Arena, options: Mapping[str, Any]) -> None:
        data: VectorSet = arena.data
        self.arena, self.seed = arena, int(options.get("seed", 0))
        self.training = data.training[: options.get("training", 3000)]
        self.heldout = data.heldout[: options.get("heldout", 1000)]
        self.categories = data.heldout_categories[: len(self.heldout)]
        self.training_categories = data.training_categories[: len(self.training)]
        self.policies: list[str] = options.get("policies", list(POLICIES))
        self.truth = self.answers()

    def answers(self) -> Truth:
        """Find the exact answers of the held-out queries."""
        return exact(self.arena, self.heldout)

    def learn(self) -> None:
        """Let vectuned, and then each policy, learn from the training queries."""
        arena = self.arena
        arena.record(self.training)
        self.seen = replays(arena, self.training, exact(arena, self.training), "replays for the policies")
        self.judged = replays(arena, self.heldout, self.truth, "replays for the oracle")
        self.chosen = Policies(self.seen, self.judged, arena.data.rows, arena.data.metric, arena.k, self.seed)

    def at(self, target: float) -> dict[str, Any]:
        """Measure every arm at a target."""
        arena, column, k = self.arena, self.arena.tuned.column, self.arena.k
        served = arena.learn(target)
        fixed = choose_best_fixed(
            compute_fixed_curve(self.seen.recall, list_fixed_efforts(arena.tuned.indexes[0], k)), target
        )
        arms = {
            "default": Arm(plain(column, k), "ef_search 40", fixed_at(40)),
            "best fixed": Arm(plain(column, k), f"ef_search {fixed}", fixed_at(fixed)),
            "vectuned": Arm(tuned(k), served.description),
            "relaxed": Arm(plain(column, k), "relaxed_order, ef_search 40", fixed_at(40, relaxed=True)),
            "relaxed, ef 200": Arm(
                plain(column, k), "relaxed_order, ef_search 200", fixed_at(200, relaxed=True)
            ),
        }
        for name in self.policies:
            efs = self.chosen.choose(name, target)
            arms[name] = Arm(at_ef(column, k), _spread(efs), values=_each(efs), decision_paid=False)
        found = race_arms(arena, arms, self.heldout, self.truth, self.seed, f"target {target:g}")
        arms["exact"] = Arm(plain(column, k, exact=True), "every row compared")
        found |= self._exact(arms["exact"])
        return {"served": served.reason, **tabulate(arms, found, k, self.seed)}

    def _exact(self, arm: Arm) -> Answers:
        few = self.heldout[:_EXACT]
        truth = self.truth.take(np.arange(len(few)))
        return race_arms(self.arena, {"exact": arm}, few, truth, self.seed, "exact", warm_up=3)


class Filtered(Unfiltered):
    """Searches filtered by a category: the usual settings, exact search by the B-tree index, and vectuned."""

    def answers(self) -> Truth:
        """Find the exact answers among the rows of each held-out query's category."""
        return self._truth(self.heldout, self.categories)

    def learn(self) -> None:
        """Let vectuned learn from the training queries, and measure them with each usual setting."""
        self.arena.record(self.training, self.training_categories)
        few = self.training[:_CHOOSING]
        truth = self._truth(few, self.training_categories)
        arms = {
            str(ef): self._fixed_arm(ef, relaxed=True, categories=self.training_categories) for ef in _RELAXED
        }
        found = race_arms(self.arena, arms, few, truth, self.seed, "choosing a fixed setting")
        self.recalls = {
            ef: float(recall_at_k(found[str(ef)][0].distances, truth, self.arena.k).mean()) for ef in _RELAXED
        }

    def at(self, target: float) -> dict[str, Any]:
        """Measure every arm at a target."""
        arena, column, k = self.arena, self.arena.tuned.column, self.arena.k
        arena.learn(target)
        fixed = choose_best_fixed(self.recalls, target)
        values = _each(self.categories)
        arms = {
            "default": self._fixed_arm(40, relaxed=False),
            "relaxed": self._fixed_arm(40, relaxed=True),
            "relaxed, ef 200": self._fixed_arm(200, relaxed=True),
            "best fixed": self._fixed_arm(fixed, relaxed=True),
            "exact": Arm(plain(column, k, exact=True, filtered=True), "by the B-tree", values=values),
            "vectuned": Arm(
                tuned(k, filtered=True),
                "as learned for each kind of filter",
                values=lambda i: (f'{{"category": {self.categories[i]}}}',),
            ),
        }
        found = race_arms(arena, arms, self.heldout, self.truth, self.seed, f"filtered, target {target:g}")
        return tabulate(arms, found, k, self.seed)

    def _fixed_arm(self, ef: int, *, relaxed: bool, categories: Categories | None = None) -> Arm:
        description = f"{'relaxed_order, ' if relaxed else ''}ef_search {ef}"
        statement = plain(self.arena.tuned.column, self.arena.k, filtered=True)
        values = _each(self.categories if categories is None else categories)
        # A custom plan for each value, as for an application that does not prepare statements.
        settings = {**fixed_at(ef, relaxed=relaxed), "plan_cache_mode": "force_custom_plan"}
        return Arm(statement, description, settings, values)

    def _truth(self, vectors: Singles, categories: Categories) -> Truth:
        column, values = self.arena.tuned.column, [str(value) for value in categories[: len(vectors)]]
        return find_filtered_truth(self.arena.conn, column, vectors, self.arena.k, "category", values)


def plain(column: VectorColumn, k: int, *, exact: bool = False, filtered: bool = False) -> sql.Composed:
    """Compose a search in plain SQL, as applications write it."""
    condition = sql.SQL("category = $2") if filtered else None
    return compose_nearest(column, sql.SQL("$1"), sql.Literal(k), condition, exact=exact)


def at_ef(column: VectorColumn, k: int) -> sql.Composed:
    """Compose a search that sets ef_search to $2 itself."""
    return sql.SQL(
        "SELECT m.* FROM (SELECT set_config('hnsw.ef_search', $2, false) OFFSET 0) s "
        "CROSS JOIN LATERAL ({}) m"
    ).format(plain(column, k))


def tuned(k: int, *, filtered: bool = False) -> sql.Composed:
    """Compose a search with vectuned.search."""
    return sql.SQL("SELECT id, distance FROM vectuned.search({}::regclass, $1, {}{})").format(
        RELATION, k, sql.SQL(", $2" if filtered else "")
    )


def race_arms(
    arena: Arena,
    arms: Mapping[str, Arm],
    vectors: Singles,
    truth: Truth,
    seed: int,
    label: str,
    warm_up: int = 100,
) -> Answers:
    """Answer every query by every arm."""
    searches = [(Vector(vector), i) for i, vector in enumerate(vectors)]
    with (
        ExitStack() as stack,
        arena.console.progress(label, len(arms) * len(searches)) as progress,
    ):
        functions = {
            name: _make_search(stack.enter_context(open_session(arena.conninfo)), arm)
            for name, arm in arms.items()
        }
        seen = race(functions, searches, arena.k, seed=seed, warm_up=warm_up, progress=progress)
    return {name: (each, truth) for name, each in seen.items()}


def tabulate(arms: Mapping[str, Arm], found: Answers, k: int, seed: int) -> dict[str, Any]:
    """Return the figures of every arm, and the ratio of vectuned's time to the best fixed setting's."""
    figures_by_arm = {
        name: {
            "setting": arms[name].description,
            "decision_paid": arms[name].decision_paid,
            **summarize_searches(seen.millis, recall_at_k(seen.distances, truth, k), seed),
        }
        for name, (seen, truth) in found.items()
    }
    if "best fixed" not in found:
        return {"arms": figures_by_arm}
    ours, theirs = found["vectuned"][0].millis, found["best fixed"][0].millis
    return {"arms": figures_by_arm, "vectuned_over_fixed": time_ratios(ours, theirs, seed)}


def _make_search(conn: psycopg.Connection[Any], arm: Arm) -> Callable[[Vector, int], list[float]]:
    for name, value in arm.settings.items():
        conn.execute("SELECT set_config(%s, %s, false)", (name, value))
    cursor, statement, values = psycopg.RawCursor(conn), arm.statement.as_bytes(conn), arm.values

    def ask(vector: Vector, i: int) -> list[float]:
        rows = cursor.execute(statement, (vector, *values(i)), prepare=True, binary=True).fetchall()
        return [row[-1] for row in rows]

    return ask


def fixed_at(ef: int, *, relaxed: bool = False) -> dict[str, str]:
    return {"hnsw.ef_search": str(ef), "hnsw.iterative_scan": "relaxed_order" if relaxed else "off"}


def _each(numbers: Ints | Categories) -> Callable[[int], tuple[Any, ...]]:
    return lambda i: (str(numbers[i]),)


def _spread(efs: Ints) -> str:
    low, middle, high = np.quantile(efs, [0.1, 0.5, 0.9]).astype(int)
    return f"ef_search {low} to {high}, median {middle}"
