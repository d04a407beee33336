"""What the filters of a column's searches need: one answer for all of them, within a budget.

The recommendations of `vectuned.recommend_params` are the candidates, the most useful first: partial vector
indexes, and B-trees on filtered columns that have none. Taken are those that save most for the disk and the
write time that they cost. What inserting costs is measured over a copy of some rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from time import monotonic
from typing import Any, Final

from psycopg import sql

from vectuned.config.sections import IndexBuildSettings
from vectuned.daemon.console import Console
from vectuned.daemon.database.index_build import announce, build_with_progress, compose_create_index
from vectuned.daemon.work.worker import Worker
from vectuned.learning.advisor import Definition
from vectuned.learning.index_build import BuildPlan, build_session, plan_build, read_build_server
from vectuned.learning.index_cost import Build
from vectuned.learning.model.tuned_columns import TunedColumn
from vectuned.sql.files import queries, trusted
from vectuned.sql.rows import execute, fetch_rows, fetch_value

from . import storage
from .advice import ExistingIndex
from .sample_copy import SampleCopy
from .scratch_run import ScratchRun

DEFAULT_STATEMENTS: Final = 6  # more indexes than people keep an eye on
DEFAULT_INSERT_SHARE: Final = 1.0  # of the time of an insert today: writes take at most twice as long
_LEAST_GAIN: Final = 0.05  # of the gain of the best statement: what saves less is not worth one of its own
_BTREE_BYTES_A_ROW: Final = 24  # of a B-tree over short values, without the savings by equal ones
_SAMPLE_ROWS: Final = 12_000  # rows of the copy that inserts are timed on: a graph of some levels
_INSERTS: Final = 400  # rows inserted at once: a tenth of a second or more, so that noise does not decide
_MIB: Final = 1 << 20  # bytes


@dataclass(frozen=True)
class FilterBudget:
    """What the statements may cost together; bytes on disk, and the time of inserts over that of today."""

    max_bytes: int
    statements: int = DEFAULT_STATEMENTS
    insert_share: float = DEFAULT_INSERT_SHARE


@dataclass(frozen=True)
class FilterStatement:
    """An index that filtered searches need, and what it costs.

    `gain_ms` is what it saves per filtered search on average, None for a B-tree, which makes exact search by
    the filter possible; `insert_ms` what it adds to an inserted row on average.
    """

    kind: str
    subject: str
    statement: str
    reason: str
    bytes: int
    build_seconds: float
    insert_ms: float
    gain_ms: float | None
    searches: int


@dataclass(frozen=True)
class OtherMeans:
    """What else would serve filters, and SQL for it, to be read and edited before it is run."""

    why: str
    script: str


@dataclass(frozen=True)
class FilterAdvice:
    """The answer: the statements taken, those left out with the reason, indexes to drop, and other means.

    `insert_ms` is the time of an insert today, `searches` the number of filtered searches looked at.
    """

    taken: list[FilterStatement]
    left_out: list[tuple[FilterStatement, str]]
    to_drop: list[dict[str, Any]]
    others: list[OtherMeans]
    insert_ms: float

    def as_dict(self) -> dict[str, Any]:
        """Return the advice as JSON can hold it."""
        return {
            "statements": [asdict(each) for each in self.taken],
            "left_out": [{**asdict(each), "why": why} for each, why in self.left_out],
            "drop": self.to_drop,
            "others": [asdict(each) for each in self.others],
            "insert_ms": round(self.insert_ms, 4),
            "added_insert_ms": round(sum(each.insert_ms for each in self.taken), 4),
            "added_bytes": sum(each.bytes for each in self.taken),
        }


@dataclass(frozen=True)
class _InsertCosts:
    """Milliseconds of an insert: as it is, for a vector index over all rows, and for a B-tree."""

    base_ms: float
    vector_ms: float
    builds: list[Build]
    btree_ms: float = 0.0


class FilterAdvisor:
    """Advise about the filters of a tuned column through an autocommit connection."""

    def __init__(self, run: ScratchRun, limits: IndexBuildSettings, console: Console) -> None:
        self.run, self.conn, self.tuned, self.console = run, run.conn, run.tuned, console
        self._server = read_build_server(run.conn, limits)
        self._facts = storage.read_table(run.conn, run.tuned.column)

    def advise(self, budget: FilterBudget, seed: int = 0) -> FilterAdvice:
        """Choose among the recommended indexes within a budget."""
        rows = self._recommended()
        main = self._main_index()
        costs = self._measure_inserts(main.definition, seed) if rows else _InsertCosts(0.0, 0.0, [])
        candidates = [self._price(row, main, costs) for row in rows]
        taken, left_out = choose_within(candidates, budget, costs.base_ms)
        return FilterAdvice(
            taken, left_out, self._unneeded(), [*self._json_keys(), *self._partitioning()], costs.base_ms
        )

    def plan(self, share: float, definition: Definition, builds: Sequence[Build]) -> BuildPlan:
        """Plan the build of a partial index over a share of the rows."""
        column = self.tuned.column
        rows = max(round(share * self._facts.rows), 1)
        return plan_build(self._server, definition, rows, column.dimensions, column.vector_type, builds)

    def apply(self, advice: FilterAdvice, conninfo: str) -> list[str]:
        """Build the statements taken, one after the other; return the names of the indexes."""
        main, built = self._main_index(), []
        for number, each in enumerate(advice.taken, 1):
            name = self._unused_name(each)
            index = sql.Identifier(self.tuned.column.schema, name)
            named = sql.SQL("CREATE INDEX CONCURRENTLY {} ON").format(sql.Identifier(name))
            statement = each.statement.replace("CREATE INDEX CONCURRENTLY ON", named.as_string(self.conn), 1)
            share = each.bytes / max(main.bytes, 1) if each.kind == "index" else 1.0
            plan = replace(self.plan(min(share, 1.0), main.definition, ()), seconds=each.build_seconds)
            if each.kind == "index":
                announce(plan, self.console)
            self.run.register_index(name, trial=False)
            label = f"building index {number} of {len(advice.taken)}"
            build_with_progress(
                self.conn, conninfo, sql.Composed([trusted(statement)]), index, plan, label, self.console
            )
            built.append(name)
        return built

    def _recommended(self) -> list[Any]:
        column = self.tuned.column
        values = {"relation": column.relation.as_string(self.conn), "column_name": column.name}
        rows = fetch_rows(self.conn, "recommend", values)
        return [row for row in rows if row.kind in ("index", "filter index")]

    def _main_index(self) -> ExistingIndex:
        existing = storage.read_existing_indexes(self.conn, self.tuned)
        main = self.tuned.indexes[0].number
        return next(index for index in existing if index.number == main)

    def _price(self, row: Any, main: ExistingIndex, costs: _InsertCosts) -> FilterStatement:
        searches = int(row.figures.get("searches", 0))
        if row.kind == "filter index":
            size = _BTREE_BYTES_A_ROW * self._facts.rows
            return FilterStatement(
                row.kind, row.subject, row.statement, row.reason, size, 0.0, costs.btree_ms, None, searches
            )
        share = float(row.figures["rows"])
        return FilterStatement(
            row.kind,
            row.subject,
            row.statement,
            row.reason,
            round(share * main.bytes),
            self.plan(share, main.definition, costs.builds).seconds,
            share * costs.vector_ms,
            float(row.gain_ms),
            searches,
        )

    def _measure_inserts(self, definition: Definition, seed: int) -> _InsertCosts:
        """Time inserting rows into a copy without and with a vector index."""
        copy = SampleCopy(self.run, self._facts, self._facts.rows, seed)
        rows = copy.grow(min(1.0, _SAMPLE_ROWS / max(self._facts.rows, 1)), self.console)
        bare = self._time_inserts(copy)
        began = monotonic()
        name = "inserted"
        statement = compose_create_index(self.tuned.column, definition.over(copy.share), copy.relation, name)
        with build_session(self.conn, self.plan(copy.share, definition, ())):
            execute(self.conn, statement)
        seconds = monotonic() - began
        indexed = self._time_inserts(copy)
        self.conn.execute(sql.SQL("DROP INDEX {}").format(self.run.relation(name)))
        vector_ms = max(indexed - bare, 0.0)
        # Of the time without a vector index, the B-tree of the copy's key takes about half.
        return _InsertCosts(indexed, vector_ms, [Build(definition, rows, seconds)], bare / 2.0)

    def _time_inserts(self, copy: SampleCopy) -> float:
        """Insert rows into the copy, and return the milliseconds a row."""
        statement = queries()["insert_again"].format(
            copy=copy.relation, column=self.tuned.column.vector, count=sql.Literal(_INSERTS)
        )
        began = monotonic()
        count = execute(self.conn, statement)
        return 1000.0 * (monotonic() - began) / max(count, 1)

    def _unneeded(self) -> list[dict[str, Any]]:
        """Name partial indexes that serve no class of searches any more."""
        return [
            {
                "index": row.index,
                "requires": row.requires,
                "mb": round(row.bytes / _MIB, 1),
                "why": "no search that was learned from is served by it: its filter "
                f"{json.dumps(row.requires)} was asked {row.searches} times of {row.total} filtered searches "
                "recorded",
                "statement": f"DROP INDEX CONCURRENTLY {row.index}",
            }
            for row in fetch_rows(self.conn, "unneeded_partial_indexes", {"column_id": self.tuned.column.id})
        ]

    def _json_keys(self) -> list[OtherMeans]:
        """Name keys of jsonb columns that statements filter by, which no index serves."""
        means = []
        for row in fetch_rows(self.conn, "filtered_json_keys", {"column_id": self.tuned.column.id}):
            asked = f"{row.searches} recorded statements filter by {row.expression}"
            means += [
                OtherMeans(f"{asked}: a B-tree serves them", row.btree),
                OtherMeans(
                    f"{asked}: as a generated column it can also be a filter of vectuned.search; adding it "
                    "rewrites the table, which nothing can use meanwhile",
                    row.generated,
                ),
            ]
        return means

    def _partitioning(self) -> list[OtherMeans]:
        """Name filters that nearly every search has, for which partitions would do what many indexes do."""
        return [
            OtherMeans(
                f"{row.share:.0%} of the searches filter by one value of {row.name}, which has about "
                f"{row.distinct:,.0f} values: partitioning the table by {'list' if row.by_list else 'hash'} "
                f"of {row.name} gives {'each' if row.by_list else 'a part of them'} an index of its own. The "
                "script copies the table, while nothing may write to it, and its primary key, and so the ids "
                f"of vectuned.search, have {row.name} too; identity columns, foreign keys, triggers, "
                "policies, grants and views have to be made again, and the old table dropped",
                row.script,
            )
            for row in fetch_rows(self.conn, "partition_keys", {"column_id": self.tuned.column.id})
        ]

    def _unused_name(self, each: FilterStatement) -> str:
        column = self.tuned.column
        stem = f"{column.table}_{column.name if each.kind == 'index' else each.subject}_filter"
        stem = stem.encode()[:58].decode(errors="ignore")
        return str(fetch_value(self.conn, "unused_index_name", {"stem": stem, "schema": column.schema}))


def learn_about_indexes(worker: Worker, tuned: TunedColumn, console: Console) -> TunedColumn:
    """Replay recorded searches through new indexes and learn; return the column with them."""
    tuned = worker.refresh(tuned)
    waiting = worker.count_waiting(tuned)
    with console.progress("replaying through them", waiting) as progress:
        worker.replay(tuned, waiting, progress)
    with console.step("learning about them"):
        worker.learn(tuned)
    return tuned


def choose_within(
    candidates: Sequence[FilterStatement], budget: FilterBudget, insert_ms: float
) -> tuple[list[FilterStatement], list[tuple[FilterStatement, str]]]:
    """Take the statements that save most for their disk, within a budget; say why the others are left out.

    B-trees come first: without one, exact search by the filter reads the whole table.
    """
    ordered = sorted(
        candidates, key=lambda each: (each.kind != "filter index", -(each.gain_ms or 0.0), -each.searches)
    )
    best = max((each.gain_ms or 0.0 for each in candidates), default=0.0)
    taken: list[FilterStatement] = []
    left_out: list[tuple[FilterStatement, str]] = []
    for each in ordered:
        size = sum(other.bytes for other in taken) + each.bytes
        inserting = sum(other.insert_ms for other in taken) + each.insert_ms
        if each.gain_ms is not None and each.gain_ms < _LEAST_GAIN * best:
            left_out.append((each, f"saves {each.gain_ms:.3f} ms a search, a small part of the best"))
        elif len(taken) >= budget.statements:
            left_out.append((each, f"{budget.statements} statements are taken already"))
        elif size > budget.max_bytes:
            left_out.append((each, f"would exceed the {budget.max_bytes / _MIB:,.0f} MB of disk"))
        elif inserting > budget.insert_share * insert_ms:
            left_out.append((each, f"would add more than {budget.insert_share:.0%} to the time of an insert"))
        else:
            taken.append(each)
    return taken, left_out
