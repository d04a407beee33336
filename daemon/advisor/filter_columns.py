"""What filters by a column need before searches are recorded, by the planner's statistics of its values.

A search that filters by one value can be answered exactly, through a B-tree on the column; through the index
over all rows, of which only a share matches; or through a partial index over the rows with that value. The
forecast of the advised index says what each would cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import psycopg
from psycopg import sql

from vectuned.config.errors import UsageError
from vectuned.daemon.console import Console
from vectuned.daemon.database.index_build import announce, build_with_progress
from vectuned.learning.advisor import Forecast
from vectuned.learning.index_build import BuildPlan, plan_build, read_build_server
from vectuned.learning.index_cost import Build, estimate_index_bytes
from vectuned.learning.model.column import VectorColumn
from vectuned.sql.rows import execute, fetch_rows, fetch_value

from .advice import Advice, AdvisorOptions
from .index_statement import compose_index_statement
from .scratch_run import ScratchRun

MOST_PARTIAL: Final = 6  # partial indexes: more than people keep an eye on, as DEFAULT_STATEMENTS of filters
_WORTHWHILE: Final = 2.0  # times that a partial index must be quicker than the best way without it
_LEAST_ROWS: Final = 1000  # of a partial index: fewer are searched exactly in a millisecond or two
_BTREE_BYTES_A_ROW: Final = 24  # of a B-tree over short values, as in filters
_ROW_US: Final = 0.5  # microseconds that a B-tree and the visit of a row add to an exact search, for each row
_MIB: Final = 1 << 20  # bytes


@dataclass(frozen=True)
class ValueCost:
    """What searches for one value of a filter would cost, in milliseconds.

    `share` of the rows has the value; `exact_ms` through a B-tree, `index_ms` through the index over all
    rows, `partial_ms` through one over these rows alone, which takes `bytes` and `build_seconds`. `statement`
    builds that where it is worth its place.
    """

    value: str
    share: float
    exact_ms: float
    index_ms: float
    partial_ms: float
    bytes: int
    build_seconds: float
    statement: str | None = None

    @property
    def best(self) -> str:
        """Name the cheapest way among those that the advice leads to."""
        if self.statement is not None:
            return "a partial index"
        return "exact" if self.exact_ms <= self.index_ms else "the index over all rows"


@dataclass(frozen=True)
class FilterColumnAdvice:
    """The advice about one column: its B-tree, None where one is there, and what its values cost.

    `mean_ms` is what a filtered search is expected to take with the advice, and `index_only_ms` through the
    index over all rows alone, if searches ask for values as often as rows have them.
    """

    column: str
    btree: str | None
    btree_bytes: int
    values: list[ValueCost]
    other_values: int
    mean_ms: float
    index_only_ms: float

    def as_dict(self) -> dict[str, Any]:
        """Return the advice as JSON can hold it."""
        return {**asdict(self), "values": [{**asdict(each), "best": each.best} for each in self.values]}


def read_filter_column(conn: psycopg.Connection[Any], tuned: VectorColumn, column: str) -> Any:
    """Read the statistics of a column; raises UsageError where it or they are missing."""
    relation = tuned.relation.as_string(conn)
    rows = fetch_rows(conn, "filter_column", {"relation": relation, "column_name": column})
    if not rows:
        raise UsageError(f"{tuned.table} has no column {column} to filter by.")
    if rows[0].distinct is None:
        raise UsageError(
            f"Nothing is known about the values of {column}: run ANALYZE {relation}, and use a role that may "
            "read the column."
        )
    return rows[0]


class FilterColumnAdvisor:
    """Advise about filters by columns of a table whose index has just been forecast."""

    def __init__(self, run: ScratchRun, advice: Advice, options: AdvisorOptions) -> None:
        self.run, self.conn, self.tuned = run, run.conn, run.tuned
        self.advice, self.options = advice, options
        self._server = read_build_server(run.conn, options.build_limits)

    def advise(self, column: str) -> FilterColumnAdvice:
        """Advise about one column; raises UsageError as read_filter_column."""
        row = read_filter_column(self.conn, self.tuned.column, column)
        common = list(zip(row.values or [], row.shares or [], strict=True))
        costs = [self._price(value, float(share)) for value, share in common]
        costs = self._take_partial(column, costs)
        rest = max(1.0 - float(row.nulls) - sum(each.share for each in costs), 0.0)
        others = max(round(row.distinct) - len(costs), 0)
        every = [*costs]
        if others and rest > 0:
            every += [self._price("other values", rest / others)]
        weights = [each.share for each in costs] + [rest] * (len(every) - len(costs))
        btree = None if row.has_btree else self._compose_btree(column, self._choose_name(column, 0))
        return FilterColumnAdvice(
            column,
            None if btree is None else btree.as_string(self.conn),
            0 if row.has_btree else _BTREE_BYTES_A_ROW * self.advice.rows,
            costs,
            others,
            _mean([_cost(each) for each in every], weights),
            _mean([each.index_ms for each in every], weights),
        )

    def apply(self, advised: FilterColumnAdvice, conninfo: str, console: Console) -> list[str]:
        """Build what is advised; return the names of the partial indexes."""
        if advised.btree is not None:
            console.say(f"Building a B-tree on {advised.column}.")
            name = self._choose_name(advised.column, 0)
            # A build that is interrupted is dropped at the end of the run.
            self.run.register_index(name, trial=False)
            execute(self.conn, self._compose_btree(advised.column, name))
        built: list[str] = []
        for each in advised.values:
            if each.statement is None:
                continue
            name = self._choose_name(advised.column, len(built) + 1)
            self.run.register_index(name, trial=False)
            statement, plan = self._compose_partial(advised.column, each.value, name), self._plan(each.share)
            announce(plan, console)
            index = sql.Identifier(self.tuned.column.schema, name)
            build_with_progress(self.conn, conninfo, statement, index, plan, f"building {name}", console)
            built.append(name)
        return built

    @property
    def _winner(self) -> Forecast:
        assert self.advice.winner is not None
        return self.advice.winner

    def _price(self, value: str, share: float) -> ValueCost:
        rows, exact = share * self.advice.rows, self.advice.exact_ms or 0.0
        target = self._winner.at_target(self.options.target, self.options.k)
        assert target is not None
        unit = self.advice.reference_ms
        plan = self._plan(share)
        column = self.tuned.column
        return ValueCost(
            value,
            share,
            share * exact + rows * _ROW_US / 1000.0,
            unit * _cost_at(self._winner, target.effort / max(share, 1.0 / max(self.advice.rows, 1))),
            unit * target.ms,
            estimate_index_bytes(plan.definition, plan.rows, column.dimensions, column.vector_type),
            plan.seconds,
        )

    def _take_partial(self, column: str, costs: Sequence[ValueCost]) -> list[ValueCost]:
        """Give a statement to the values whose searches gain most, as often as rows have them."""

        def saved(each: ValueCost) -> float:
            return each.share * (_cost(each) - each.partial_ms)

        worth = [
            each
            for each in costs
            if _cost(each) > _WORTHWHILE * each.partial_ms and each.share * self.advice.rows >= _LEAST_ROWS
        ]
        # Where dimensions are mixed, statements would have to hold the condition on them too.
        taken = [] if self.options.mixed else sorted(worth, key=saved, reverse=True)[:MOST_PARTIAL]
        numbers = {each.value: number for number, each in enumerate(taken, 1)}
        return [
            replace(each, statement=self._describe_partial(column, each, numbers[each.value]))
            if each.value in numbers
            else each
            for each in costs
        ]

    def _describe_partial(self, column: str, each: ValueCost, number: int) -> str:
        name = self._choose_name(column, number)
        return self._compose_partial(column, each.value, name).as_string(self.conn)

    def _compose_partial(self, column: str, value: str, name: str) -> sql.Composed:
        statement = compose_index_statement(self.tuned, self._winner.definition, [], name)
        return statement + sql.SQL(" WHERE {} = {}").format(sql.Identifier(column), sql.Literal(value))

    def _compose_btree(self, column: str, name: str) -> sql.Composed:
        statement = sql.SQL("CREATE INDEX CONCURRENTLY {} ON {} ({})")
        return statement.format(sql.Identifier(name), self.tuned.column.relation, sql.Identifier(column))

    def _choose_name(self, column: str, number: int) -> str:
        stem = f"{self.tuned.column.table}_{self.tuned.column.name}_{column}"
        stem = f"{stem.encode()[:54].decode(errors='ignore')}_{number}"
        values = {"stem": stem, "schema": self.tuned.column.schema}
        return str(fetch_value(self.conn, "unused_index_name", values))

    def _plan(self, share: float) -> BuildPlan:
        """Plan the partial index over a share of the rows, its time in proportion to that of the whole."""
        column, definition = self.tuned.column, self._winner.definition
        rows = max(round(share * self.advice.rows), 1)
        builds = [Build(definition, self.advice.rows, self._winner.build_seconds)]
        return plan_build(self._server, definition, rows, column.dimensions, column.vector_type, builds)


def print_filter_column(console: Console, advised: FilterColumnAdvice) -> None:
    """Print what the values of a column cost, and the statements."""
    console.table(
        ("value", "rows", "exact ms", "index ms", "partial ms", "MB", "build s", "best"),
        [
            (
                each.value[:40],
                f"{each.share:.1%}",
                f"{each.exact_ms:.2f}",
                f"{each.index_ms:.2f}",
                f"{each.partial_ms:.2f}",
                f"{each.bytes / _MIB:,.1f}",
                f"{each.build_seconds:,.1f}",
                each.best,
            )
            for each in advised.values
        ],
        title=f"searches that filter by {advised.column}, as forecast",
    )
    console.line(
        f"Besides these {len(advised.values)} values there are about {advised.other_values:,}. A filtered "
        f"search takes about {advised.mean_ms:.2f} ms with this advice, {advised.index_only_ms:.2f} through "
        "the index over all rows alone, if values are asked for as often as rows have them and do not depend "
        "on the vectors."
    )
    if advised.btree is not None:
        console.line(f"  {advised.btree};")
    for each in advised.values:
        if each.statement is not None:
            console.line(f"  {each.statement};")


def _cost(each: ValueCost) -> float:
    """Return what a search takes with the advice."""
    if each.statement is not None:
        return each.partial_ms
    return min(each.exact_ms, each.index_ms)


def _cost_at(forecast: Forecast, effort: float) -> float:
    """Return the time at an effort, beyond the last rung in proportion to it."""
    most = forecast.definition.rungs[-1]
    if effort <= most:
        return forecast.at(max(round(effort), 1)).ms
    return forecast.at(most).ms * effort / most


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    total = sum(weights)
    return sum(v * w for v, w in zip(values, weights, strict=True)) / total if total > 0 else 0.0
