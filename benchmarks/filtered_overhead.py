"""Measure the overhead of a filtered search over the bare statement that vectuned runs for it.

Run as `python -m benchmarks.filtered_overhead [--dsn ...]` after `vectuned demo`, whose table it searches, in
the embedded server or the database of --dsn. Every query is filtered by its own lexical category; the client
prepares the bare statements, planned for their values. Arms run in blocks of 50 in random order; times are
the latency seen by the client, with 5 % of searches recorded. Prints tables, and the time of the parts of a
search inside the database. The figure to watch: at most 0.35 ms of overhead at the median.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import psycopg
from psycopg import sql

from benchmarks.tables import print_rows
from vectuned.config.errors import UsageError
from vectuned.daemon.console import Console
from vectuned.daemon.database.choice import choose_database, open_database
from vectuned.daemon.database.session import open_session
from vectuned.daemon.demo.demo_comparison import K
from vectuned.daemon.demo.demo_data import (
    ATTRIBUTE,
    INDEX,
    RELATION,
    SCHEMA,
    DemoQueries,
    draw_queries,
    find_tuned_columns,
)
from vectuned.daemon.measure.arms import compose_plain, prepare_vectuned_arm, race
from vectuned.learning.model.column import VectorColumn
from vectuned.learning.model.scan_settings import continued_hnsw_settings
from vectuned.learning.model.vectors import Vector
from vectuned.reasoning.embedding.embedder import StaticEmbedder
from vectuned.reasoning.wordnet.corpus import load_wordnet

Connection = psycopg.Connection[Any]


class Bare:
    """Answers filtered searches as vectuned would, by statements that the client prepares for each value."""

    def __init__(self, conninfo: str, column: VectorColumn, stack: ExitStack) -> None:
        self._conninfo, self._column, self._stack = conninfo, column, stack
        self._sessions: dict[tuple[str, int], Connection] = {}
        self._steps: dict[str, list[tuple[Connection, sql.Composed, int]]] = {}

    def prepare(self, conn: Connection, query: Vector, value: str) -> str:
        """Ask vectuned for its access path, prepare statements for it, and return its name."""
        row = conn.execute(
            "SELECT access_path, index::text, ef_search FROM vectuned.params(%s::regclass, %s, %s, %s)",
            (RELATION, query, K, json.dumps({ATTRIBUTE: value})),
        ).fetchone()
        assert row is not None
        path, index, ef = row
        part = index not in (None, f"{SCHEMA}.{INDEX}")
        write = partial(compose_plain, self._column, ATTRIBUTE, sql.Literal(value), sql.Literal(K))
        steps = []
        if path != "exact":
            steps.append((self._session(path, ef or 0), write(advised=part), 2))
        # If the index gives too few rows, all matching rows are searched, as vectuned does.
        steps.append((self._session("exact", 0), write(exact=True), 1))
        self._steps[value] = steps
        return f"{path}, partial index" if part else str(path)

    def search(self, query: Vector, k: int, value: str, prepared: bool = True) -> list[float]:
        """Return the distances found."""
        found: list[float] = []
        for conn, statement, times in self._steps[value]:
            rows = conn.execute(statement, (query,) * times, prepare=prepared, binary=True).fetchall()
            found = [row[-1] for row in rows]
            if len(found) == k:
                break
        return found

    def _session(self, path: str, ef: int) -> Connection:
        if (path, ef) not in self._sessions:
            conn = self._sessions[path, ef] = self._stack.enter_context(open_session(self._conninfo))
            conn.prepared_max = None
            settings = {"plan_cache_mode": "force_generic_plan"}  # planned once; the values are literals
            if path != "exact":
                settings["hnsw.ef_search"] = str(ef)
            if path == "hnsw_continued":
                settings |= continued_hnsw_settings(ef, ef)
            if path not in ("exact", "planner"):
                settings["enable_sort"] = "off"
            for name, value in settings.items():
                conn.execute("SELECT set_config(%s, %s, false)", (name, value))
        return self._sessions[path, ef]


def by_path(
    conninfo: str,
    conn: Connection,
    column: VectorColumn,
    asked: DemoQueries,
    options: argparse.Namespace,
    talk: Console,
) -> dict[str, dict[str, float]]:
    """Compare filtered searches with their bare statements, each pair `options.repeat` times.

    planning_p50_ms is the additional time of the bare statements if they are parsed and planned each time.
    """
    searches = [(Vector(v), K, value) for v, value in zip(asked.vectors, asked.categories, strict=True)]
    with ExitStack() as stack:
        bare = Bare(conninfo, column, stack)
        chosen = np.array([bare.prepare(conn, query, value) for query, _, value in searches])
        tuned = prepare_vectuned_arm(
            stack.enter_context(open_session(conninfo)), column, 0, attribute=ATTRIBUTE
        )
        searches_by_arm: dict[str, Callable[..., list[float]]] = {
            "bare": bare.search,
            "planned": partial(bare.search, prepared=False),
            "vectuned": tuned.search,
        }
        runs = []
        for i in range(options.repeat + 1):
            with talk.progress("filtered searches", len(searches) * len(searches_by_arm)) as progress:
                runs.append(race(searches_by_arm, searches, K, seed=options.seed + i, progress=progress))
    # The first round plans every statement.
    theirs, planned, ours = (np.array([run[name].millis for run in runs[1:]]) for name in searches_by_arm)
    result = {}
    for name in [*sorted(set(chosen.tolist())), "all"]:
        mask = (chosen == name) | (name == "all")
        more = (ours - theirs)[:, mask]
        values = {
            "searches": mask.sum(),
            "bare_p50_ms": np.median(theirs[:, mask]),
            "vectuned_p50_ms": np.median(ours[:, mask]),
            "more_p50_ms": np.median(more),
            "more_mean_ms": more.mean(),
            "planning_p50_ms": np.median((planned - theirs)[:, mask]),
        }
        result[name] = {label: round(float(value), 4) for label, value in values.items()}
    return result


def pieces(conn: Connection, column: VectorColumn, values: list[str]) -> dict[str, float]:
    """Time inside the database the parts of a filtered search besides its statement, in ms per search."""
    compiled = "* INTO r FROM vectuned._compile_filter({id}, {table}::regclass, f)"
    parts = {
        "nothing": "PERFORM f",
        "filter compiled": f"SELECT {compiled}",
        "filter compiled, path looked up": (
            f"SELECT {compiled}; PERFORM * FROM vectuned._served_path({{id}}, 10, f, r.shape, r.fraction)"
        ),
        "statement parsed and planned, by the index": "EXECUTE {hnsw} INTO p USING q",
        "statement parsed and planned, exact": "EXECUTE {exact} INTO p USING q",
        "whole search, no row meets the filter": (
            "PERFORM * FROM vectuned.search({table}::regclass, q, 10, {none})"
        ),
    }
    known: dict[str, sql.Composable] = {
        "id": sql.Literal(column.id),
        "table": sql.Literal(RELATION),
        "d": sql.Literal(column.dimensions),
        "vector": sql.Identifier(column.extension_schema, "vector"),
        "none": sql.Literal(json.dumps({ATTRIBUTE: "none"})),
        "filters": sql.Literal([json.dumps({ATTRIBUTE: value}) for value in values * 30]),
    }
    write = partial(compose_plain, column, ATTRIBUTE, sql.Literal(values[0]), sql.Literal(K))
    for path, statement in {"hnsw": write(), "exact": write(exact=True)}.items():
        known[path] = sql.Literal("EXPLAIN " + statement.as_string().replace("%s", "$1"))
    times = {}
    for name, piece in parts.items():
        statement = sql.SQL(
            "DO $do$ DECLARE f jsonb; p text; r record; "
            "q {vector} := array_fill(1::real, ARRAY[{d}])::{vector}; "
            f"BEGIN FOREACH f IN ARRAY {{filters}}::jsonb[] LOOP {piece}; END LOOP; END $do$"
        ).format(**known)
        took = []
        for _ in range(5):
            began = perf_counter()
            conn.execute(statement)
            took.append((perf_counter() - began) * 1000 / (30 * len(values)))
        times[name] = float(np.median(took))
    return {name: round(took - times["nothing"], 4) for name, took in times.items() if name != "nothing"}


def measure(conninfo: str, options: argparse.Namespace, talk: Console) -> dict[str, Any]:
    """Compare the arms and time the parts of a search."""
    with open_session(conninfo) as conn:
        found = find_tuned_columns(conn)
        if not found:
            raise UsageError("There is nothing to measure in this database: run `vectuned demo` there first.")
        column = found[0].column
        asked = draw_queries(load_wordnet(), StaticEmbedder(), options.queries, options.seed)
        return {
            "options": {name: value for name, value in vars(options).items() if name not in ("dsn", "json")},
            "machine": {"cores": os.cpu_count(), "architecture": platform.machine()},
            "paths": by_path(conninfo, conn, column, asked, options, talk),
            "pieces_ms": pieces(conn, column, sorted(set(asked.categories))),
        }


def main() -> None:
    """Run the benchmark and print its result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dsn", help="the database in which the demo ran")
    parser.add_argument("--queries", type=int, default=750)
    parser.add_argument("--repeat", type=int, default=3, help="rounds that count")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there too")
    options = parser.parse_args()
    talk = Console()
    with open_database(choose_database(options.dsn, {})) as conninfo:
        result = measure(conninfo, options, talk)
    print_rows(talk, "filtered searches and their bare statements", result["paths"])
    print_rows(talk, "in the database", {name: {"ms": ms} for name, ms in result["pieces_ms"].items()})
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
