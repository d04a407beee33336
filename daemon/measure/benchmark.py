"""`vectuned benchmark` and benchmark requests in SQL: recall and latency of vectuned and of plain SQL."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final

import numpy as np
import psycopg
from psycopg import sql
from psycopg.rows import RowFactory, scalar_row

from vectuned.daemon.database.session import in_snapshot
from vectuned.learning.model.arrays import Bools, Floats
from vectuned.learning.model.ladder import k_class
from vectuned.learning.model.tuned_columns import TunedColumn
from vectuned.learning.model.vectors import Vector
from vectuned.learning.policy.storage import read_bank
from vectuned.learning.replay.lock_watch import LockWatch
from vectuned.learning.replay.scan import SCAN_TIMEOUT_MS, is_fatal
from vectuned.learning.statistics.bounds import lower_bound, upper_bound
from vectuned.learning.statistics.demand import TAIL_RECALL
from vectuned.learning.truth.recall import recall_at_k
from vectuned.learning.truth.truth import Truth, exact_among
from vectuned.sql.files import queries
from vectuned.sql.rows import execute, fetch_row

from .arms import compose_nearest, distance_row, race
from .sampling import SearchSample

Progress = Callable[[int], None]
SearchFunction = Callable[[Vector, str | None, sql.Composable | None], list[float]]
"""Takes a query, its filter as JSON and as SQL; returns distances."""

_WARM_UP: Final = 100  # untimed searches of each arm: plans are prepared and pages cached after them


@dataclass(frozen=True)
class Benchmark:
    """Measure vectuned and plain SQL with a sample of searches for `k` rows.

    Each bound by itself holds with `confidence`. With `percentiles`, shares from 0 to 1, latency is measured
    as well, without them only recall.
    """

    conn: psycopg.Connection[Any]
    tuned: TunedColumn
    sample: SearchSample
    k: int
    confidence: float = 0.95
    seed: int = 0
    percentiles: tuple[float, ...] | None = None

    @property
    def total(self) -> int:
        """The number of searches, to which progress counts up: each through vectuned and by plain SQL."""
        return 2 * len(self.sample)

    def run(self, progress: Progress) -> dict[str, Any]:
        """Search in both arms and return the figures, as JSON can hold them.

        Searches and exact answers see one snapshot, so that concurrent changes affect neither arm; the
        measurement starts again where it gives way to a session that waits for a lock. Raises
        psycopg.Error where a search fails; when only recall is measured, that search is given up and counted.
        """
        column, sample = self.tuned.column, self.sample
        arms: dict[str, SearchFunction] = {"served": self._search_vectuned, "default": self._search_plainly}

        def search(_: LockWatch) -> tuple[Truth, dict[str, Floats], dict[str, Floats], dict[str, str]]:
            self.conn.execute("SET LOCAL vectuned.record = off")
            truth = exact_among(self.conn, column, sample.vectors, self.k, sample.conditions)
            execute(self.conn, "limit_statement", {"milliseconds": str(SCAN_TIMEOUT_MS)})
            if self.percentiles is None:
                distances, millis = self._search_all(arms, progress), dict[str, Floats]()
            else:
                distances, millis = self._race(arms, progress)
            return truth, distances, millis, self._describe_arms()

        truth, distances, millis, settings = in_snapshot(self.conn, search)
        figures = {
            arm: {
                "setting": settings[arm],
                **self._recall(recall_at_k(values, truth, self.k), np.isnan(values[:, 0])),
                **(self._latency(millis[arm]) if arm in millis else {}),
            }
            for arm, values in distances.items()
        }
        return {
            "relation": f"{column.schema}.{column.table}",
            "column": column.name,
            "k": self.k,
            "target_recall": self.tuned.target_recall,
            "confidence": self.confidence,
            "queries": sample.describe(),
            "rows": truth.scanned,
            **figures,
            "summary": self._summary(figures),
        }

    def _search_vectuned(
        self, query: Vector, filter_text: str | None, _: sql.Composable | None
    ) -> list[float]:
        column = self.tuned.column
        values = (column.relation.as_string(self.conn), query, self.k, filter_text, column.name)
        with self._cursor(distance_row) as cursor:
            return cursor.execute(queries()["benchmark_search"], values, prepare=True).fetchall()

    def _search_plainly(self, query: Vector, _: str | None, condition: sql.Composable | None) -> list[float]:
        # Values of the filter are part of the statement, which applications seldom prepare.
        statement = self._plain_statement(condition)
        with self._cursor(distance_row) as cursor:
            distances = cursor.execute(statement, (query,), prepare=condition is None).fetchall()
        return [distance for distance in distances if distance is not None]

    def _cursor(self, row_factory: RowFactory[Any]) -> psycopg.RawCursor[Any]:
        """Return a cursor with $1 as placeholder, so that % in names and values needs no escape."""
        return psycopg.RawCursor(self.conn, row_factory=row_factory)

    def _plain_statement(self, condition: sql.Composable | None) -> sql.Composed:
        return compose_nearest(self.tuned.column, sql.SQL("$1"), sql.Literal(self.k), condition)

    def _searches(self) -> list[tuple[Vector, str | None, sql.Composable | None]]:
        sample = self.sample
        return list(zip(map(Vector, sample.vectors), sample.filters, sample.conditions, strict=True))

    def _race(
        self, arms: Mapping[str, SearchFunction], progress: Progress
    ) -> tuple[dict[str, Floats], dict[str, Floats]]:
        """Search in both arms in shuffled blocks; return distances (n, k) and milliseconds (n,) by arm."""
        searches = self._searches()
        warm_up = min(_WARM_UP, len(searches))
        results = race(arms, searches, self.k, seed=self.seed, warm_up=warm_up, progress=progress)
        return (
            {arm: result.distances for arm, result in results.items()},
            {arm: result.millis for arm, result in results.items()},
        )

    def _search_all(self, arms: Mapping[str, SearchFunction], progress: Progress) -> dict[str, Floats]:
        """Search in every arm; return distances (n, k) padded with +inf, NaN where a search was given up."""
        searches = self._searches()
        results = {arm: np.full((len(searches), self.k), np.inf) for arm in arms}
        for i, search in enumerate(searches):
            for place, (arm, function) in enumerate(arms.items()):
                started = perf_counter()
                try:
                    with self.conn.transaction():
                        distances = function(*search)
                    results[arm][i, : len(distances)] = distances
                except psycopg.Error as error:
                    if is_fatal(self.conn, error, perf_counter() - started, SCAN_TIMEOUT_MS):
                        raise
                    results[arm][i] = np.nan
                progress(len(arms) * i + place + 1)
        return results

    def _recall(self, recall: Floats, given_up: Bools) -> dict[str, Any]:
        known = recall[~given_up]
        below = (known < TAIL_RECALL).astype(np.float64)
        return {
            "recall": _mean(known),
            "recall_at_least": round(lower_bound(known, self.confidence, self.seed), 4),
            "recall_at_most": round(upper_bound(known, self.confidence, self.seed), 4),
            "below_08": _mean(below),
            "below_08_at_least": round(lower_bound(below, self.confidence, self.seed), 4),
            "below_08_at_most": round(upper_bound(below, self.confidence, self.seed), 4),
            "searches": len(known),
            "given_up": int(given_up.sum()),
        }

    def _latency(self, millis: Floats) -> dict[str, Any]:
        assert self.percentiles is not None
        values = np.quantile(millis, self.percentiles)
        return {
            "mean_ms": round(float(millis.mean()), 4),
            "percentiles_ms": {
                f"{share:g}": round(float(value), 4)
                for share, value in zip(self.percentiles, values, strict=True)
            },
        }

    def _has_filters(self) -> bool:
        return any(condition is not None for condition in self.sample.conditions)

    def _describe_arms(self) -> dict[str, str]:
        return {"served": self._describe_policy(), "default": self._describe_default()}

    def _describe_policy(self) -> str:
        """Describe the policy of unfiltered searches; that of filtered ones depends on the filter."""
        if self._has_filters():
            return "by the kind of filter, see vectuned.recommend_params"
        policy, _ = read_bank(self.conn, self.tuned).get(k_class(self.k), (None, None))
        return "nothing learned yet: the default" if policy is None else policy.description

    def _describe_default(self) -> str:
        """Describe how plain SQL searches: the settings of this session, and the index that is used."""
        row = fetch_row(self.conn, "search_settings")
        settings = f"ef_search {row.ef_search}, probes {row.probes}"
        if self._has_filters():
            return f"{settings}, as the planner chooses"
        explain = sql.SQL("EXPLAIN (FORMAT JSON) ") + self._plain_statement(None)
        with self._cursor(scalar_row) as cursor:
            plans = cursor.execute(explain, (Vector(self.sample.vectors[0]),), prepare=False).fetchone()
        indexes = sorted(_indexes_in(plans[0]["Plan"])) if plans else []
        return f"{settings}, " + (f"through {', '.join(indexes)}" if indexes else "by scanning the table")

    def _summary(self, figures: Mapping[str, Mapping[str, Any]]) -> str:
        return "; ".join(
            self._arm_summary(name, figures[arm])
            for arm, name in (("served", "vectuned"), ("default", "plain SQL"))
        )

    def _arm_summary(self, name: str, arm: Mapping[str, Any]) -> str:
        if arm["recall"] is None:
            return f"{name}: every search was given up"
        latency = f", {arm['mean_ms']:.2f} ms" if "mean_ms" in arm else ""
        return (
            f"{name}: recall@{self.k} {arm['recall']:.3f} ({arm['recall_at_least']:.3f} to "
            f"{arm['recall_at_most']:.3f}), {100 * arm['below_08']:.1f} % under {TAIL_RECALL}{latency}"
        )


def _mean(values: Floats) -> float | None:
    return round(float(values.mean()), 4) if len(values) else None


def _indexes_in(plan: Mapping[str, Any]) -> set[str]:
    """Return the names of the indexes in a plan of EXPLAIN (FORMAT JSON)."""
    own = {plan["Index Name"]} if "Index Name" in plan else set()
    parts: Sequence[Mapping[str, Any]] = plan.get("Plans", ())
    return own.union(*(_indexes_in(part) for part in parts))
