"""The recall of a table's searches, measured: as they are now and with other settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from time import monotonic
from typing import Any, Final

import numpy as np
import psycopg
from psycopg import sql

from vectuned.config.errors import VectunedError
from vectuned.learning.model.arrays import Bools, Floats, Singles
from vectuned.learning.statistics.bounds import lower_bound
from vectuned.learning.truth.truth import Truth, exact_among
from vectuned.sql.rows import fetch_dicts, fetch_rows, fetch_value

from .catalogue import Server, VectorIndex, VectorTable
from .searches import SEARCH_TIMEOUT_MS, Answers, Drawn, as_text, draw_rows, nearest, run_searches, settings

K: Final = 10  # rows a search asks for: recall@10 is what most people quote
_QUERIES: Final = 100  # searches a measurement: the bound on the mean is then within about 0.03
_PLANNED: Final = 20  # searches of which the plan is looked at
# Columns to filter by that are looked at for each table; those with the commonest values come first.
_FILTER_COLUMNS: Final = 3
# Different values of a filter that one pass over the table can answer exactly.
_VALUES: Final = 60
# ef_search or probes that are tried beside those in force, as multiples of them.
_MULTIPLES: Final = (2, 4, 8, 16)
_LARGEST: Final = {"hnsw": 1000, "ivfflat": 32768}  # what pgvector accepts
# HNSW and IVFFlat have no bitmap scans, so without index scans the planner answers exactly.
_EXACT: Final = {
    "enable_indexscan": "off",
    "enable_bitmapscan": "on",
    "enable_seqscan": "on",
    "enable_sort": "on",
}
# Bytes a second that an exact pass reads at the least: with it, the time of a pass is guessed beforehand.
_SLOWEST_PASS: Final = 60e6


@dataclass(frozen=True)
class Trial:
    """What searches gave under some settings; `settings` is "" for those in force."""

    settings: str
    path: str
    recall: float
    recall_bound: float
    rows_returned: float
    short: float
    mean_ms: float
    p99_ms: float

    def as_dict(self) -> dict[str, Any]:
        """Return the figures, rounded to what they are worth."""
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class Measurement:
    """Recall@10 of a table's searches: as they are, and under other settings.

    `filter` is the column they filter by, None without one; `queries` how many searches there were.
    `partitions` is the number of partitions, 1 for a table that is not partitioned; `servers` are the other
    servers that hold some of them.
    """

    table: str
    index: VectorIndex
    filter: str | None
    queries: int
    now: Trial
    others: tuple[Trial, ...]
    seconds: float
    partitions: int = 1
    servers: tuple[str, ...] = ()

    def best(self, target: float) -> Trial | None:
        """Return the quickest other setting that reaches a target recall, None if none does."""
        reaching = [trial for trial in self.others if trial.recall >= target]
        return min(reaching, key=lambda trial: trial.mean_ms, default=None)

    def as_dict(self) -> dict[str, Any]:
        """Return the measurement as JSON can hold it."""
        return {
            "table": self.table,
            "index": self.index.name,
            "filter": self.filter,
            "k": K,
            "queries": self.queries,
            "now": self.now.as_dict(),
            "others": [trial.as_dict() for trial in self.others],
            "servers": list(self.servers),
            "seconds": round(self.seconds, 2),
        }


class RecallCheck:
    """Measures the searches of one table through the index that is used most.

    `conn` is in a read-only transaction with one snapshot; `deadline` on time.monotonic's clock bounds what
    is begun, `seed` the drawing.
    """

    def __init__(
        self,
        conn: psycopg.Connection[Any],
        server: Server,
        table: VectorTable,
        target: float,
        deadline: float,
        seed: int = 0,
    ) -> None:
        self._conn, self._server, self.table = conn, server, table
        self.target, self._deadline = target, deadline
        self._rng = np.random.default_rng(seed)
        self._index = max(table.searched, key=lambda index: index.scans)
        self._extension = str(server.extension_schema)
        self._seconds = 0.0  # that the measurement before took
        self._column = table.measured_by(self._index, self._extension)

    @property
    def pass_seconds(self) -> float:
        """Guess how long a measurement takes: as long as the one before, or as a slow pass over the table."""
        far = sum(part.rows for part in self.table.foreign)
        far_bytes = far * self._column.dimensions * (2 if self.table.type == "halfvec" else 4)
        return max((self.table.bytes + far_bytes) / _SLOWEST_PASS, self._seconds)

    def fits(self) -> bool:
        """Say whether a measurement is expected to end before the deadline."""
        return monotonic() + self.pass_seconds < self._deadline

    def measure(self, column: str | None) -> Measurement:
        """Measure searches that filter by a column, or without a filter.

        Half of those with a filter ask for the value of the row they search for, half for that of another
        row. Raises VectunedError if there is nothing to search for.
        """
        drawn = draw_rows(self._conn, self.table, _QUERIES, column)
        if column is None:
            return self._measure(drawn.vectors, None, [None] * len(drawn.vectors))
        return self._filtered(drawn, column)

    def filter_columns(self) -> list[str]:
        """Return the columns that searches probably filter by; see check_filter_columns."""
        values = {"relation": self.table.relation, "rows": self.table.rows}
        rows = fetch_rows(self._conn, "check_filter_columns", values)
        rows.sort(key=lambda row: row.common or 0.0, reverse=True)
        return [row.column for row in rows[:_FILTER_COLUMNS]]

    def _filtered(self, drawn: Drawn, column: str) -> Measurement:
        values = self._values(drawn)
        usable = np.array([value is not None for value in values], dtype=np.bool_)
        conditions = [
            None
            if value is None
            else sql.SQL("{} = {}").format(sql.Identifier("t", column), sql.Literal(value))
            for value in values
        ]
        chosen = [condition for condition in conditions if condition is not None]
        return self._measure(drawn.vectors[usable], column, chosen)

    def _values(self, drawn: Drawn) -> list[str | None]:
        """Give each query a value to filter by: its own row's or, for every other query, another row's."""
        count = len(drawn.values)
        others = self._rng.permutation(count)
        values = [drawn.values[i if i % 2 else others[i]] for i in range(count)]
        most: dict[str, None] = dict.fromkeys(value for value in values if value is not None)
        known = set(list(most)[:_VALUES])
        return [value if value in known else None for value in values]

    def _measure(
        self, vectors: Singles, column: str | None, conditions: Sequence[sql.Composable | None]
    ) -> Measurement:
        began = monotonic()
        if len(vectors) < 2:
            raise VectunedError(f"{self.table} holds no vectors that can be searched for.")
        truth = exact_among(self._conn, self._column, vectors, K + 1, conditions)
        # A row is its own nearest neighbour, which any search finds: it is asked for and left out.
        own = truth.distances[:, 0] <= truth.tolerances[:, 0] + 1e-9
        statements = [nearest(self.table, self._index, self._extension, K + 1, c) for c in conditions]
        # The first run finds pages of the index that no other has brought into memory.
        self._try("", {}, vectors, statements, truth, own)
        now = self._try("", {}, vectors, statements, truth, own)
        others: list[Trial] = []
        for name, values in self._alternatives(column is not None):
            reached = max((other.recall for other in others), default=0.0) >= self.target
            if monotonic() > self._deadline or (column is None and reached):
                break
            others.append(self._try(name, values, vectors, statements, truth, own))
        self._seconds = monotonic() - began
        return Measurement(
            str(self.table),
            self._index,
            column,
            len(vectors),
            now,
            tuple(others),
            self._seconds,
            self.table.partitions,
            tuple(sorted({part.server for part in self.table.foreign})),
        )

    def _alternatives(self, filtered: bool) -> list[tuple[str, Mapping[str, str]]]:
        """List settings worth trying, by a name and the parameters to set.

        Empty if there are partitions on other servers, because settings of a session do not reach those.
        """
        if self.table.foreign:
            return []
        method = self._index.method
        name = "hnsw.ef_search" if method == "hnsw" else "ivfflat.probes"
        inside = {row["name"]: row["setting"] for row in fetch_dicts(self._conn, "check_settings_in_force")}
        usual = int(inside.get(name, 40))
        found: list[tuple[str, Mapping[str, str]]] = []
        if filtered:
            if self._server.pgvector_number >= (0, 8):
                scan = {f"{method}.iterative_scan": "relaxed_order"}
                found.append((f"{method}.iterative_scan = relaxed_order", scan))
                wider = str(min(5 * usual, _LARGEST[method]))
                found.append((f"relaxed_order, {name} = {wider}", {**scan, name: wider}))
            found.append(("exact, through the filter's own index or the table", _EXACT))
            return found
        for multiple in _MULTIPLES:
            value = str(min(multiple * usual, _LARGEST[method]))
            found.append((f"{name} = {value}", {name: value}))
        return found

    def _try(
        self,
        name: str,
        values: Mapping[str, str],
        vectors: Singles,
        statements: Sequence[sql.Composed],
        truth: Truth,
        own: Bools,
    ) -> Trial:
        with settings(self._conn, {"statement_timeout": str(SEARCH_TIMEOUT_MS), **values}):
            path = self._paths(statements, vectors)
            answers = run_searches(self._conn, vectors, K + 1, statements)
        recall = _score(answers, truth, own)
        short = answers.returned < np.minimum(truth.counts, K + 1)
        return Trial(
            name,
            path,
            float(recall.mean()),
            lower_bound(recall),
            float((answers.returned - own).clip(0, K).mean()),
            float(short.mean()),
            float(answers.ms.mean()),
            float(np.quantile(answers.ms, 0.99)),
        )

    def _paths(self, statements: Sequence[sql.Composed], vectors: Singles) -> str:
        """Return how the planner answers: one path, or each with the number of searches that take it.

        It may choose by the value that a search filters by.
        """
        names = self.table.index_names
        paths: Counter[str] = Counter()
        for statement, vector in zip(statements[:_PLANNED], vectors, strict=False):
            text = as_text(vector)
            explain = sql.SQL("EXPLAIN (FORMAT JSON) {}").format(statement)
            plan = fetch_value(self._conn, explain, (text, text))
            paths[describe_path(plan[0]["Plan"], names)] += 1
        if len(paths) == 1:
            return next(iter(paths))
        return "; ".join(f"{path}: {count} of {paths.total()}" for path, count in paths.most_common())


def describe_path(plan: Mapping[str, Any], vector_indexes: set[str]) -> str:
    """Say in a few words how a plan finds its rows."""
    path, foreign = _describe_local(plan, vector_indexes)
    return f"{path}, and {foreign} on other servers" if foreign else path


def _describe_local(plan: Mapping[str, Any], vector_indexes: set[str]) -> tuple[str, int]:
    """Describe what this server does, and count the scans on other servers."""
    nodes, names, foreign, index = [plan], list[str](), 0, ""
    while nodes:
        node = nodes.pop()
        nodes.extend(node.get("Plans", ()))
        foreign += node["Node Type"] == "Foreign Scan"
        if name := node.get("Index Name"):
            if name in vector_indexes and node["Node Type"].startswith("Index"):
                index = index or f"index {name}"
            names.append(name)
    return index or (f"exact, through {names[0]}" if names else "exact, every row read"), foreign


def _score(answers: Answers, truth: Truth, own: Bools) -> Floats:
    """Score answers without the row that was searched for; return recall@10, float64 (n,).

    `own` bool (n,): whether that row is among the true neighbours, at distance 0.
    """
    wanted = np.minimum(truth.counts, K + own)
    at = (np.arange(len(wanted)), np.maximum(wanted - 1, 0))
    bounds = np.where(wanted > 0, truth.distances[at] + truth.tolerances[at], -np.inf)
    hits = np.minimum((answers.distances <= bounds[:, None]).sum(axis=1), wanted)
    itself = own & (answers.distances.min(axis=1) <= truth.distances[:, 0] + truth.tolerances[:, 0] + 1e-9)
    rest = wanted - own
    recall = np.where(rest > 0, (hits - itself) / np.maximum(rest, 1), 1.0)
    return recall.astype(np.float64)
