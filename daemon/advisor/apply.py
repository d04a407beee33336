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
from vectuned.daemon.database.index_build import build, create_statement
from vectuned.daemon.database.session import snapshot
from vectuned.daemon.measure.measuring import Clients, replay_through, way_through
from vectuned.daemon.service.worker import Worker
from vectuned.learning.advisor import Definition, Forecast
from vectuned.learning.model.ladder import at_efforts, effort, k_class
from vectuned.learning.model.tuned_columns import Care
from vectuned.learning.truth.truth import exact_neighbors
from vectuned.sql.files import queries

from .scratch import Run
from .types import Advice, Existing, Wish, existing_indexes


def marker_for(definition: Definition, existing: Sequence[Existing]) -> int | None:
    """Return the number of the marker by which statements tell an index from those like it; None: no need.

    Alike are all over the same expression, of whatever method: each can answer the other's statements.
    """
    alike = [each for each in existing if each.definition.form == definition.form]
    if not alike:
        return None
    taken = {each.marker.rsplit(" ", 1)[-1] for each in alike}
    return next(number for number in range(len(alike) + 1) if str(number) not in taken)


def outshone(definition: Definition, existing: Sequence[Existing]) -> Existing | None:
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


def ddl(care: Care, definition: Definition, existing: Sequence[Existing], name: str) -> sql.Composed:
    """Write the statement that builds an index on the real table."""
    marker = marker_for(definition, existing)
    return create_statement(
        care.column, definition, care.column.relation, name, concurrently=True, marker=marker
    )


def index_name(conn: psycopg.Connection[Any], care: Care, definition: Definition) -> str:
    """Return a name for an index that is not taken."""
    column = care.column
    options = (
        (definition.m, definition.ef_construction) if definition.method == "hnsw" else (definition.lists,)
    )
    tail = "_".join(["", definition.form, definition.method, *map(str, options)])
    stem = f"{column.table}_{column.column}".encode()[: 58 - len(tail)].decode(errors="ignore") + tail
    values = {"stem": stem, "schema": column.schema}
    return str(conn.execute(queries()["unused_name"], values).fetchall()[0][0])


class Application:
    """Put advice into force through a worker, whose connection is also the run's."""

    def __init__(self, worker: Worker, conninfo: str, care: Care, wish: Wish, console: Console) -> None:
        self.worker, self.conninfo, self.care, self.wish, self.console = worker, conninfo, care, wish, console
        self.conn = worker.conn

    def build(self, run: Run, advice: Advice) -> tuple[Existing, float | None]:
        """Build the winner beside what is there, unless it is; return it, and the seconds it took."""
        assert advice.winner is not None
        definition = advice.winner.definition
        existing = existing_indexes(self.conn, self.care)
        there = next((e for e in existing if e.definition == definition and e.number is not None), None)
        if there is not None:
            return there, None
        self._require_room(advice.winner)
        name = index_name(self.conn, self.care, definition)
        statement = ddl(self.care, definition, existing, name)
        run.announce(name, trial=False)
        seconds = build(self.conn, self.conninfo, statement, f"building {name}", advice.rows, self.console)
        self.care = self.worker.refresh(self.care)
        found = next(
            (e for e in existing_indexes(self.conn, self.care) if e.name == name and e.number is not None),
            None,
        )
        if found is None:
            dropped = sql.Identifier(self.care.column.schema, name)
            self.conn.execute(sql.SQL("DROP INDEX CONCURRENTLY {}").format(dropped))
            raise VectunedError(
                f"PostgreSQL does not take {name} where a statement asks for it, but another index over the "
                "same expression, so it could not be proven beside that and was dropped again."
            )
        return found, seconds

    def learn(self) -> None:
        """Replay recorded searches through what is new, and publish what is learned."""
        self.worker.drain()
        self.care = self.worker.refresh(self.care)
        values = {"column_id": self.care.column.id}
        waiting = int(self.conn.execute(queries()["waiting"], values).fetchall()[0][0])
        with self.console.progress("replaying recorded searches", waiting) as progress:
            self.worker.replay(self.care, waiting, progress)
        self.worker.learn(self.care)
        self.care = self.worker.refresh(self.care)

    def serving(self) -> list[dict[str, Any]]:
        """Say what serves each class of k that is asked for, and whether it is proven."""
        values = {"column_id": self.care.column.id, "k_class": k_class(self.wish.k)}
        return self.conn.cursor(row_factory=dict_row).execute(queries()["proof_of"], values).fetchall()

    def measure(self, advice: Advice, winner: Existing) -> dict[str, Any]:
        """Hold what was predicted against what is measured now on the real table.

        Times are also given in those of the prediction: multiplied by what the former index takes now of what
        it took then.
        """
        assert advice.winner is not None
        wish, care, forecast = self.wish, self.care, advice.winner
        point = forecast.at_target(wish.target, wish.k)
        assert point is not None
        own = next((row for row in self.serving() if row["k_class"] == k_class(wish.k)), None)
        served = int(own["effort"]) if own is not None and own["index_no"] == winner.number else None
        new = next(index for index in care.indexes if index.number == winner.number)
        old = next((index for index in care.indexes if index.number == advice.current.number), None)
        with snapshot(self.conn):
            truth = exact_neighbors(self.conn, care.column, wish.vectors, wish.k)
            with self.console.progress(f"replaying through {winner.name}", len(wish.vectors)) as progress:
                seen = replay_through(self.conn, care, new, wish.vectors, truth, wish.k, progress)
        ways = {"predicted": way_through(self.conn, care, new, wish.k, point.effort)}
        if served is not None:
            ways["served"] = way_through(self.conn, care, new, wish.k, served)
        if old is not None:
            ways["former"] = way_through(self.conn, care, old, wish.k, advice.reference_effort)
        with Clients(self.conninfo, len(ways)) as clients:
            timed = clients.time(ways, wish.vectors[:300], wish.k, seed=wish.seed, passes=2)
        millis = {name: float(each.millis.mean()) for name, each in timed.items()}
        scale = advice.reference_ms / millis["former"] if "former" in millis else 1.0

        def held(chosen: int, name: str) -> dict[str, Any]:
            expected, at = forecast.at(chosen), effort(np.array([chosen]), new.rungs)
            measured = {
                "recall": float(at_efforts(seen.recall, at).mean()),
                "blocks": float(at_efforts(seen.blocks, at).mean()),
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

    def objections(self, winner: Existing, old: Existing) -> list[str]:
        """Say what speaks against dropping the old index: it goes only when nothing needs it any more."""
        said = [
            f"searches for k up to {row['k_class']} are not served by {winner.name} with a proof"
            for row in self.serving()
            if row["index_no"] != winner.number or not row["certified"]
        ]
        if not self.serving():
            said = ["nothing has been learned: too few searches are recorded"]
        values = {"column_id": self.care.column.id, "index_no": old.number}
        said += [
            f"it still serves {row[0]}"
            for row in self.conn.execute(queries()["serves_still"], values).fetchall()
        ]
        return list(dict.fromkeys(said))

    def drop(self, old: Existing) -> None:
        """Drop the old index, and learn with what is left."""
        name = sql.Identifier(old.schema, old.name)
        self.conn.execute(sql.SQL("DROP INDEX CONCURRENTLY {}").format(name))
        self.care = self.worker.refresh(self.care)
        self.learn()

    def _require_room(self, winner: Forecast) -> None:
        if self.wish.max_mb is not None and winner.bytes > self.wish.max_mb << 20:
            raise VectunedError(
                f"The index would take about {winner.bytes >> 20:,} MB, more than {self.wish.max_mb:,}: "
                "give more --max-mb."
            )


def _kind(definition: Definition) -> tuple[str, str]:
    return definition.method, definition.form
