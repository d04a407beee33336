"""The index advisor: tries candidates over growing samples of the rows and forecasts their cost over all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import Any, Final

import numpy as np
import psycopg

from vectuned.config.errors import VectunedError
from vectuned.daemon.console import Console
from vectuned.daemon.database.session import in_snapshot
from vectuned.daemon.measure.prepared_search import Clients
from vectuned.learning import advisor
from vectuned.learning.advisor import Definition, Forecast, Trial
from vectuned.learning.index_cost import estimate_index_bytes
from vectuned.learning.model.ladder import k_class
from vectuned.learning.model.tuned_columns import TunedColumn
from vectuned.learning.truth.truth import exact_neighbors

from . import storage
from .advice import Advice, AdvisorOptions, ExistingIndex, TableFacts
from .sample_copy import SampleCopy
from .scratch_run import ScratchRun
from .trials import TrialRunner

_CLIENTS: Final = 4  # connections that time searches: the current index, and a candidate at three efforts
_SURVIVORS: Final = 3  # candidates of a round that the next one tries again
_FREE_BYTES: Final = 2 << 30  # limit of a copy with an index over it, where --max-mb does not set one
_ROW_OVERHEAD: Final = 60  # bytes a row takes beside its vector: headers, key, entry of the primary key
_PAGE_OVERHEAD: Final = 1.1  # share of a table's bytes that pages leave unused, as a factor
_WHOLE: Final = 0.98  # share of the rows from which a sample counts as all of them: rows without vectors vary


class Advisor:
    """Advise about a column through one autocommit connection; others to `conninfo` time searches."""

    def __init__(
        self,
        conn: psycopg.Connection[Any],
        conninfo: str,
        tuned: TunedColumn,
        options: AdvisorOptions,
        console: Console,
    ) -> None:
        self.conn, self.conninfo, self.tuned = conn, conninfo, tuned
        self.options, self.console = options, console

    def advise(self, run: ScratchRun) -> Advice:
        """Measure the current index and try the candidates.

        Everything is built in the scratch schema of `run`, except with `on_table`. Raises VectunedError where
        there is nothing to advise about.
        """
        began, options = monotonic(), self.options
        facts = self._read_table()
        memory = {name: getattr(facts, name) for name in ("shared_buffers", "effective_cache_size")}
        existing = storage.read_existing_indexes(self.conn, self.tuned)
        with Clients(self.conninfo, _CLIENTS) as clients:
            runner = TrialRunner(run, self.conninfo, options, facts, clients, self.console)
            if self.tuned.indexes:
                current = self._find_current(existing)
                (now,) = advisor.fit_times([runner.measure_current(current)])
                forecast = advisor.forecast([now], now.rows)
                advice = Advice(now.rows, current, forecast, 0.0, runner.reference_effort, memory=memory)
                _Contest(runner, advice, now).hold(existing, facts)
            else:
                advice = Advice(facts.rows, None, None, 0.0, 0, memory=memory)
                _Contest(runner, advice, None).hold(existing, facts)
            advice.missing_seconds = runner.missing_seconds
        advice.reference_ms = float(np.median(runner.reference_ms))
        forecasts = [*advice.forecasts] if advice.now is None else [advice.now, *advice.forecasts]
        if options.memory_mb is not None:
            forecasts = [each for each in forecasts if each.bytes <= options.memory_mb << 20]
        advice.winner = _choose_winner(forecasts, advice, options)
        advice.seconds = monotonic() - began
        return advice

    def _read_table(self) -> TableFacts:
        facts = storage.read_table(self.conn, self.tuned.column)
        if facts.partitioned:
            raise VectunedError(
                f"{self.tuned.column} is partitioned, and each partition has an index of its own: "
                "advise about one of the partitions, after vectuned.enable for it."
            )
        if facts.rows < 1:
            raise VectunedError(f"{self.tuned.column} has no rows: there is nothing to advise about.")
        return facts

    def _find_current(self, existing: Sequence[ExistingIndex]) -> ExistingIndex:
        """Return the index that serves, or that would serve if something had been learned."""
        wanted = k_class(self.options.k)
        serving = storage.read_serving(self.conn, self.tuned, wanted)
        number = next((row["index_no"] for row in serving if row["k_class"] == wanted), None)
        main = self.tuned.indexes[0].number
        by_number = {index.number: index for index in existing if index.number is not None}
        current = by_number.get(main if number is None else number) or by_number.get(main)
        if current is None:
            raise VectunedError(
                f"{self.tuned.column} has no index over all rows that its searches can be answered through: "
                "create one, then SELECT vectuned.refresh(...)."
            )
        return current


def _choose_winner(forecasts: Sequence[Forecast], advice: Advice, options: AdvisorOptions) -> Forecast | None:
    """Return the cheapest forecast at the target, None if none reaches it.

    Those measured over the largest sample go before those that only the time kept from it: over few rows all
    candidates look better than they are.
    """
    most = max((each.sizes[-1] for each in advice.forecasts), default=0)
    measured = [each for each in forecasts if each is advice.now or each.sizes[-1] == most]
    best = advisor.choose_best(measured, options.target, options.k)
    if best is None:
        best = advisor.choose_best(forecasts, options.target, options.k)
    return None if best is None else best[0]


class _Contest:
    """Candidates compete in rounds, over more rows and with fewer of them each time.

    The first round compares the forms, the next one build options of the best form. `now` is the trial of
    the current index over all rows; a build like it takes part in every round as the measure of growth. Both
    are None without an index: then candidates grow as they did from sample to sample.
    """

    def __init__(self, runner: TrialRunner, advice: Advice, now: Trial | None) -> None:
        self.runner, self.advice, self.now = runner, advice, now
        self.conn, self.tuned, self.options = runner.conn, runner.tuned, runner.options
        self.base = None if advice.current is None else advice.current.definition
        self.trials: dict[Definition, list[Trial]] = {}

    def hold(self, existing: Sequence[ExistingIndex], facts: TableFacts) -> None:
        """Hold all rounds and enter the forecasts into the advice."""
        most = max(int(self.options.largest_share * self.advice.rows), 1)
        sizes = self.advice.sizes = advisor.sample_sizes(
            min(self.options.sample_rows, most), self.advice.rows
        )
        candidates = self._first_candidates(len(sizes))
        self._require_space(candidates, sizes[-1])
        copy = SampleCopy(self.runner.run, facts, self.advice.rows, self.options.seed)
        rows = 0
        for number, size in enumerate(sizes):
            last = number == len(sizes) - 1
            candidates = [each for each in dict.fromkeys(candidates) if each != self.base]
            if last and self.options.on_table:
                rows = self.advice.rows
                self._try_on_table(candidates, existing)
            else:
                rows = copy.grow(size / self.advice.rows, self.runner.console)
                if self.base is None and number == 0:
                    row_ms = self.runner.measure_exact(copy)
                    self.advice.exact_ms = row_ms * self.advice.rows
                self._try_on_copy([*([self.base] if self.base else []), *candidates], copy)
            self._price(rows)
            if not last:
                candidates = self._choose_survivors(rows, refine=number == 0 and len(sizes) > 2)
        self.advice.forecasts = self._forecast(rows)

    def _first_candidates(self, rounds: int) -> list[Definition]:
        """Return the candidates of the first round; with too few rounds to refine the best, all at once."""
        column = self.tuned.column
        candidates = advisor.initial_candidates(column.vector_type, column.dimensions, self.advice.rows)
        if rounds < 3:
            form = candidates[-1].form
            candidates += [r for each in candidates if each.form == form for r in advisor.refine(each)]
        return candidates

    def _try_on_copy(self, candidates: Sequence[Definition], copy: SampleCopy) -> None:
        truth = in_snapshot(self.conn, lambda _: self.runner.find_truth(copy))
        for number, definition in enumerate(candidates, 1):
            if reason := self.runner.explain_too_slow(definition.over(copy.share), copy.rows):
                self._skip(definition, f"{reason} over {copy.rows:,} rows", out_of_time=True)
                continue
            label = f"{copy.rows:,} rows, {number} of {len(candidates)}: {definition}"
            self._try(definition, partial(self.runner.try_on_copy, copy, definition, truth, label))

    def _try(self, definition: Definition, trial: Callable[[], Trial]) -> None:
        """Try one candidate; where it fails, the others go on without it."""
        try:
            self.trials.setdefault(definition, []).append(trial())
        except (psycopg.Error, VectunedError) as error:
            if self.conn.closed or self.conn.broken:
                raise
            if not self.trials[definition]:
                del self.trials[definition]
            reason = error.diag.message_primary if isinstance(error, psycopg.Error) else str(error)
            self._skip(definition, f"failed: {(reason or str(error)).strip().rstrip('.')}")

    def _skip(self, definition: Definition, reason: str, *, out_of_time: bool = False) -> None:
        self.advice.skipped[definition] = reason
        if out_of_time:
            self.advice.out_of_time.add(definition)

    def _try_on_table(self, candidates: Sequence[Definition], existing: Sequence[ExistingIndex]) -> None:
        """Try candidates on the table one after the other, unless an existing index would get in the way."""
        column, options = self.tuned.column, self.options
        truth = in_snapshot(
            self.conn, lambda _: exact_neighbors(self.conn, column, options.vectors, options.k)
        )
        for number, definition in enumerate(candidates, 1):
            if definition in (index.definition for index in existing):
                continue
            if any(index.definition.form == definition.form for index in existing):
                self.advice.skipped[definition] = "would take over statements that another index answers"
                continue
            if reason := self.runner.explain_too_slow(definition, self.advice.rows):
                self._skip(definition, f"{reason} on the table", out_of_time=True)
                continue
            label = f"on the table, {number} of {len(candidates)}: {definition}"
            self._try(definition, partial(self.runner.try_on_table, definition, number, truth, label))

    def _price(self, rows: int) -> None:
        """Set the times of the trials over `rows` rows; all of one kind of index are priced together."""
        current = [tried for tried in self.trials.values() if tried[-1].rows == rows]
        priced = advisor.fit_times([tried[-1] for tried in current]) if current else []
        for tried, trial in zip(current, priced, strict=True):
            tried[-1] = trial

    def _choose_survivors(self, rows: int, *, refine: bool) -> list[Definition]:
        """Return the cheapest candidates of a round, with `refine` two and variants of the best."""
        costs = {
            definition: self._cost_over_all_rows(tried)
            for definition, tried in self.trials.items()
            if tried[-1].rows == rows
        }
        survivors = advisor.keep_cheapest(list(costs.items()), _SURVIVORS)
        if refine:
            survivors = [*survivors[:2], *advisor.refine(survivors[0])]
        # Without a current index, the measure is the cheapest candidate.
        base_cost = (
            min(costs.values(), default=math.inf) if self.base is None else costs.get(self.base, math.inf)
        )
        for definition, cost in costs.items():
            if definition not in survivors and definition != self.base:
                comparable = math.isfinite(base_cost) and math.isfinite(cost)
                self.advice.dropped[definition] = (rows, cost / base_cost if comparable else None)
        return survivors

    def _cost_over_all_rows(self, tried: Sequence[Trial]) -> float:
        """Return the time of a candidate at the target over all rows, infinity if it does not reach it.

        Extrapolated, since over few rows a costly build does not pay yet.
        """
        base = self._base_trials()
        growth = advisor.growth_beyond(tried, base, self.now) if base and self.now else None
        forecast = advisor.forecast(tried, self.advice.rows, growth)
        point = forecast.at_target(self.options.target, self.options.k)
        return math.inf if point is None else point.ms

    def _forecast(self, rows: int) -> list[Forecast]:
        """Extrapolate the last trials to all rows, corrected by what the current index shows there.

        Candidates that only the time kept from the last round are forecast from the rounds before.
        """
        trials = {
            each: tried
            for each, tried in self.trials.items()
            if each != self.base and (tried[-1].rows == rows or each in self.advice.out_of_time)
        }
        base = [trial for trial in self._base_trials() if trial.rows <= rows]
        total = rows if rows >= _WHOLE * self.advice.rows else self.advice.rows
        return [self._forecast_one(tried, base, total) for tried in trials.values()]

    def _forecast_one(self, tried: Sequence[Trial], base: Sequence[Trial], total: int) -> Forecast:
        definition = tried[-1].definition
        whole = tried[-1].rows >= _WHOLE * self.advice.rows
        growth = advisor.growth_beyond(tried, base, self.now) if base and self.now and not whole else None
        each = advisor.forecast(tried, total, growth)
        plan = self.runner.plan(definition, self.advice.rows)
        self.advice.plans[definition] = plan
        if self.now is None and not whole:
            time_factor = advisor.time_growth(tried, total)
        else:
            time_factor = self._time_correction(base, total, whole=whole)
        return replace(
            each,
            ms=each.ms * time_factor,
            bytes=round(each.bytes * self.advice.rows / total),
            build_seconds=plan.seconds,
            extrapolated=not whole,
        )

    def _base_trials(self) -> list[Trial]:
        return [] if self.base is None else self.trials.get(self.base, [])

    def _time_correction(self, base: Sequence[Trial], total: int, *, whole: bool) -> float:
        """Return the measured time of the current index over its forecast, at most a factor of 2."""
        if not base or self.now is None or self.advice.now is None:
            return 1.0
        growth = None if whole else advisor.estimate_growth([base[-1], self.now])
        effort = self.advice.reference_effort
        forecast = advisor.forecast(base, total, growth).at(effort)
        return float(np.clip(self.advice.now.at(effort).ms / forecast.ms, 0.5, 2.0))

    def _require_space(self, candidates: Sequence[Definition], sample_rows: int) -> None:
        column = self.tuned.column
        largest = max(
            estimate_index_bytes(each, sample_rows, column.dimensions, column.vector_type)
            for each in candidates
        )
        vector_bytes = (4 if column.vector_type == "vector" else 2) * column.dimensions
        needed = largest + round(_PAGE_OVERHEAD * sample_rows * (vector_bytes + _ROW_OVERHEAD))
        limit = _FREE_BYTES if self.options.max_mb is None else self.options.max_mb << 20
        if needed > limit:
            raise VectunedError(
                f"A copy of {sample_rows:,} rows and an index over it need about {needed >> 20:,} MB, more "
                f"than {limit >> 20:,}: decrease --sample-rows or increase --max-mb."
            )
