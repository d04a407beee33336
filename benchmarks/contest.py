"""Policies side by side: recall and latency of held-out queries at each target, in one run.

All arms answer the same queries, each through a connection of its own, in blocks of 50 whose order of arms is
drawn; times are what the client waits for. The best fixed setting and the policies are set by training
queries alone. What a policy's choice would cost is not charged to it (`decision_paid` false): it is given
with the statement. vectuned is asked as an application asks it, and pays for all that it does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import psycopg
from pgvector import Vector
from psycopg import sql

from benchmarks.arena import RELATION, USUAL, Arena, opened
from benchmarks.policies import POLICIES, Policies, exact, replays
from benchmarks.sets import VectorSet, load
from vectuned.daemon.console import Console
from vectuned.daemon.database.session import open_session
from vectuned.daemon.measure.arms import ArmResults, compose_nearest, find_filtered_truth, race
from vectuned.daemon.measure.fixed_setting import choose_best_fixed, compute_fixed_curve, list_fixed_efforts
from vectuned.daemon.measure.intervals import summarize_searches, time_ratios
from vectuned.learning.model.arrays import Ints, Singles
from vectuned.learning.model.column import VectorColumn
from vectuned.learning.truth.recall import recall_at_k
from vectuned.learning.truth.truth import Truth

_EXACT: Final = 50  # queries answered exactly: reading the table drives what others need out of the caches
_RELAXED: Final = (40, 80, 160, 320, 640, 1000)
_CHOOSING: Final = 200  # filtered training queries by which the best fixed setting is chosen
Categories = npt.NDArray[np.int16]
Answers = dict[str, tuple[ArmResults, Truth]]


@dataclass(frozen=True)
class PreparedSearch:
    """A statement with a query as $1 and what else it brings from $2 on, and the settings of its session."""

    statement: sql.Composable
    said: str
    settings: Mapping[str, str] = field(default_factory=dict)
    values: Callable[[int], tuple[Any, ...]] = lambda i: ()
    decision_paid: bool = True


def measure(options: dict[str, Any], console: Console, dsn: str | None) -> dict[str, Any]:
    """Run a contest: `options` are the keys of its definition."""
    filtered = options.get("workload", "unfiltered") == "filtered"
    data = load(options["set"], console, options.get("rows"))
    k, targets = int(options.get("k", 10)), options["targets"]
    with opened(data, k, targets[0], console, dsn) as arena:
        contest = (Filtered if filtered else Unfiltered)(arena, options)
        contest.learn()
        found = {f"{target:g}": contest.at(target) for target in targets}
        return {
            **described(arena),
            "training": len(contest.training),
            "heldout": len(contest.heldout),
            "seed": contest.seed,
            "workload": "filtered" if filtered else "unfiltered",
            "targets": found,
        }


def described(arena: Arena) -> dict[str, Any]:
    """Say what is searched."""
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
    """Searches for the nearest of all rows: fixed settings, policies by replays, and vectuned."""

    def __init__(self, arena: Arena, options: Mapping[str, Any]) -> None:
        data: VectorSet = arena.data
        self.arena, self.seed = arena, int(options.get("seed", 0))
        self.training = data.training[: options.get("training", 3000)]
        self.heldout = data.heldout[: options.get("heldout", 1000)]
        self.categories = data.heldout_categories[: len(self.heldout)]
        self.asked = data.training_categories[: len(self.training)]
        self.policies: list[str] = options.get("policies", list(POLICIES))
        self.truth = self.answers()

    def answers(self) -> Truth:
        """Find the exact answers of the held-out queries."""
        return exact(self.arena, self.heldout)

    def learn(self) -> None:
        """Have vectuned, and then each policy, see the training queries."""
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
        ways = {
            "default": PreparedSearch(plain(column, k), "ef_search 40", fixed_at(40)),
            "best fixed": PreparedSearch(plain(column, k), f"ef_search {fixed}", fixed_at(fixed)),
            "vectuned": PreparedSearch(tuned(k), served.description),
            "relaxed": PreparedSearch(
                plain(column, k), "relaxed_order, ef_search 40", fixed_at(40, relaxed=True)
            ),
            "relaxed, ef 200": PreparedSearch(
                plain(column, k), "relaxed_order, ef_search 200", fixed_at(200, relaxed=True)
            ),
        }
        for name in self.policies:
            efs = self.chosen.choose(name, target)
            ways[name] = PreparedSearch(
                at_ef(column, k), _spread(efs), values=_each(efs), decision_paid=False
            )
        found = raced(arena, ways, self.heldout, self.truth, self.seed, f"target {target:g}")
        ways["exact"] = PreparedSearch(plain(column, k, exact=True), "every row compared")
        found |= self._exact(ways["exact"])
        return {"served": served.reason, **table(ways, found, k, self.seed)}

    def _exact(self, way: PreparedSearch) -> Answers:
        few = self.heldout[:_EXACT]
        truth = self.truth.take(np.arange(len(few)))
        return raced(self.arena, {"exact": way}, few, truth, self.seed, "exact", warm_up=3)


class Filtered(Unfiltered):
    """Searches among the rows of a category: the usual settings, exact search by the category's index."""

    def answers(self) -> Truth:
        """Find the exact answers among the rows of each held-out query's category."""
        return self._truth(self.heldout, self.categories)

    def learn(self) -> None:
        """Have vectuned see the training queries, and find what they get by each usual setting."""
        self.arena.record(self.training, self.asked)
        few = self.training[:_CHOOSING]
        truth = self._truth(few, self.asked)
        ways = {str(ef): self._way(ef, relaxed=True, asked=self.asked) for ef in _RELAXED}
        found = raced(self.arena, ways, few, truth, self.seed, "choosing a fixed setting")
        self.recalls = {
            ef: float(recall_at_k(found[str(ef)][0].distances, truth, self.arena.k).mean()) for ef in _RELAXED
        }

    def at(self, target: float) -> dict[str, Any]:
        """Measure every arm at a target."""
        arena, column, k = self.arena, self.arena.tuned.column, self.arena.k
        arena.learn(target)
        fixed = choose_best_fixed(self.recalls, target)
        values = _each(self.categories)
        ways = {
            "default": self._way(40, relaxed=False),
            "relaxed": self._way(40, relaxed=True),
            "relaxed, ef 200": self._way(200, relaxed=True),
            "best fixed": self._way(fixed, relaxed=True),
            "exact": PreparedSearch(
                plain(column, k, exact=True, filtered=True), "by the B-tree", values=values
            ),
            "vectuned": PreparedSearch(
                tuned(k, filtered=True),
                "as learned for each kind of filter",
                values=lambda i: (f'{{"category": {self.categories[i]}}}',),
            ),
        }
        found = raced(arena, ways, self.heldout, self.truth, self.seed, f"filtered, target {target:g}")
        return table(ways, found, k, self.seed)

    def _way(self, ef: int, *, relaxed: bool, asked: Categories | None = None) -> PreparedSearch:
        said = f"{'relaxed_order, ' if relaxed else ''}ef_search {ef}"
        statement = plain(self.arena.tuned.column, self.arena.k, filtered=True)
        values = _each(self.categories if asked is None else asked)
        # The plan that PostgreSQL makes of the value, as an application gets it that does not prepare.
        settings = {**fixed_at(ef, relaxed=relaxed), "plan_cache_mode": "force_custom_plan"}
        return PreparedSearch(statement, said, settings, values)

    def _truth(self, vectors: Singles, categories: Categories) -> Truth:
        column, values = self.arena.tuned.column, [str(value) for value in categories[: len(vectors)]]
        return find_filtered_truth(self.arena.conn, column, vectors, self.arena.k, "category", values)


def plain(column: VectorColumn, k: int, *, exact: bool = False, filtered: bool = False) -> sql.Composed:
    """Write plain SQL as people write it."""
    condition = sql.SQL("category = $2") if filtered else None
    return compose_nearest(column, sql.SQL("$1"), sql.Literal(k), condition, exact=exact)


def at_ef(column: VectorColumn, k: int) -> sql.Composed:
    """Write the search with the ef_search that is given as $2, set by the statement itself."""
    return sql.SQL(
        "SELECT m.* FROM (SELECT set_config('hnsw.ef_search', $2, false) OFFSET 0) s "
        "CROSS JOIN LATERAL ({}) m"
    ).format(plain(column, k))


def tuned(k: int, *, filtered: bool = False) -> sql.Composed:
    """Write the search through vectuned."""
    return sql.SQL("SELECT id, distance FROM vectuned.search({}::regclass, $1, {}{})").format(
        RELATION, k, sql.SQL(", $2" if filtered else "")
    )


def raced(
    arena: Arena,
    ways: Mapping[str, PreparedSearch],
    vectors: Singles,
    truth: Truth,
    seed: int,
    label: str,
    warm_up: int = 100,
) -> Answers:
    """Answer every query in every way."""
    searches = [(Vector(vector), i) for i, vector in enumerate(vectors)]
    with (
        ExitStack() as stack,
        arena.console.progress(label, len(ways) * len(searches)) as progress,
    ):
        asked = {
            name: _asking(stack.enter_context(open_session(arena.conninfo)), way)
            for name, way in ways.items()
        }
        seen = race(asked, searches, arena.k, seed=seed, warm_up=warm_up, progress=progress)
    return {name: (each, truth) for name, each in seen.items()}


def table(ways: Mapping[str, PreparedSearch], found: Answers, k: int, seed: int) -> dict[str, Any]:
    """Return the figures of every arm, and what vectuned took of the best fixed setting's time."""
    arms = {
        name: {
            "setting": ways[name].said,
            "decision_paid": ways[name].decision_paid,
            **summarize_searches(seen.millis, recall_at_k(seen.distances, truth, k), seed),
        }
        for name, (seen, truth) in found.items()
    }
    if "best fixed" not in found:
        return {"arms": arms}
    ours, theirs = found["vectuned"][0].millis, found["best fixed"][0].millis
    return {"arms": arms, "vectuned_over_fixed": time_ratios(ours, theirs, seed)}


def _asking(conn: psycopg.Connection[Any], way: PreparedSearch) -> Callable[[Vector, int], list[float]]:
    for name, value in way.settings.items():
        conn.execute("SELECT set_config(%s, %s, false)", (name, value))
    cursor, statement, values = psycopg.RawCursor(conn), way.statement.as_bytes(conn), way.values

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
