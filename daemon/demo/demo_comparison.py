"""Comparisons of the demonstration: held-out queries in plain SQL, exact search and vectuned."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from vectuned.daemon.console import Console
from vectuned.daemon.database.session import open_session
from vectuned.daemon.measure.arms import (
    Arm,
    Outcome,
    compare_arms,
    find_filtered_truth,
    prepare_exact_arm,
    prepare_filtered_arm,
    prepare_plain_arm,
    prepare_vectuned_arm,
)
from vectuned.learning.model.tuned_columns import TunedColumn
from vectuned.learning.truth.truth import Truth

from .demo_data import ATTRIBUTE, INDEX, UNRELATED, DemoQueries

K: Final = 10  # rows a search asks for
DEFAULT_EF: Final = 40  # pgvector's default of hnsw.ef_search
_LARGE_EF: Final = 200  # the usual advice where relaxed_order at the default misses rows


@dataclass(frozen=True)
class DemoComparison:
    """Compare arms, each on a connection of its own so that none shares settings or plans with another."""

    conn: psycopg.Connection[Any]
    conninfo: str
    seed: int
    console: Console

    def compare_unfiltered(
        self, tuned: TunedColumn, heldout: DemoQueries, truth: Truth, fixed: int, served: int, label: str
    ) -> dict[str, Outcome]:
        """Compare pgvector's default, the best fixed ef_search and vectuned, which falls back to `served`."""
        with ExitStack() as stack:
            arms = {
                "default": prepare_plain_arm(self._session(stack), tuned.column, DEFAULT_EF, INDEX),
                "fixed": prepare_plain_arm(self._session(stack), tuned.column, fixed, INDEX),
                "vectuned": prepare_vectuned_arm(self._session(stack), tuned.column, served),
            }
            return self._race(arms, heldout, truth, None, label)

    def find_truth(self, tuned: TunedColumn, heldout: DemoQueries) -> Truth:
        """Find the exact answers among the rows of each query's own lexical category."""
        with self.console.step("finding the exact answers of the filtered queries"):
            return find_filtered_truth(
                self.conn, tuned.column, heldout.vectors, K, ATTRIBUTE, heldout.categories
            )

    def compare_filtered(
        self, tuned: TunedColumn, heldout: DemoQueries, truth: Truth, *, advised: bool
    ) -> dict[str, Outcome]:
        """Compare searches among the rows of each query's own lexical category.

        Before vectuned's advice is followed, only vectuned. After it (`advised`) also exact search, and plain
        SQL with the usual settings, and once with the new indexes, which plain SQL may use as well.
        """
        column = tuned.column
        with ExitStack() as stack:
            arms = {
                "vectuned": prepare_vectuned_arm(self._session(stack), column, None, attribute=ATTRIBUTE),
            }
            if advised:
                arms["exact"] = prepare_exact_arm(self._session(stack), column, ATTRIBUTE)
                for name, ef, iterative, new_indexes in (
                    ("default", DEFAULT_EF, False, False),
                    ("relaxed", DEFAULT_EF, True, False),
                    ("relaxed_200", _LARGE_EF, True, False),
                    ("relaxed_advised", DEFAULT_EF, True, True),
                ):
                    arms[name] = prepare_filtered_arm(
                        self._session(stack), column, ATTRIBUTE, ef, iterative=iterative, advised=new_indexes
                    )
            label = "held-out, filtered" + (", advice followed" if advised else "")
            return self._race(arms, heldout, truth, heldout.categories, label)

    def compare_unrelated(self, tuned: TunedColumn, heldout: DemoQueries) -> dict[str, Outcome]:
        """Compare searches with a filter that is unrelated to the query."""
        column = tuned.column
        with self.console.step("finding the exact answers of the queries with an unrelated filter"):
            truth = find_filtered_truth(self.conn, column, heldout.vectors, K, UNRELATED, heldout.topics)
        with ExitStack() as stack:
            arms = {
                "relaxed": prepare_filtered_arm(
                    self._session(stack), column, UNRELATED, DEFAULT_EF, iterative=True
                ),
                "exact": prepare_exact_arm(self._session(stack), column, UNRELATED),
                "vectuned": prepare_vectuned_arm(self._session(stack), column, None, attribute=UNRELATED),
            }
            return self._race(arms, heldout, truth, heldout.topics, "held-out, unrelated filter")

    def _session(self, stack: ExitStack) -> psycopg.Connection[Any]:
        return stack.enter_context(open_session(self.conninfo))

    def _race(
        self,
        arms: dict[str, Arm],
        queries: DemoQueries,
        truth: Truth,
        values: Sequence[str] | None,
        label: str,
    ) -> dict[str, Outcome]:
        with self.console.progress(label, len(queries) * len(arms)) as progress:
            return compare_arms(
                arms, queries.vectors, truth, K, values=values, seed=self.seed, progress=progress
            )
