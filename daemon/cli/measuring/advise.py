"""The command `vectuned advise`: which index a column should have, found by building and measuring."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import psycopg

from vectuned.config.errors import UsageError, VectunedError
from vectuned.daemon.cli.arguments import add_optional_column_arguments, add_search_arguments, check_range
from vectuned.daemon.cli.command import Command, Context
from vectuned.daemon.cli.measuring.query_vectors import find_tuned_column, load_queries

if TYPE_CHECKING:
    from vectuned.daemon.advisor.advice import Advice, AdvisorOptions, ExistingIndex
    from vectuned.daemon.advisor.apply import IndexReplacement
    from vectuned.daemon.advisor.scratch_run import ScratchRun
    from vectuned.learning.model.tuned_columns import TunedColumn


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_optional_column_arguments(parser)
    parser.add_argument(
        "--queries",
        default="400",
        metavar="N|FILE",
        help="replay the newest N recorded searches, or a file of vectors, .npy or one JSON array per line "
        "(default: %(default)s)",
    )
    add_search_arguments(parser, target_help="recall to reach (default: the column's target)")
    parser.add_argument(
        "--budget-seconds",
        type=float,
        default=600.0,
        metavar="S",
        help="start no candidate that would exceed this time, after the current index (default: %(default)g)",
    )
    parser.add_argument(
        "--sample-rows",
        type=int,
        default=50_000,
        metavar="N",
        help="rows of the largest copy that candidates are tried on (default: %(default)s)",
    )
    parser.add_argument(
        "--on-table",
        action="store_true",
        help="try the last candidates on the table itself, built CONCURRENTLY and dropped again",
    )
    parser.add_argument(
        "--max-mb",
        type=int,
        metavar="M",
        help="largest size of the copies, and of an index that is applied (default: 2048 for copies, no "
        "limit for an index)",
    )
    parser.add_argument(
        "--apply",
        action="store_true",
        help="build the best index CONCURRENTLY, learn about it, publish, and measure what was predicted",
    )
    parser.add_argument(
        "--drop-old",
        action="store_true",
        help="with --apply: drop the main index once the new one is in service, proven, and nothing needs "
        "the old one",
    )


@dataclass(frozen=True)
class _Target:
    """The column to advise on, a session on its database, and what is asked of the advisor."""

    conn: psycopg.Connection[Any]
    conninfo: str
    tuned: TunedColumn
    options: AdvisorOptions


def _run(context: Context) -> None:
    from vectuned.daemon.advisor.advice_report import build_report, print_advice
    from vectuned.daemon.advisor.advisor import Advisor
    from vectuned.daemon.advisor.scratch_run import ScratchRun
    from vectuned.daemon.advisor.storage import read_existing_indexes

    options, console = context.options, context.console
    _check_options(options)
    problem = None
    with context.database() as conninfo, context.session() as conn:
        tuned = find_tuned_column(conn, options)
        target = _Target(conn, conninfo, tuned, _read_options(conn, tuned, options))
        with ScratchRun.open(conn, tuned) as run:
            advice = Advisor(conn, conninfo, tuned, target.options, console).advise(run)
            existing = read_existing_indexes(conn, tuned)
            report = build_report(conn, tuned, target.options, advice, existing)
            if not console.as_json:
                print_advice(console, report)
            if options.apply:
                problem = _apply(context, target, run, advice, existing, report)
    if console.as_json:
        console.document(report)
    if problem is not None:
        raise VectunedError(problem)


def _check_options(options: argparse.Namespace) -> None:
    if options.drop_old and not options.apply:
        raise UsageError("--drop-old goes with --apply: an index is only dropped for one that serves.")
    check_range("--k", options.k, 1, 1000)
    check_range("--sample-rows", options.sample_rows, 100, 10**9)
    check_range("--budget-seconds", options.budget_seconds, 1, 10**6)
    check_range("--max-mb", options.max_mb, 1, 10**9)
    check_range("--target", options.target, 0.5, 0.999)
    check_range("--seed", options.seed, 0, 2**31 - 1)


def _read_options(
    conn: psycopg.Connection[Any], tuned: TunedColumn, options: argparse.Namespace
) -> AdvisorOptions:
    from vectuned.daemon.advisor.advice import AdvisorOptions

    vectors = load_queries(conn, tuned, options)
    target = tuned.target_recall if options.target is None else options.target
    return AdvisorOptions(
        vectors,
        options.k,
        target,
        options.budget_seconds,
        options.sample_rows,
        options.on_table,
        options.max_mb,
        options.seed,
    )


def _apply(
    context: Context,
    target: _Target,
    run: ScratchRun,
    advice: Advice,
    existing: list[ExistingIndex],
    report: dict[str, Any],
) -> str | None:
    """Build the best index, learn about it and drop the old one, as the options say.

    Adds to `report` what was done. Returns why something was left undone, None if nothing was.
    """
    from vectuned.daemon.advisor.advice_report import print_measurement
    from vectuned.daemon.advisor.apply import IndexReplacement
    from vectuned.daemon.advisor.index_statement import find_rival_index
    from vectuned.daemon.database.standby import using_standby
    from vectuned.daemon.service.worker import Worker

    console, drop_old, tuned = context.console, context.options.drop_old, target.tuned
    main = next((index for index in existing if index.number == tuned.indexes[0].number), None)
    # None if a new index is the best.
    best_already = advice.current if report["winner"] is None else None
    if best_already is not None and not (drop_old and main and main.name != best_already.name):
        return None  # the summary has said that no change is worthwhile
    with using_standby(context.settings) as standby:
        worker = Worker(target.conn, context.settings, standby=standby)
        replacement = IndexReplacement(worker, target.conninfo, tuned, target.options, console)
        if best_already is not None:
            winner, seconds = best_already, None
        else:
            assert advice.winner is not None
            rival = find_rival_index(advice.winner.definition, existing)
            if rival is not None:
                return (
                    f"{advice.winner.definition} cannot be proven beside {rival.name}, which PostgreSQL "
                    "takes for the same statements: build it with the statement above and drop that one "
                    "by hand."
                )
            winner, seconds = replacement.build(run, advice)
        replacement.learn()
        applied: dict[str, Any] = {
            "index": winner.name,
            "built_seconds": None if seconds is None else round(seconds, 1),
            "serving": replacement.serving(),
            "dropped": None,
        }
        report["applied"] = applied
        if best_already is None:
            applied["measured"] = replacement.measure(advice, winner)
            if not console.as_json:
                print_measurement(console, target.options, applied)
        if not drop_old or main is None or main.name == winner.name:
            return None
        return _drop_index(context, replacement, winner, main, applied)


def _drop_index(
    context: Context,
    replacement: IndexReplacement,
    winner: ExistingIndex,
    old: ExistingIndex,
    applied: dict[str, Any],
) -> str | None:
    """Drop the old index and update `applied`; return why it stays, if something still needs it."""
    if objections := replacement.objections(winner, old):
        return f"{old.name} is kept: {'; '.join(objections)}."
    column = replacement.tuned.column.name
    replacement.drop(old)
    applied["dropped"], applied["serving"] = old.name, replacement.serving()
    context.console.line(
        f"{old.name} was dropped. Plain SQL that ordered by {column} through it has no index now, unless it "
        "is written for another; vectuned.search has."
    )
    return None


COMMAND: Final = Command(
    name="advise",
    summary="find the best index for a column by building candidates",
    description="Builds candidate indexes over copies of a sample of the rows, replays searches through "
    "each, compares them with the current index, and prints the cost of each at the target, with its "
    "CREATE INDEX statement. Ctrl-C stops it at any time and drops the copies; those of a run that was "
    "killed are dropped by the next run.",
    example="vectuned advise items --queries 1000 --budget-seconds 1200",
    run=_run,
    add_arguments=_add_arguments,
)
