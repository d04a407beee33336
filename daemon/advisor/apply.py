"""`vectuned advise --apply`: build the best index, learn about it, measure it, drop the old one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from psycopg import sql

from vectuned.config.errors import VectunedError
from vectuned.daemon.console import Console
from vectuned.daemon.database.index_build import announce, build_with_progress
from vectuned.daemon.database.session import in_snapshot
from vectuned.daemon.measure.index_replay import IndexReplay, replay_index
from vectuned.daemon.measure.prepared_search import Clients, prepare_index_search
from vectuned.daemon.work.worker import Worker
from vectuned.learning.advisor import Forecast
from vectuned.learning.model.ladder import interpolate, k_class, position_of
from vectuned.learning.model.tuned_columns import TunedColumn, TunedIndex
from vectuned.learning.replay.lock_watch import LockWatch
from vectuned.learning.truth.truth import exact_neighbors

from . import storage
from .advice import Advice, AdvisorOptions, ExistingIndex
from .index_statement import compose_index_statement
from .scratch_run import ScratchRun

_TIMED_QUERIES: Final = 300  # twice what a trial times: this measurement is the one that users read
_TIMING_PASSES: Final = 2  # searches for each query; the quicker one counts, because others interrupt


class IndexReplacement:
    """Carry out advice through a worker; its connection is also that of the run."""

    def __init__(
        self, worker: Worker, conninfo: str, tuned: TunedColumn, options: AdvisorOptions, console: Console
    ) -> None:
        self.worker, self.conn, self.conninfo = worker, worker.conn, conninfo
        self.tuned, self.options, self.console = tuned, options, console

    def build(self, run: ScratchRun, advice: Advice) -> tuple[ExistingIndex, float | None]:
        """Build the winner beside the existing indexes.

        Returns the index and the seconds its build took, None if it existed before. Raises VectunedError if
        it would take too much space, or if the planner would not use it.
        """
        assert advice.winner is not None
        definition = advice.winner.definition
        existing = storage.read_existing_indexes(self.conn, self.tuned)
        present = next((e for e in existing if e.definition == definition and e.number is not None), None)
        if present is not None:
            return present, None
        self._require_space(advice.winner)
        name = storage.choose_index_name(self.conn, self.tuned, definition)
        statement = compose_index_statement(self.tuned, definition, existing, name)
        run.register_index(name, trial=False)
        plan = advice.plans[definition]
        announce(plan, self.console)
        index = sql.Identifier(self.tuned.column.schema, name)
        seconds = build_with_progress(
            self.conn, self.conninfo, statement, index, plan, f"building {name}", self.console
        )
        self.tuned = self.worker.refresh(self.tuned)
        indexes = storage.read_existing_indexes(self.conn, self.tuned)
        new = next((e for e in indexes if e.name == name and e.number is not None), None)
        if new is None:
            storage.drop_index(self.conn, self.tuned.column.schema, name)
            raise VectunedError(
                f"PostgreSQL does not use {name} for statements that ask for it, but another index over the "
                "same expression, so it could not be proven beside that index and was dropped again."
            )
        return new, seconds

    def learn(self) -> None:
        """Replay recorded searches through the new index, and publish what is learned."""
        self.worker.drain()
        self.tuned = self.worker.refresh(self.tuned)
        waiting = self.worker.count_waiting(self.tuned)
        with self.console.progress("replaying recorded searches", waiting) as progress:
            self.worker.replay(self.tuned, waiting, progress)
        self.worker.learn(self.tuned)
        self.tuned = self.worker.refresh(self.tuned)

    def serving(self) -> list[dict[str, Any]]:
        """Return which index serves each class of k, and whether its recall is proven."""
        return storage.read_serving(self.conn, self.tuned, k_class(self.options.k))

    def measure(self, advice: Advice, winner: ExistingIndex) -> dict[str, Any]:
        """Compare the forecast of the winner with measurements on the real table.

        Measured times are scaled by the time of the former index at the forecast over its time now, so that
        both are comparable under another load.
        """
        assert advice.winner is not None
        options, forecast = self.options, advice.winner
        point = forecast.at_target(options.target, options.k)
        assert point is not None
        new = self._find_index(winner.number)
        assert new is not None
        served = self._served_effort(winner)

        def replay_winner(_: LockWatch) -> IndexReplay:
            truth = exact_neighbors(self.conn, self.tuned.column, options.vectors, options.k)
            label = f"replaying through {winner.name}"
            with self.console.progress(label, len(options.vectors)) as progress:
                return replay_index(self.conn, self.tuned, new, options.vectors, truth, options.k, progress)

        replay = in_snapshot(self.conn, replay_winner)
        millis = self._time(advice, new, {"predicted": point.effort, "served": served})
        comparison = _Comparison(forecast, advice.reference_ms, new, replay, millis)
        return {
            "at_the_target": comparison.at(point.effort, "predicted"),
            "as_served": None if served is None else comparison.at(served, "served"),
            "former_ms": {"then": round(advice.reference_ms, 4), "now": round(millis["former"], 4)}
            if "former" in millis
            else None,
        }

    def _served_effort(self, winner: ExistingIndex) -> int | None:
        """Return the effort with which the winner serves searches for k rows, None if it does not."""
        wanted = k_class(self.options.k)
        row = next((row for row in self.serving() if row["k_class"] == wanted), None)
        return int(row["effort"]) if row is not None and row["index_no"] == winner.number else None

    def _time(self, advice: Advice, new: TunedIndex, efforts: Mapping[str, int | None]) -> dict[str, float]:
        """Return the mean milliseconds through the new index at each effort, and through the former one."""
        k, options = self.options.k, self.options
        arms = {
            name: prepare_index_search(self.conn, self.tuned, new, k, value)
            for name, value in efforts.items()
            if value is not None
        }
        assert advice.current is not None
        former = self._find_index(advice.current.number)
        if former is not None:
            arms["former"] = prepare_index_search(self.conn, self.tuned, former, k, advice.reference_effort)
        vectors = options.vectors[:_TIMED_QUERIES]
        with Clients(self.conninfo, len(arms)) as clients:
            results = clients.time(arms, vectors, k, seed=options.seed, passes=_TIMING_PASSES)
        return {name: float(result.millis.mean()) for name, result in results.items()}

    def _find_index(self, number: int | None) -> TunedIndex | None:
        return next((index for index in self.tuned.indexes if index.number == number), None)

    def objections(self, winner: ExistingIndex, old: ExistingIndex) -> list[str]:
        """Return the reasons against dropping the old index; it is dropped only if nothing needs it."""
        serving = self.serving()
        if not serving:
            reasons = ["nothing has been learned: too few searches are recorded"]
        else:
            reasons = [
                f"searches for k up to {row['k_class']} are not served by {winner.name} with a proof"
                for row in serving
                if row["index_no"] != winner.number or not row["certified"]
            ]
        reasons += [f"it still serves {use}" for use in storage.read_uses(self.conn, self.tuned, old)]
        return list(dict.fromkeys(reasons))

    def drop(self, old: ExistingIndex) -> None:
        """Drop the old index, and learn with the remaining ones."""
        storage.drop_index(self.conn, old.schema, old.name)
        self.tuned = self.worker.refresh(self.tuned)
        self.learn()

    def _require_space(self, winner: Forecast) -> None:
        if self.options.max_mb is not None and winner.bytes > self.options.max_mb << 20:
            raise VectunedError(
                f"The index would take about {winner.bytes >> 20:,} MB, more than {self.options.max_mb:,}: "
                "increase --max-mb."
            )


class _Comparison:
    """A forecast beside the replay and the mean times that were measured of the same index."""

    def __init__(
        self,
        forecast: Forecast,
        reference_ms: float,
        index: TunedIndex,
        replay: IndexReplay,
        millis: Mapping[str, float],
    ) -> None:
        self.forecast, self.reference_ms, self.index = forecast, reference_ms, index
        self.replay, self.millis = replay, millis
        self.scale = reference_ms / millis["former"] if "former" in millis else 1.0

    def at(self, chosen: int, name: str) -> dict[str, Any]:
        """Return what was predicted and measured at an effort, timed under a name."""
        expected = self.forecast.at(chosen)
        rung = position_of(np.array([chosen]), self.index.rungs)
        return {
            "effort": chosen,
            "predicted": {
                "recall": round(expected.recall, 4),
                "blocks": round(expected.blocks, 1),
                "ms": round(expected.ms * self.reference_ms, 4),
            },
            "measured": {
                "recall": round(float(interpolate(self.replay.recall, rung).mean()), 4),
                "blocks": round(float(interpolate(self.replay.blocks, rung).mean()), 4),
                "ms": round(self.millis[name] * self.scale, 4),
            },
            "measured_ms_now": round(self.millis[name], 4),
        }
