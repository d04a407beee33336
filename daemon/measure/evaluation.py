"""`vectuned evaluate`: the default, the best fixed setting, vectuned and exact search, compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import psycopg
from psycopg import sql

from vectuned.config.errors import UsageError
from vectuned.daemon.console import Console
from vectuned.daemon.database.session import in_snapshot
from vectuned.learning.model.arrays import Singles
from vectuned.learning.model.ladder import k_class
from vectuned.learning.model.tuned_columns import TunedColumn, TunedIndex
from vectuned.learning.policy.storage import read_bank
from vectuned.learning.replay.lock_watch import LockWatch
from vectuned.learning.truth.recall import recall_at_k
from vectuned.learning.truth.truth import Truth, exact_neighbors

from .arms import ArmResults, compose_nearest
from .fixed_setting import choose_best_fixed, compute_fixed_curve, list_fixed_efforts
from .index_replay import replay_index
from .intervals import CONFIDENCE, summarize_searches, time_ratios
from .prepared_search import Clients, PreparedSearch, prepare_index_search, prepare_vectuned_search

_EXACT_QUERIES: Final = 100  # exact search of a large table takes seconds a query
_EXACT_WARM_UP: Final = 5  # likewise; its plan is prepared and its table in the caches after a few


@dataclass(frozen=True)
class _FixedSetting:
    """The best fixed effort of an index, and the mean recall by effort that it was chosen from."""

    effort: int
    curve: Mapping[int, float]
    reaches_target: bool


@dataclass(frozen=True)
class Evaluation:
    """Compare four arms on `vectors` float32 (n, d).

    One half of the queries chooses the best fixed setting, all arms are judged on the other. `target` is the
    recall that the fixed setting is to reach, by default the column's target.
    """

    conn: psycopg.Connection[Any]
    conninfo: str
    tuned: TunedColumn
    vectors: Singles
    k: int
    target: float | None = None
    seed: int = 0

    def run(self, console: Console) -> dict[str, Any]:
        """Search in every arm and return the figures with their bounds, as JSON can hold them.

        Each bound by itself holds with 95 % confidence. Bounds of recall and of its tail come from betting,
        those of times from resampling the queries, which does not account for other work on the machine.
        """
        training, judging = self._split()
        half, main = len(training), self.tuned.indexes[0]

        def choose(_: LockWatch) -> tuple[Truth, _FixedSetting]:
            truth = exact_neighbors(self.conn, self.tuned.column, np.concatenate([training, judging]), self.k)
            return truth, self._choose_fixed(main, training, truth.take(np.arange(half)), console)

        truth, fixed = in_snapshot(self.conn, choose)
        default = self.tuned.default_effort(main, self.k)
        searches = {
            "default": prepare_index_search(self.conn, self.tuned, main, self.k, default),
            "best fixed": prepare_index_search(self.conn, self.tuned, main, self.k, fixed.effort),
            "vectuned": prepare_vectuned_search(self.tuned, self.k),
        }
        exact = self._prepare_exact()
        results = self._time(searches, exact, judging, console)
        missed = "" if fixed.reaches_target else ", which does not reach the target"
        settings = {
            "default": f"{main.effort_name} {default}",
            "best fixed": f"{main.effort_name} {fixed.effort}{missed}",
            "vectuned": self._describe_policy(),
            "exact": "every row compared",
        }
        column = self.tuned.column
        return {
            "relation": f"{column.schema}.{column.table}",
            "column": column.name,
            "k": self.k,
            "target_recall": self._target(),
            "rows": truth.scanned,
            "queries": len(judging),
            "chosen_by": half,
            "main_index": main.name,
            "confidence": CONFIDENCE,
            "seed": self.seed,
            "arms": self._summarize(results, settings, truth.take(np.arange(half, len(self.vectors)))),
            "vectuned_over_fixed": time_ratios(
                results["vectuned"].millis, results["best fixed"].millis, self.seed
            ),
            "fixed_curve": {str(effort): round(recall, 4) for effort, recall in fixed.curve.items()},
        }

    def _split(self) -> tuple[Singles, Singles]:
        """Shuffle the queries and return one half to choose by and one to judge by."""
        order = np.random.default_rng(self.seed).permutation(len(self.vectors))
        half = len(order) // 2
        return self.vectors[order[:half]], self.vectors[order[half:]]

    def _target(self) -> float:
        return self.tuned.target_recall if self.target is None else self.target

    def _choose_fixed(
        self, index: TunedIndex, vectors: Singles, truth: Truth, console: Console
    ) -> _FixedSetting:
        """Replay queries and choose the smallest fixed effort that reaches the target on average."""
        with console.progress(f"replaying through {index.name}", len(vectors)) as progress:
            replay = replay_index(self.conn, self.tuned, index, vectors, truth, self.k, progress)
        curve = compute_fixed_curve(replay.recall, list_fixed_efforts(index, self.k), index.rungs)
        effort = choose_best_fixed(curve, self._target())
        return _FixedSetting(effort, curve, curve[effort] >= self._target())

    def _prepare_exact(self) -> PreparedSearch:
        column = self.tuned.column
        has_vector = sql.SQL("{} IS NOT NULL").format(column.vector)
        statement = compose_nearest(column, sql.SQL("$1"), sql.Literal(self.k), has_vector, exact=True)
        return PreparedSearch(statement.as_string(self.conn))

    def _time(
        self,
        searches: Mapping[str, PreparedSearch],
        exact: PreparedSearch,
        vectors: Singles,
        console: Console,
    ) -> dict[str, ArmResults]:
        with (
            Clients(self.conninfo, len(searches)) as clients,
            console.progress("searching in every arm", len(vectors) * len(searches)) as progress,
        ):
            results = clients.time(searches, vectors, self.k, seed=self.seed, progress=progress)
            # Apart from the others: reading the whole table would evict the pages that they need.
            results |= clients.time(
                {"exact": exact},
                vectors[:_EXACT_QUERIES],
                self.k,
                seed=self.seed,
                warm_up=_EXACT_WARM_UP,
            )
        return results

    def _summarize(
        self, results: Mapping[str, ArmResults], settings: Mapping[str, str], truth: Truth
    ) -> dict[str, dict[str, Any]]:
        arms = {}
        for arm, result in results.items():
            judged = truth.take(np.arange(len(result.millis)))
            recall = recall_at_k(result.distances, judged, self.k)
            arms[arm] = {
                "setting": settings[arm],
                **summarize_searches(result.millis, recall, self.seed),
            }
        return arms

    def _describe_policy(self) -> str:
        policy, _ = read_bank(self.conn, self.tuned).get(k_class(self.k), (None, None))
        if policy is None:
            return "nothing learned yet: the default"
        names = {index.number: index.name for index in self.tuned.indexes}
        where = f" on {names[policy.index_no]}" if policy.index_no in names else ""
        return policy.description + where


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw recall against mean latency, with bounds; the ending of the file name decides the format.

    Raises UsageError where the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for arm, figures in result["arms"].items():
        x, y = figures["mean_ms"], figures["recall"]
        axes.errorbar(
            x["value"],
            y["value"],
            marker="o",
            capsize=3,
            label=f"{arm}: {figures['setting']}",
            xerr=[[x["value"] - x["at_least"]], [x["at_most"] - x["value"]]],
            yerr=[[max(y["value"] - y["at_least"], 0)], [max(y["at_most"] - y["value"], 0)]],
        )
    axes.axhline(result["target_recall"], color="grey", linewidth=0.8, linestyle="--")
    axes.set(
        xscale="log",
        xlabel="mean ms a search",
        ylabel=f"recall@{result['k']}",
        title=f"{result['queries']} queries against {result['rows']:,} rows",
    )
    axes.legend(fontsize="small")
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"The plot cannot be written to {path}: {error}.") from error
