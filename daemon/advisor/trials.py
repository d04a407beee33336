"""Trials of one candidate: build the index, replay and time searches through it, drop it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, Final

import numpy as np
import psycopg
from psycopg import sql

from vectuned.daemon.console import Console
from vectuned.daemon.database.index_build import build_with_progress, compose_create_index
from vectuned.daemon.database.session import in_snapshot
from vectuned.daemon.measure.index_replay import IndexReplay, replay_index
from vectuned.daemon.measure.prepared_search import Clients, PreparedSearch, prepare_index_search
from vectuned.learning import advisor
from vectuned.learning.advisor import Definition, Trial
from vectuned.learning.index_build import BuildPlan, plan_build, read_build_server
from vectuned.learning.index_cost import Build, slow_down
from vectuned.learning.model.arrays import Floats
from vectuned.learning.model.tuned_columns import TunedColumn, TunedIndex
from vectuned.learning.replay.lock_watch import LockWatch
from vectuned.learning.truth.truth import Truth, exact_neighbors

from . import storage
from .advice import AdvisorOptions, ExistingIndex, TableFacts
from .sample_copy import SampleCopy
from .scratch_run import ScratchRun

_TRIAL: Final = "trial"  # name of the one index that a scratch schema holds at a time
_TIMED_QUERIES: Final = 150  # a mean of 150 times, the quickest of three each, repeats within a few per cent
_TIMING_PASSES: Final = 3  # searches for each query, of which the quickest counts
_DEFAULT_RUNG: Final = 12  # place on the ladder to time where no rung reaches the target: near its top
_REFERENCE_ROWS: Final = 5000  # whose exact search, of some ms, is the unit of time without an index
_RUNG_STEPS: Final = (0, 2, 4)  # rungs above that are timed too: more rows may take a higher effort


@dataclass(frozen=True)
class _TrialIndex:
    """An index that was built for a trial; `name` as SQL writes it, `rows` of its table."""

    definition: Definition
    name: str
    rows: int
    build_seconds: float


class TrialRunner:
    """Try candidates through one autocommit connection; `clients` time searches on connections of their own.

    Times are multiples of the time of a search through the current index, taken in the same blocks, so that
    other load on the machine cancels out. `measure_current` comes first and sets that reference.
    """

    def __init__(
        self,
        run: ScratchRun,
        conninfo: str,
        options: AdvisorOptions,
        facts: TableFacts,
        clients: Clients,
        console: Console,
    ) -> None:
        self.conn: psycopg.Connection[Any] = run.conn
        self.run, self.tuned, self.options, self.console = run, run.tuned, options, console
        self.reference_ms: list[float] = []
        self.reference_effort = 0
        self._conninfo, self._facts, self._clients = conninfo, facts, clients
        self._table_rows = facts.rows
        self._reference: PreparedSearch | None = None
        self._builds: list[Build] = []
        self.missing_seconds = 0.0
        self._server = read_build_server(run.conn, options.build_limits)
        self._began = monotonic()

    def measure_current(self, current: ExistingIndex) -> Trial:
        """Measure the current index over all rows."""
        options, tuned = self.options, self.tuned
        index = _find_index(tuned, current.number)
        label = f"replaying through {current.name}"

        def replay_current(_: LockWatch) -> tuple[IndexReplay, int]:
            with self.console.progress(label, len(options.vectors)) as progress:
                truth = exact_neighbors(self.conn, tuned.column, options.vectors, options.k)
                replay = replay_index(self.conn, tuned, index, options.vectors, truth, options.k, progress)
            return replay, truth.scanned

        replay, self._table_rows = in_snapshot(self.conn, replay_current)
        recall = replay.recall.mean(axis=0)
        self.reference_effort = self._first_effort(index, recall)
        self._reference = self._prepare(tuned, index, self.reference_effort)
        times = self._time({n: self._prepare(tuned, index, n) for n in self._efforts(index, recall)})
        built = _TrialIndex(current.definition, current.name, self._table_rows, 0.0)
        return _summarize(built, replay, index.rungs, times, current.bytes)

    def measure_exact(self, copy: SampleCopy) -> float:
        """Take exact search of the copy's first rows as the reference, and return its milliseconds a row."""
        column, name = self.tuned.column, self.run.relation("reference")
        values = {"copy": copy.relation, "reference": name, "rows": sql.Literal(_REFERENCE_ROWS)}
        rows = storage.create_reference(self.conn, values)
        self._reference = PreparedSearch(
            storage.compose_exact_search(column, name, self.options.k).as_string(self.conn), ()
        )
        self._time({})
        return self.reference_ms[0] / max(rows, 1)

    def try_on_copy(self, copy: SampleCopy, definition: Definition, truth: Truth, label: str) -> Trial:
        """Build a candidate over a copy, measure it and drop it."""
        name = self.run.relation(_TRIAL)
        over_copy = definition.over(copy.share)
        statement = compose_create_index(self.tuned.column, over_copy, copy.relation, _TRIAL)
        built = self._build(over_copy, copy.rows, statement, name, label)
        built = replace(built, definition=definition)
        trial = self._measure(built, truth, copy)
        self.conn.execute(sql.SQL("DROP INDEX {}").format(name))
        return trial

    def try_on_table(self, definition: Definition, number: int, truth: Truth, label: str) -> Trial:
        """Build a candidate on the table itself, measure it and drop it; `number` makes its name unique."""
        column, name = self.tuned.column, f"{self.run.schema}_{number}"
        self.run.register_index(name, trial=True)
        statement = compose_create_index(column, definition, column.relation, name, concurrently=True)
        identifier = sql.Identifier(column.schema, name)
        built = self._build(definition, self._table_rows, statement, identifier, label)
        trial = self._measure(built, truth)
        storage.drop_index(self.conn, column.schema, name)
        return trial

    def find_truth(self, copy: SampleCopy) -> Truth:
        """Find the exact answers among the rows of a copy."""
        with self.conn.transaction(force_rollback=True):
            tuned = copy.register(self.conn)
            return exact_neighbors(self.conn, tuned.column, self.options.vectors, self.options.k)

    def explain_too_slow(self, definition: Definition, rows: int) -> str | None:
        """Say why a build does not fit into the time that is left; None if it does."""
        left = self.options.budget_seconds - (monotonic() - self._began)
        seconds = self.plan(definition, rows).seconds
        if self._builds and seconds > left:
            self.missing_seconds += seconds
            return f"would take {seconds:.0f} s of the {max(left, 0):.0f} s left"
        return None

    def plan(self, definition: Definition, rows: int) -> BuildPlan:
        """Plan the build of a definition, with the lists that it has over so many rows."""
        column = self.tuned.column
        return plan_build(self._server, definition, rows, column.dimensions, column.vector_type, self._builds)

    def _build(
        self, definition: Definition, rows: int, statement: sql.Composed, name: sql.Identifier, label: str
    ) -> _TrialIndex:
        plan = self.plan(definition, rows)
        seconds = build_with_progress(self.conn, self._conninfo, statement, name, plan, label, self.console)
        self._builds.append(
            Build(definition, rows, seconds / slow_down(definition, plan.needed_bytes, plan.memory_bytes))
        )
        return _TrialIndex(definition, name.as_string(self.conn), rows, seconds)

    def _measure(self, built: _TrialIndex, truth: Truth, copy: SampleCopy | None = None) -> Trial:
        """Measure an index of the table or of a copy, which is registered only while it is replayed."""
        options = self.options

        def replay_trial(_: LockWatch) -> tuple[IndexReplay, TunedIndex, dict[int, PreparedSearch]]:
            with self.conn.transaction(force_rollback=True):
                tuned = self.tuned if copy is None else copy.register(self.conn)
                tuned, number = storage.register_trial_index(self.conn, tuned, built.name)
                index = _find_index(tuned, number)
                replay = replay_index(self.conn, tuned, index, options.vectors, truth, options.k)
                efforts = self._efforts(index, replay.recall.mean(axis=0))
                return replay, index, {effort: self._prepare(tuned, index, effort) for effort in efforts}

        replay, index, searches = in_snapshot(self.conn, replay_trial)
        size = storage.read_size(self.conn, built.name)
        return _summarize(built, replay, index.rungs, self._time(searches), size)

    def _prepare(self, tuned: TunedColumn, index: TunedIndex, effort: int) -> PreparedSearch:
        return prepare_index_search(self.conn, tuned, index, self.options.k, effort)

    def _first_effort(self, index: TunedIndex, recall: Floats) -> int:
        """Return the first rung that reaches the target, or the last one, at least k."""
        reached = np.flatnonzero(recall >= self.options.target)
        return max(index.rungs[int(reached[0])] if len(reached) else index.rungs[-1], self.options.k)

    def _efforts(self, index: TunedIndex, recall: Floats) -> list[int]:
        """Choose the efforts to time: the first rung that reaches the target, and two above it."""
        reached = np.flatnonzero(recall >= self.options.target)
        first = int(reached[0]) if len(reached) else _DEFAULT_RUNG
        lowest = self.options.k if index.method == "hnsw" else 1
        places = (min(first + step, len(recall) - 1) for step in _RUNG_STEPS)
        return sorted({max(index.rungs[place], lowest) for place in places})

    def _time(self, searches: Mapping[int, PreparedSearch]) -> dict[int, float]:
        """Return the mean time of each search, by effort, over that of the current index."""
        assert self._reference is not None
        vectors, options = self.options.vectors[:_TIMED_QUERIES], self.options
        arms = {"reference": self._reference, **{str(n): search for n, search in searches.items()}}
        results = self._clients.time(arms, vectors, options.k, seed=options.seed, passes=_TIMING_PASSES)
        reference = float(results["reference"].millis.mean())
        self.reference_ms.append(reference)
        return {n: float(results[str(n)].millis.mean()) / reference for n in searches}


def _summarize(
    built: _TrialIndex, replay: IndexReplay, rungs: Sequence[int], times: Mapping[int, float], size: int
) -> Trial:
    """Return the means of a replay at the rungs of the definition, with the times by effort."""
    recall, blocks = replay.recall.mean(axis=0), replay.blocks.mean(axis=0)
    timed_blocks = np.interp(list(times), rungs, blocks).tolist()
    return Trial(
        built.definition,
        built.rows,
        advisor.resample_on_rungs(built.definition, rungs, recall),
        advisor.resample_on_rungs(built.definition, rungs, blocks),
        tuple(zip(timed_blocks, times.values(), strict=True)),
        size,
        built.build_seconds,
    )


def _find_index(tuned: TunedColumn, number: int | None) -> TunedIndex:
    return next(index for index in tuned.indexes if index.number == number)
