"""The index advisor: candidates are built over copies of growing samples, replayed and compared."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from time import monotonic
from typing import Any, Final

import numpy as np
import psycopg
from psycopg import sql

from vectuned.config.errors import VectunedError
from vectuned.daemon.console import Console
from vectuned.daemon.database.index_build import build_with_progress, compose_create_index
from vectuned.daemon.database.session import snapshot
from vectuned.daemon.measure.prepared_search import (
    Clients,
    IndexReplay,
    PreparedSearch,
    prepare_index_search,
    replay_index,
)
from vectuned.learning import advisor
from vectuned.learning.advisor import Definition, Forecast, Trial
from vectuned.learning.model.arrays import Floats
from vectuned.learning.model.ladder import k_class
from vectuned.learning.model.tuned_columns import TunedColumn, TunedIndex, read_tuned_columns
from vectuned.learning.truth.truth import Truth, exact_neighbors
from vectuned.sql.files import queries, trusted

from .advice import Advice, AdvisorOptions, ExistingIndex, read_existing_indexes
from .scratch_run import ScratchRun

log = logging.getLogger(__name__)

_PLACES: Final = 1 << 30
_TIMED: Final = 150
_COPY: Final = "copy"
_TRIAL: Final = "trial"
_MOST_BUILD_MEMORY: Final = 2 << 30
_FREE_BYTES: Final = 2 << 30


class Advisor:
    """Advise about a column through one autocommit connection, others to `conninfo` timing searches."""

    def __init__(
        self,
        conn: psycopg.Connection[Any],
        conninfo: str,
        tuned: TunedColumn,
        options: AdvisorOptions,
        console: Console,
    ) -> None:
        self.conn, self.conninfo, self.tuned, self.options, self.console = (
            conn,
            conninfo,
            tuned,
            options,
            console,
        )
        self._began = monotonic()
        self._copied = 0
        self._rows = 0
        self._share = 0.0
        self._reference_seen: list[float] = []
        self._key = "id" if tuned.column.name != "id" else "key"
        self._built: list[tuple[Definition, int, float]] = []

    def advise(self, run: ScratchRun) -> Advice:
        """Measure the current index and try the candidates; everything but the real table goes with `run`."""
        tuned, options = self.tuned, self.options
        about = self._about()
        rows, existing = int(about["rows"]), read_existing_indexes(self.conn, tuned)
        current = self._current(existing)
        with Clients(self.conninfo, 4) as self._clients:
            with (
                snapshot(self.conn),
                self.console.progress(f"replaying through {current.name}", len(options.vectors)) as progress,
            ):
                index = _numbered(tuned, current.number)
                truth = exact_neighbors(self.conn, tuned.column, options.vectors, options.k)
                rows = self._rows = truth.scanned
                seen = replay_index(self.conn, tuned, index, options.vectors, truth, options.k, progress)
                recall = seen.recall.mean(axis=0)
                self._reference_effort = _first(recall, index.rungs, options.target, options.k)
                self._reference = prepare_index_search(
                    self.conn, tuned, index, options.k, self._reference_effort
                )
                timed = self._timed(tuned, index, recall)
            trial = self._trial(current.definition, rows, seen, index.rungs, timed, current.bytes, 0.0)
            (self._now,) = advisor.fit_times([trial])
            advice = Advice(
                rows,
                current,
                advisor.forecast([self._now], rows),
                0.0,
                self._reference_effort,
                memory={name: int(about[name]) for name in ("shared_buffers", "effective_cache_size")},
            )
            self._rounds(run, advice, existing, about)
        advice.reference_ms = float(np.median(self._reference_seen))
        found = advisor.choose_best([advice.now, *advice.forecasts], options.target, options.k)
        advice.winner = None if found is None else found[0]
        advice.seconds = monotonic() - self._began
        return advice

    def _about(self) -> dict[str, Any]:
        cursor = self.conn.cursor(row_factory=psycopg.rows.dict_row)
        about = cursor.execute(queries()["advised_table"], {"column_id": self.tuned.column.id}).fetchone()
        assert about is not None
        if about["partitioned"]:
            raise VectunedError(
                f"{self.tuned.column} is partitioned, and each partition has an index of its own: "
                "advise about one of the partitions, after vectuned.enable for it."
            )
        if about["rows"] < 1:
            count = sql.SQL("SELECT count(*) FROM {}").format(self.tuned.column.relation)
            about["rows"] = self.conn.execute(count).fetchall()[0][0]
        if about["rows"] < 1:
            raise VectunedError(f"{self.tuned.column} has no rows: there is nothing to advise about.")
        return about

    def _current(self, existing: Sequence[ExistingIndex]) -> ExistingIndex:
        """Return the index that serves, or would if something was learned."""
        values = {"column_id": self.tuned.column.id, "k_class": k_class(self.options.k)}
        serving = {row[0]: row[1] for row in self.conn.execute(queries()["proof_of"], values).fetchall()}
        by_number = {each.number: each for each in existing if each.number is not None}
        main = self.tuned.indexes[0].number
        number = serving.get(k_class(self.options.k))
        found = by_number.get(main if number is None else number) or by_number.get(main)
        if found is None:
            raise VectunedError(
                f"{self.tuned.column} has no index over all rows that its searches can be answered through: "
                "create one and call vectuned.enable again."
            )
        return found

    def _rounds(
        self, run: ScratchRun, advice: Advice, existing: Sequence[ExistingIndex], about: dict[str, Any]
    ) -> None:
        """Try candidates over growing samples, fewer of them each time, and fill in the forecasts.

        Over the first sample the forms compete, over the next the ways to build the best of them.
        """
        options, column = self.options, self.tuned.column
        plan = advisor.sample_sizes(options.sample_rows, advice.rows)
        advice.sizes = plan
        base = advice.current.definition
        entrants = advisor.initial_candidates(column.vector_type, column.dimensions, advice.rows)
        if len(plan) < 3:
            entrants += [
                d for each in entrants if each.form == entrants[-1].form for d in advisor.refine(each)
            ]
        self._require_room(entrants, plan[-1])
        trials: dict[Definition, list[Trial]] = {}
        self._make_copy(run, str(about["storage"]))
        for place, size in enumerate(plan):
            entrants = [base, *(each for each in dict.fromkeys(entrants) if each != base)]
            last = place == len(plan) - 1
            if last and options.on_table:
                self._on_table(run, advice, existing, entrants[1:], trials, about)
                self._price(trials, advice.rows)
                rows = advice.rows
                break
            rows = self._fill_copy(run, size / advice.rows)
            with snapshot(self.conn):
                truth = self._truth_of(run.relation(_COPY).as_string(self.conn))
            for number, definition in enumerate(entrants, 1):
                if reason := self._too_dear(definition, rows):
                    advice.skipped[definition] = f"{reason} over {rows:,} rows"
                    continue
                label = f"{rows:,} rows, {number} of {len(entrants)}: {definition}"
                trials.setdefault(definition, []).append(
                    self._try(run, definition, truth, rows, label, about)
                )
            self._price(trials, rows)
            here = [
                (definition, self._cost(tried, trials[base]))
                for definition, tried in trials.items()
                if tried[-1].rows == rows
            ]
            if last:
                break
            entrants = advisor.keep_cheapest(here, 3)
            if place == 0 and len(plan) > 2:
                best = entrants[0]
                entrants = [*entrants[:2], *advisor.refine(best)]
            usual = dict(here).get(base, float("inf"))
            for definition, cost in here:
                if definition not in entrants and definition != base:
                    known = math.isfinite(usual) and math.isfinite(cost)
                    advice.dropped[definition] = (rows, cost / usual if known else None)
        final = {d: tried for d, tried in trials.items() if tried[-1].rows == rows}
        advice.forecasts = self._forecasts(final, advice, rows)

    def _on_table(
        self,
        run: ScratchRun,
        advice: Advice,
        existing: Sequence[ExistingIndex],
        entrants: Sequence[Definition],
        trials: dict[Definition, list[Trial]],
        about: dict[str, Any],
    ) -> None:
        """Try candidates on the table itself, one after the other, where no index there stands in the way."""
        column = self.tuned.column
        with snapshot(self.conn):
            truth = exact_neighbors(self.conn, column, self.options.vectors, self.options.k)
        for number, definition in enumerate(entrants, 1):
            if definition in (each.definition for each in existing):
                continue
            if any(each.definition.form == definition.form for each in existing):
                advice.skipped[definition] = "would take over statements that another index answers"
                continue
            if reason := self._too_dear(definition, advice.rows):
                advice.skipped[definition] = f"{reason} on the table"
                continue
            name = run.schema + "_" + str(number)
            run.register_index(name, trial=True)
            self._allow_memory(definition, advice.rows, about)
            statement = compose_create_index(column, definition, column.relation, name, concurrently=True)
            label = f"on the table, {number} of {len(entrants)}: {definition}"
            seconds = build_with_progress(
                self.conn, self.conninfo, statement, label, advice.rows, self.console
            )
            self._built.append((definition, advice.rows, seconds))
            relation = sql.Identifier(column.schema, name).as_string(self.conn)
            trial = self._measure(self.tuned, relation, definition, truth, advice.rows, seconds)
            trials.setdefault(definition, []).append(trial)
            self.conn.execute(
                sql.SQL("DROP INDEX CONCURRENTLY {}").format(sql.Identifier(column.schema, name))
            )

    def _forecasts(self, trials: dict[Definition, list[Trial]], advice: Advice, rows: int) -> list[Forecast]:
        """Carry on what was seen to all rows, put right by what the current index shows there."""
        whole = rows >= 0.98 * advice.rows
        total = rows if whole else advice.rows
        base, dearer = trials.get(advice.current.definition, []), 1.0
        if base and (base[-1].rows == rows or not whole):
            growth = None if whole else advisor.estimate_growth([base[-1], self._now])
            point = advisor.forecast(base, total, growth).at(self._reference_effort)
            dearer = float(np.clip(advice.now.at(self._reference_effort).ms / point.ms, 0.5, 2.0))
        found = []
        for definition, tried in trials.items():
            if definition == advice.current.definition:
                continue
            growth = advisor.growth_beyond(tried, base, self._now) if base and not whole else None
            each = advisor.forecast(tried, total, growth)
            found.append(
                Forecast(
                    definition,
                    each.recall,
                    each.blocks,
                    each.ms * dearer,
                    round(each.bytes * advice.rows / total),
                    each.build_seconds,
                    each.sizes,
                    not whole,
                )
            )
        return found

    def _price(self, trials: dict[Definition, list[Trial]], rows: int) -> None:
        """Set the times of the trials over so many rows, those of a kind together."""
        done = [tried for tried in trials.values() if tried[-1].rows == rows]
        for tried, trial in zip(done, advisor.fit_times([tried[-1] for tried in done]), strict=True):
            tried[-1] = trial

    def _cost(self, tried: Sequence[Trial], base: Sequence[Trial]) -> float:
        """Return what a candidate would take over all rows at the target, infinity if it is out of reach.

        Over few rows care in building does not pay yet.
        """
        growth = advisor.growth_beyond(tried, base, self._now)
        seen = advisor.forecast(tried, self._now.rows, growth)
        point = seen.at_target(self.options.target, self.options.k)
        return float("inf") if point is None else point.ms

    def _make_copy(self, run: ScratchRun, storage: str) -> None:
        column = self.tuned.column
        create = sql.SQL("CREATE UNLOGGED TABLE {} ({} bigint PRIMARY KEY, {} {}({}))").format(
            run.relation(_COPY),
            sql.Identifier(self._key),
            column.vector,
            column.type_name,
            sql.Literal(column.dimensions),
        )
        self.conn.execute(create)
        how = {"p": "PLAIN", "e": "EXTERNAL", "m": "MAIN", "x": "EXTENDED"}[storage]
        alter = sql.SQL("ALTER TABLE {} ALTER COLUMN {} SET STORAGE ")
        self.conn.execute(alter.format(run.relation(_COPY), column.vector) + trusted(how))

    def _fill_copy(self, run: ScratchRun, share: float) -> int:
        """Let the copy grow to a share of the rows; return how many it holds."""
        column = self.tuned.column
        places = {
            "from_place": sql.Literal(round(self._share * _PLACES)),
            "to_place": sql.Literal(_PLACES if share >= 1 else round(share * _PLACES)),
        }
        statement = queries()["copy_rows"].format(
            copy=run.relation(_COPY),
            column=column.vector,
            relation=column.relation,
            key_start=sql.Literal(self._copied),
            seed=sql.Literal(self.options.seed),
            **places,
        )
        rows = round(min(share, 1.0) * self._rows)
        with self.console.progress("copying a sample of the rows", rows):
            self._copied += self.conn.execute(statement, prepare=False).rowcount
        self._share = share
        self.conn.execute(sql.SQL("ANALYZE {}").format(run.relation(_COPY)))
        if self._copied < 1:
            raise VectunedError(f"The sample of {column} has no rows with a vector: give more --sample-rows.")
        return self._copied

    def _truth_of(self, relation: str) -> Truth:
        with self.conn.transaction(force_rollback=True):
            tuned = self._adopt(relation)
            return exact_neighbors(self.conn, tuned.column, self.options.vectors, self.options.k)

    def _adopt(self, relation: str) -> TunedColumn:
        """Take the copy into care, for as long as the transaction lasts, which must be rolled back."""
        values = {"relation": relation, "column_id": self.tuned.column.id, "key": self._key}
        number = self.conn.execute(queries()["advise_column"], values).fetchall()[0][0]
        return read_tuned_columns(self.conn, number)[0]

    def _try(
        self,
        run: ScratchRun,
        definition: Definition,
        truth: Truth,
        rows: int,
        label: str,
        about: dict[str, Any],
    ) -> Trial:
        """Build a candidate over the copy, measure it and drop it."""
        built = definition.over(self._share)
        self._allow_memory(definition, rows, about)
        statement = compose_create_index(self.tuned.column, built, run.relation(_COPY), _TRIAL)
        seconds = build_with_progress(self.conn, self.conninfo, statement, label, rows, self.console)
        self._built.append((definition, rows, seconds))
        name = run.relation(_TRIAL).as_string(self.conn)
        trial = self._measure(run.relation(_COPY), name, definition, truth, rows, seconds)
        self.conn.execute(sql.SQL("DROP INDEX {}").format(run.relation(_TRIAL)))
        return trial

    def _measure(
        self,
        where: TunedColumn | sql.Identifier,
        name: str,
        definition: Definition,
        truth: Truth,
        rows: int,
        seconds: float,
    ) -> Trial:
        """Measure an index that nobody else is to know of, over the table or a copy."""
        with self.conn.transaction(force_rollback=True):
            tuned = where if isinstance(where, TunedColumn) else self._adopt(where.as_string(self.conn))
            values = {"column_id": tuned.column.id, "index": name}
            number = self.conn.execute(queries()["advise_index"], values).fetchall()[0][0]
            tuned = read_tuned_columns(self.conn, tuned.column.id)[0]
            index = _numbered(tuned, number)
            seen = replay_index(self.conn, tuned, index, self.options.vectors, truth, self.options.k)
            efforts = self._efforts(index, seen.recall.mean(axis=0))
            ways = {n: prepare_index_search(self.conn, tuned, index, self.options.k, n) for n in efforts}
        size = self.conn.execute(queries()["relation_size"], {"relation": name}).fetchall()[0][0]
        return self._trial(definition, rows, seen, index.rungs, self._race(ways), int(size), seconds)

    def _trial(
        self,
        definition: Definition,
        rows: int,
        seen: IndexReplay,
        rungs: Sequence[int],
        timed: dict[int, float],
        size: int,
        seconds: float,
    ) -> Trial:
        blocks = seen.blocks.mean(axis=0)
        at = np.interp(list(timed), rungs, blocks).tolist()
        recall, blocks = (
            advisor.resample_on_rungs(definition, rungs, curve)
            for curve in (seen.recall.mean(axis=0), blocks)
        )
        points = tuple(zip(at, timed.values(), strict=True))
        return Trial(definition, rows, recall, blocks, points, size, seconds)

    def _timed(self, tuned: TunedColumn, index: TunedIndex, recall: Floats) -> dict[int, float]:
        efforts = self._efforts(index, recall)
        return self._race(
            {n: prepare_index_search(self.conn, tuned, index, self.options.k, n) for n in efforts}
        )

    def _efforts(self, index: TunedIndex, recall: Floats) -> list[int]:
        """Choose which efforts to time: where the target is reached, and what more rows might take."""
        at = int(np.argmax(recall >= self.options.target)) if (recall >= self.options.target).any() else 12
        least = self.options.k if index.method == "hnsw" else 1
        places = (min(at + step, len(recall) - 1) for step in (0, 2, 4))
        return sorted({max(index.rungs[place], least) for place in places})

    def _race(self, ways: dict[int, PreparedSearch]) -> dict[int, float]:
        """Time ways beside the current index; their mean times in units of that."""
        vectors = self.options.vectors[:_TIMED]
        named = {"reference": self._reference, **{str(n): way for n, way in ways.items()}}
        seen = self._clients.time(named, vectors, self.options.k, seed=self.options.seed, passes=3)
        reference = float(seen["reference"].millis.mean())
        self._reference_seen.append(reference)
        return {n: float(seen[str(n)].millis.mean()) / reference for n in ways}

    def _allow_memory(self, definition: Definition, rows: int, about: dict[str, Any]) -> None:
        """Let a build have the memory that it needs, within reason: without it takes many times as long."""
        needed = int(1.2 * advisor.estimate_build_bytes(definition, rows, self.tuned.column.dimensions))
        most = min(_MOST_BUILD_MEMORY, int(about["effective_cache_size"]) // 4)
        kb = max(int(about["maintenance_work_mem"]), min(needed, most)) // 1024
        self.conn.execute("SELECT set_config('maintenance_work_mem', %s, false)", (f"{kb}kB",))

    def _too_dear(self, definition: Definition, rows: int) -> str | None:
        """Say why a candidate is not tried: it would take more time than is left."""
        spent = monotonic() - self._began
        guess = advisor.estimate_build_seconds(self._built, definition, rows)
        if self._built and spent + guess > self.options.budget_seconds:
            return f"would take {guess:.0f} s of the {max(self.options.budget_seconds - spent, 0):.0f} s left"
        return None

    def _require_room(self, entrants: Sequence[Definition], sample: int) -> None:
        dimensions = self.tuned.column.dimensions
        largest = max(advisor.estimate_index_bytes(each, sample, dimensions) for each in entrants)
        per_value = (4 if self.tuned.column.vector_type == "vector" else 2) * dimensions
        needed = largest + round(1.1 * sample * (per_value + 60))
        limit = _FREE_BYTES if self.options.max_mb is None else self.options.max_mb << 20
        if needed > limit:
            raise VectunedError(
                f"A copy of {sample:,} rows and an index over it need about {needed >> 20:,} MB, more than "
                f"{limit >> 20:,}: give fewer --sample-rows or more --max-mb."
            )


def _numbered(tuned: TunedColumn, number: int | None) -> TunedIndex:
    return next(index for index in tuned.indexes if index.number == number)


def _first(recall: Floats, rungs: Sequence[int], target: float, k: int) -> int:
    """Return the first rung that reaches the target, the last if none does."""
    reached = np.flatnonzero(recall >= target)
    return max(rungs[int(reached[0])] if len(reached) else rungs[-1], k)
