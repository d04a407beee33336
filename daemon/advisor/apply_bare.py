"""`vectuned advise --apply` on a column without an index: build the best one, tune the column, prove it."""

from __future__ import annotations

from typing import Any

from psycopg import sql

from vectuned.config.errors import VectunedError
from vectuned.config.settings import Settings
from vectuned.daemon.console import Console
from vectuned.daemon.database.index_build import announce, build_with_progress
from vectuned.daemon.database.standby import using_standby
from vectuned.daemon.work.worker import Worker
from vectuned.learning.model.ladder import k_class
from vectuned.learning.model.tuned_columns import TunedColumn, read_tuned_columns
from vectuned.learning.model.vectors import Vector
from vectuned.sql.rows import fetch_rows, fetch_value

from . import storage
from .advice import Advice, AdvisorOptions
from .index_statement import compose_index_statement
from .scratch_run import ScratchRun


def build_first_index(
    run: ScratchRun, conninfo: str, advice: Advice, options: AdvisorOptions, console: Console
) -> dict[str, Any]:
    """Build the winner on the table; return its name, and the seconds that it took and was forecast.

    Raises VectunedError where it would take more than `max_mb`.
    """
    assert advice.winner is not None
    definition, tuned = advice.winner.definition, run.tuned
    if options.max_mb is not None and advice.winner.bytes > options.max_mb << 20:
        raise VectunedError(
            f"The index would take about {advice.winner.bytes >> 20:,} MB, more than {options.max_mb:,}: "
            "increase --max-mb."
        )
    name = storage.choose_index_name(run.conn, tuned, definition)
    statement = compose_index_statement(tuned, definition, [], name, mixed=options.mixed)
    plan = advice.plans[definition]
    announce(plan, console)
    run.register_index(name, trial=False)
    index = sql.Identifier(tuned.column.schema, name)
    seconds = build_with_progress(run.conn, conninfo, statement, index, plan, f"building {name}", console)
    return {"index": name, "built_seconds": round(seconds, 1), "forecast_seconds": round(plan.seconds, 1)}


def tune_and_prove(
    run: ScratchRun, settings: Settings, options: AdvisorOptions, console: Console
) -> list[dict[str, Any]]:
    """Tune the column, search for the given queries and learn from them; return what serves.

    The queries are recorded as searches of the column, so they must be such as its users send.
    """
    column = run.tuned.column
    values = {"relation": column.relation.as_string(run.conn), "column_name": column.name}
    target = {"target": options.target}
    fetch_value(run.conn, "enable_advised", {**values, **target, "sample_rate": 1.0})
    with using_standby(settings) as standby:
        worker = Worker(run.conn, settings, standby=standby)
        with console.progress("searching for the queries", len(options.vectors)) as progress:
            for number, vector in enumerate(options.vectors, 1):
                fetch_rows(run.conn, "advised_search", {**values, "query": Vector(vector), "k": options.k})
                progress(number)
        worker.drain()
        tuned = worker.refresh(_find_tuned(run))
        waiting = worker.count_waiting(tuned)
        with console.progress("replaying them", waiting) as progress:
            worker.replay(tuned, waiting, progress)
        worker.learn(tuned)
    fetch_value(run.conn, "enable_advised", {**values, **target, "sample_rate": None})
    return storage.read_serving(run.conn, tuned, k_class(options.k))


def _find_tuned(run: ScratchRun) -> TunedColumn:
    column = run.tuned.column
    name = (column.schema, column.table, column.name)
    return next(
        tuned
        for tuned in read_tuned_columns(run.conn)
        if (tuned.column.schema, tuned.column.table, tuned.column.name) == name
    )
