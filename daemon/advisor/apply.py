"""Applying advice: the index built beside the others, learned about, measured, and the old one dropped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from vectuned.config.errors import VectunedError
from vectuned.daemon.console import Console
from vectuned.daemon.database.index_build import build_with_progress, compose_create_index
from vectuned.daemon.database.session import snapshot
from vectuned.daemon.measure.prepared_search import Clients, prepare_index_search, replay_index
from vectuned.daemon.service.worker import Worker
from vectuned.learning.advisor import Definition, Forecast
from vectuned.learning.model.ladder import interpolate, k_class, position_of
from vectuned.learning.model.tuned_columns import TunedColumn
from vectuned.learning.truth.truth import exact_neighbors
from vectuned.sql.files import queries

from .advice import Advice, AdvisorOptions, ExistingIndex, read_existing_indexes
from .scratch_run import ScratchRun


def choose_marker(definition: Definition, existing: Sequence[ExistingIndex]) -> int | None:
    """Return the number of the marker by which statements tell an index from those like it; None: no need.

    Alike are all over the same expression, of whatever method: each can answer the other's statements.
    """
    alike = [each for each in existing if each.definition.form == definition.form]
    if not alike:
        return None
    taken = {each.marker.rsplit(" ", 1)[-1] for each in alike}
    return next(number for number in range(len(alike) + 1) if str(number) not in taken)


def find_rival_index(definition: Definition, existing: Sequence[ExistingIndex]) -> ExistingIndex | None:
    """Return the index over all rows that PostgreSQL would take instead, though asked for this one.

    Of two that can answer a statement it takes the one that looks cheaper: of HNSW that of the smaller m. One
    without a marker can answer every statement.
    """
    for each in existing:
        if (
            each.definition != definition
            and (each.definition.method, each.definition.form) == _kind(definition)
            and each.marker == "true"
            and (each.definition.m, each.definition.lists) < (definition.m, definition.lists)
        ):
            return each
    return None


def compose_index_statement(
    tuned: TunedColumn, definition: Definition, existing: Sequence[ExistingIndex], name: str
) -> sql.Composed:
    """Write the statement that builds an index on the real table."""
    marker = choose_marker(definition, existing)
    return compose_create_index(
        tuned.column, definition, tuned.column.relation, name, concurrently=True, marker=marker
    )


def choose_index_name(conn: psycopg.Connection[Any], tuned: TunedColumn, definition: Definition) -> str:
    """Return a name for an index that is not taken."""
    column = tuned.column
    options = (
        (definition.m, definition.ef_construction) if definition.method == "hnsw" else (definition.lists,)
    )
    tail = "_".join(["", definition.form, definition.method, *map(str, options)])
    stem = f"{column.table}_{column.name}".encode()[: 58 - len(tail)].decode(errors="ignore") + tail
    values = {"stem": stem, "schema": column.schema}
    return str(conn.execute(queries()["unused_name"], values).fetchall()[0][0])


class IndexReplacement:
    """Put advice into force through a worker, whose connection is also the run's."""

    def __init__(
        self, worker: Worker, conninfo: str, tuned: TunedColumn, options: AdvisorOptions, console: Console
    ) -> None:
        self.worker, self.conninfo, self.tuned, self.options, self.console = (
            worker,
            conninfo,
            tuned,
            options,
            console,
        )
        self.conn = worker.conn

    def build(self, run: ScratchRun, advice: Advice) -> tuple[ExistingIndex, float | None]:
        """Build the winner beside what is there, unless it is; return it, and the seconds it took."""
        assert advice.winner is not None
        definition = advice.winner.definition
        existing = read_existing_indexes(self.conn, self.tuned)
        there = next((e for e in existing if e.definition == definition and e.number is not None), None)
        if there is not None:
            return there, None
        self._require_room(advice.winner)
        name = choose_index_name(self.conn, self.tuned, definition)
        statement = compose_index_statement(self.tuned, definition, existing, name)
        run.register_index(name, trial=False)
        seconds = build_with_progress(
            self.conn, self.conninfo, statement, f"building {name}", advice.rows, self.console
        )
        self.tuned = self.worker.refresh(self.tuned)
        found = next(
            (
                e
                for e in read_existing_indexes(self.conn, self.tuned)
                if e.name == name and e.number is not None
            ),
            None,
        )
        if found is None:
            dropped = sql.Identifier(self.tuned.column.schema, name)
            self.conn.execute(sql.SQL("DROP INDEX CONCURRENTLY {}").format(dropped))
            raise VectunedError(
                f"PostgreSQL does not take {name} where a statement asks for it, but another index over the "
                "same expression, so it could not be proven beside that and was dropped again."
            )
        return found, seconds

    def learn(self) -> None:
        """Replay recorded searches through what is new, and publish what is learned."""
        self.worker.drain()
        self.tuned = self.worker.refresh(self.tuned)
        values = {"column_id": self.tuned.column.id}
        waiting = int(self.conn.execute(queries()["waiting"], values).fetchall()[0][0])
        with self.console.progress("replaying recorded searches", waiting) as progress:
            self.worker.replay(self.tuned, waiting, progress)
        self.worker.learn(self.tuned)
        self.tuned = self.worker.refresh(self.tuned)

    def serving(self) -> list[dict[str, Any]]:
        """Say what serves each class of k that is asked for, and whether it is proven."""
        values = {"column_id": self.tuned.column.id, "k_class": k_class(self.options.k)}
        return self.conn.cursor(row_factory=dict_row).execute(queries()["proof_of"], values).fetchall()

    def measure(self, advice: Advice, winner: ExistingIndex) -> dict[str, Any]:
        """Hold what was predicted against what is measured now on the real table.

        Times are also given in those of the prediction: multiplied by what the former index takes now of what
        it took then.
        """
        assert advice.winner is not None
        options, tuned, forecast = self.options, self.tuned, advice.winner
        point = forecast.at_target(options.target, options.k)
        assert point is not None
        own = next((row for row in self.serving() if row["k_class"] == k_class(options.k)), None)
        served = int(own["effort"]) if own is not None and own["index_no"] == winner.number else None
        new = next(index for index in tuned.indexes if index.number == winner.number)
        old = next((index for index in tuned.indexes if index.number == advice.current.number), None)
        with snapshot(self.conn):
            truth = exact_neighbors(self.conn, tuned.column, options.vectors, options.k)
            with self.console.progress(f"replaying through {winner.name}", len(options.vectors)) as progress:
                seen = replay_index(self.conn, tuned, new, options.vectors, truth, options.k, progress)
        ways = {"predicted": prepare_index_search(self.conn, tuned, new, options.k, point.effort)}
        if served is not None:
            ways["served"] = prepare_index_search(self.conn, tuned, new, options.k, served)
        if old is not None:
            ways["former"] = prepare_index_search(self.conn, tuned, old, options.k, advice.reference_effort)
        with Clients(self.conninfo, len(ways)) as clients:
            timed = clients.time(ways, options.vectors[:300], options.k, seed=options.seed, passes=2)
        millis = {name: float(each.millis.mean()) for name, each in timed.items()}
        scale = advice.reference_ms / millis["former"] if "former" in millis else 1.0

        def held(chosen: int, name: str) -> dict[str, Any]:
            expected, at = forecast.at(chosen), position_of(np.array([chosen]), new.rungs)
            measured = {
                "recall": float(interpolate(seen.recall, at).mean()),
                "blocks": float(interpolate(seen.blocks, at).mean()),
                "ms": millis[name] * scale,
            }
            return {
                "effort": chosen,
                "predicted": {
                    "recall": round(expected.recall, 4),
                    "blocks": round(expected.blocks, 1),
                    "ms": round(expected.ms * advice.reference_ms, 4),
                },
                "measured": {key: round(value, 4) for key, value in measured.items()},
                "measured_ms_now": round(millis[name], 4),
            }

        return {
            "at_the_target": held(point.effort, "predicted"),
            "as_served": None if served is None else held(served, "served"),
            "former_ms": {
                "then": round(advice.reference_ms, 4),
                "now": round(millis.get("former", np.nan), 4),
            }
            if old is not None
            else None,
        }

    def objections(self, winner: ExistingIndex, old: ExistingIndex) -> list[str]:
        """Say what speaks against dropping the old index: it goes only when nothing needs it any more."""
        said = [
            f"searches for k up to {row['k_class']} are not served by {winner.name} with a proof"
            for row in self.serving()
            if row["index_no"] != winner.number or not row["certified"]
        ]
        if not self.serving():
            said = ["nothing has been learned: too few searches are recorded"]
        values = {"column_id": self.tuned.column.id, "index_no": old.number}
        said += [
            f"it still serves {row[0]}"
            for row in self.conn.execute(queries()["serves_still"], values).fetchall()
        ]
        return list(dict.fromkeys(said))

    def drop(self, old: ExistingIndex) -> None:
        """Drop the old index, and learn with what is left."""
        name = sql.Identifier(old.schema, old.name)
        self.conn.execute(sql.SQL("DROP INDEX CONCURRENTLY {}").format(name))
        self.tuned = self.worker.refresh(self.tuned)
        self.learn()

    def _require_room(self, winner: Forecast) -> None:
        if self.options.max_mb is not None and winner.bytes > self.options.max_mb << 20:
            raise VectunedError(
                f"The index would take about {winner.bytes >> 20:,} MB, more than {self.options.max_mb:,}: "
                "give more --max-mb."
            )


def _kind(definition: Definition) -> tuple[str, str]:
    return definition.method, definition.form
