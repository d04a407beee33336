"""Measuring what serves a column next to plain SQL: recall and latency, against the exact answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final

import numpy as np
import psycopg
from pgvector import Vector
from psycopg import sql

from vectuned.daemon.database.session import snapshot
from vectuned.learning.model.arrays import Bools, Floats
from vectuned.learning.model.ladder import k_class
from vectuned.learning.model.tuned_columns import TunedColumn
from vectuned.learning.policy.storage import read_bank
from vectuned.learning.replay.scan import SCAN_TIMEOUT_MS, is_fatal
from vectuned.learning.statistics.bounds import lower_bound, upper_bound
from vectuned.learning.statistics.demand import TAIL_RECALL
from vectuned.learning.truth.recall import recall_at_k
from vectuned.learning.truth.truth import exact_among
from vectuned.sql.files import queries

from .arms import compose_nearest, race
from .sampling import SearchSample

Progress = Callable[[int], None]
SearchFunction = Callable[..., list[float]]

_WARM_UP: Final = 100
_SERVED: Final = "SELECT distance FROM vectuned.search($1::regclass, $2, $3, $4::jsonb, $5)"


@dataclass(frozen=True)
class Benchmark:
    """Measure with a sample of searches, for k rows each; every bound holds with `confidence` by itself.

    With `percentiles` the latency is measured as well, else the recall alone. `total` is what the progress
    that is told counts up to.
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
        """Return how many searches it takes: each through vectuned and by plain SQL."""
        return 2 * len(self.sample)

    def run(self, progress: Progress) -> dict[str, Any]:
        """Search in both ways and return the figures, as JSON can hold them.

        Searches and exact answers see one snapshot, so that rows that come and go count for neither way.
        Raises psycopg.Error where a search fails; in measuring recall alone it is given up and counted.
        """
        column = self.tuned.column
        with snapshot(self.conn):
            self.conn.execute("SET LOCAL vectuned.record = off")
            sample = self.sample
            truth = exact_among(self.conn, column, sample.vectors, self.k, sample.conditions)
            self.conn.execute(queries()["limit_statement"], {"milliseconds": str(SCAN_TIMEOUT_MS)})
            ways: dict[str, SearchFunction] = {"served": self._served, "default": self._plain}
            searches = list(
                zip(
                    map(Vector, self.sample.vectors), self.sample.filters, self.sample.conditions, strict=True
                )
            )
            if self.percentiles is None:
                found, millis = self._answers(ways, searches, progress), {}
            else:
                warm_up = min(_WARM_UP, len(searches))
                seen = race(ways, searches, self.k, seed=self.seed, warm_up=warm_up, progress=progress)
                found = {name: each.distances for name, each in seen.items()}
                millis = {name: each.millis for name, each in seen.items()}
            settings = {"served": self._serving(), "default": self._default_setting()}
        figures = {
            name: {
                "setting": settings[name],
                **self._recall(recall_at_k(found[name], truth, self.k), np.isnan(found[name][:, 0])),
                **(self._latency(millis[name]) if name in millis else {}),
            }
            for name in ways
        }
        return {
            "relation": f"{column.schema}.{column.table}",
            "column": column.name,
            "k": self.k,
            "target_recall": self.tuned.target_recall,
            "confidence": self.confidence,
            "queries": self.sample.describe(),
            "rows": truth.scanned,
            **figures,
            "summary": self._summary(figures),
        }

    def _served(self, query: Vector, filter_text: str | None, _: sql.Composable | None) -> list[float]:
        column = self.tuned.column
        values = (column.relation.as_string(self.conn), query, self.k, filter_text, column.name)
        rows = self._raw().execute(_SERVED, values, prepare=True).fetchall()
        return [row[0] for row in rows]

    def _plain(self, query: Vector, _: str | None, condition: sql.Composable | None) -> list[float]:
        # A filter's values are part of the statement, as an application would mostly not prepare it.
        statement = self._plain_statement(condition)
        rows = self._raw().execute(statement, (query,), prepare=condition is None).fetchall()
        return [row[-1] for row in rows if row[-1] is not None]

    def _raw(self) -> psycopg.RawCursor[Any]:
        # Per cents in names and values are no placeholders.
        return psycopg.RawCursor(self.conn)

    def _plain_statement(self, condition: sql.Composable | None) -> sql.Composed:
        return compose_nearest(self.tuned.column, sql.SQL("$1"), sql.Literal(self.k), condition)

    def _answers(
        self, ways: dict[str, SearchFunction], searches: list[tuple[Any, ...]], progress: Progress
    ) -> dict[str, Floats]:
        """Search in every way: distances (n, k) padded with +inf; NaN where it was given up."""
        found = {name: np.full((len(searches), self.k), np.inf) for name in ways}
        for i, search in enumerate(searches):
            for place, (name, way) in enumerate(ways.items()):
                started = perf_counter()
                try:
                    with self.conn.transaction():
                        distances = way(*search)
                    found[name][i, : len(distances)] = distances
                except psycopg.Error as error:
                    if is_fatal(self.conn, error, perf_counter() - started, SCAN_TIMEOUT_MS):
                        raise
                    found[name][i] = np.nan
                progress(len(ways) * i + place + 1)
        return found

    def _recall(self, recall: Floats, given_up: Bools) -> dict[str, Any]:
        known, certain = recall[~given_up], (self.confidence, self.seed)
        poor = (known < TAIL_RECALL).astype(np.float64)
        return {
            "recall": _mean(known),
            "recall_at_least": round(lower_bound(known, *certain), 4),
            "recall_at_most": round(upper_bound(known, *certain), 4),
            "below_08": _mean(poor),
            "below_08_at_least": round(lower_bound(poor, *certain), 4),
            "below_08_at_most": round(upper_bound(poor, *certain), 4),
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

    def _serving(self) -> str:
        """Say what searches without a filter are served with; of filtered ones that depends on the filter."""
        policy, _ = read_bank(self.conn, self.tuned).get(k_class(self.k), (None, None))
        if any(condition is not None for condition in self.sample.conditions):
            return "by the kind of filter, see vectuned.recommend_params"
        if policy is None:
            return "nothing learned yet: the default"
        return policy.description

    def _default_setting(self) -> str:
        """Say what plain SQL searches with: the settings of this session, and the index that is taken."""
        row = self.conn.execute(
            "SELECT current_setting('hnsw.ef_search'), current_setting('ivfflat.probes')"
        ).fetchone()
        assert row is not None
        if any(condition is not None for condition in self.sample.conditions):
            return f"ef_search {row[0]}, probes {row[1]}, as the planner likes"
        explain = sql.SQL("EXPLAIN (FORMAT JSON) ") + self._plain_statement(None)
        plan = self._raw().execute(explain, (Vector(self.sample.vectors[0]),), prepare=False).fetchone()
        names = sorted(_indexes(plan[0][0]["Plan"])) if plan is not None else []
        return f"ef_search {row[0]}, probes {row[1]}, " + (
            f"through {', '.join(names)}" if names else "by scanning the table"
        )

    def _summary(self, figures: dict[str, dict[str, Any]]) -> str:
        said = []
        for name, words in (("served", "vectuned"), ("default", "plain SQL")):
            each = figures[name]
            if each["recall"] is None:
                said.append(f"{words}: every search was given up")
                continue
            text = (
                f"{words}: recall@{self.k} {each['recall']:.3f} ({each['recall_at_least']:.3f} to "
                f"{each['recall_at_most']:.3f}), {100 * each['below_08']:.1f} % under {TAIL_RECALL}"
            )
            said.append(text + (f", {each['mean_ms']:.2f} ms" if "mean_ms" in each else ""))
        return "; ".join(said)


def _mean(values: Floats) -> float | None:
    return round(float(values.mean()), 4) if len(values) else None


def _indexes(plan: dict[str, Any]) -> set[str]:
    own = {plan["Index Name"]} if "Index Name" in plan else set()
    return own.union(*(_indexes(part) for part in plan.get("Plans", ())))
