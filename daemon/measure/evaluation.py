"""Comparing what a column is searched by: the default, the best fixed setting, vectuned, and exact search."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import psycopg
from psycopg import sql

from vectuned.config.errors import UsageError
from vectuned.daemon.console import Console
from vectuned.daemon.database.session import snapshot
from vectuned.learning.model.arrays import Singles
from vectuned.learning.model.ladder import k_class
from vectuned.learning.model.tuned_columns import TunedColumn
from vectuned.learning.policy.storage import read_bank
from vectuned.learning.truth.recall import recall_at_k
from vectuned.learning.truth.truth import exact_neighbors

from .arms import compose_nearest
from .fixed_setting import choose_best_fixed, compute_fixed_curve, list_fixed_efforts
from .intervals import CONFIDENCE, summarize_searches, time_ratios
from .prepared_search import (
    Clients,
    PreparedSearch,
    prepare_index_search,
    prepare_vectuned_search,
    replay_index,
)

_EXACT: Final = 100
_QUERY: Final = sql.SQL("$1")


@dataclass(frozen=True)
class Evaluation:
    """Compare by `vectors` float32 (n, d): half of them choose the fixed setting, the others judge."""

    conn: psycopg.Connection[Any]
    conninfo: str
    tuned: TunedColumn
    vectors: Singles
    k: int
    target: float | None = None
    seed: int = 0

    def run(self, console: Console) -> dict[str, Any]:
        """Search in every way and return the figures with their bounds, as JSON can hold them.

        Each bound holds with 95 % confidence by itself: of recall and its tail by betting, of times by
        resampling the queries, which says nothing about other work on the machine.
        """
        tuned, k, column = self.tuned, self.k, self.tuned.column
        target = tuned.target_recall if self.target is None else self.target
        order = np.random.default_rng(self.seed).permutation(len(self.vectors))
        half = len(order) // 2
        training, judging = self.vectors[order[:half]], self.vectors[order[half:]]
        main = tuned.indexes[0]
        with snapshot(self.conn):
            truth = exact_neighbors(self.conn, column, np.concatenate([training, judging]), k)
            first = truth.take(np.arange(half))
            with console.progress(f"replaying through {main.name}", half) as progress:
                seen = replay_index(self.conn, tuned, main, training, first, k, progress)
            default = tuned.default_effort(main, k)
            curve = compute_fixed_curve(seen.recall, list_fixed_efforts(main, k), main.rungs)
            fixed = choose_best_fixed(curve, target)
            ways = {
                "default": prepare_index_search(self.conn, tuned, main, k, default),
                "best fixed": prepare_index_search(self.conn, tuned, main, k, fixed),
                "vectuned": prepare_vectuned_search(tuned, k),
            }
            exact = self._exact()
        with (
            Clients(self.conninfo, len(ways)) as clients,
            console.progress("searching in every way", len(judging) * len(ways)) as progress,
        ):
            timed = clients.time(ways, judging, k, seed=self.seed, progress=progress)
            # By itself, and fewer: reading the whole table drives what the others need out of the caches.
            timed |= clients.time({"exact": exact}, judging[:_EXACT], k, seed=self.seed, warm_up=5)
        judge = truth.take(np.arange(half, len(order)))
        name = main.effort_name
        unreached = "" if curve[fixed] >= target else ", which does not reach the target"
        settings = {
            "default": f"{name} {default}",
            "best fixed": f"{name} {fixed}{unreached}",
            "vectuned": self._serving(),
            "exact": "every row compared",
        }
        arms = {
            arm: {
                "setting": settings[arm],
                **summarize_searches(
                    each.millis,
                    recall_at_k(each.distances, judge.take(np.arange(len(each.millis))), k),
                    self.seed,
                ),
            }
            for arm, each in timed.items()
        }
        return {
            "relation": f"{column.schema}.{column.table}",
            "column": column.name,
            "k": k,
            "target_recall": target,
            "rows": truth.scanned,
            "queries": len(judging),
            "chosen_by": half,
            "main_index": main.name,
            "confidence": CONFIDENCE,
            "seed": self.seed,
            "arms": arms,
            "vectuned_over_fixed": time_ratios(
                timed["vectuned"].millis, timed["best fixed"].millis, self.seed
            ),
            "fixed_curve": {str(each): round(mean, 4) for each, mean in curve.items()},
        }

    def _exact(self) -> PreparedSearch:
        column = self.tuned.column
        there = sql.SQL("{} IS NOT NULL").format(column.vector)
        statement = compose_nearest(column, _QUERY, sql.Literal(self.k), there, exact=True)
        return PreparedSearch(statement.as_string(self.conn))

    def _serving(self) -> str:
        policy, _ = read_bank(self.conn, self.tuned).get(k_class(self.k), (None, None))
        if policy is None:
            return "nothing learned yet: the default"
        names = {index.number: index.name for index in self.tuned.indexes}
        where = f" on {names[policy.index_no]}" if policy.index_no in names else ""
        return policy.description + where


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw recall against mean latency, with bounds; the format is that of the file's ending."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for arm, each in result["arms"].items():
        x, y = each["mean_ms"], each["recall"]
        axes.errorbar(
            x["value"],
            y["value"],
            marker="o",
            capsize=3,
            label=f"{arm}: {each['setting']}",
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
