"""The command `vectuned advise`: which index a column should have, found by building and measuring."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import psycopg

from vectuned.config.errors import UsageError, VectunedError
from vectuned.daemon.cli.arguments import add_optional_column_arguments, add_search_arguments, check_range
from vectuned.daemon.cli.command import Command, Context
from vectuned.daemon.cli.measuring.query_vectors import (
    check_query_count,
    find_tuned_column,
    load_queries,
    load_query_file,
    parse_query_count,
)

if TYPE_CHECKING:
    from vectuned.daemon.advisor.advice import Advice, AdvisorOptions, ExistingIndex
    from vectuned.daemon.advisor.apply import IndexReplacement
    from vectuned.daemon.advisor.filter_columns import FilterColumnAdvice
    from vectuned.daemon.advisor.scratch_run import ScratchRun
    from vectuned.learning.model.tuned_columns import TunedColumn


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_optional_column_arguments(parser)
    parser.add_argument(
        "--queries",
        default="400",
        metavar="N|FILE",
        help="replay the newest N recorded searches, of a column not tuned yet N of its rows, or a file of "
        "vectors, .npy or one JSON array per line (default: %(default)s)",
    )
    add_search_arguments(
        parser, target_help="recall to reach (default: the column's target, 0.95 for a column not tuned yet)"
    )
    parser.add_argument(
        "--metric",
        choices=("cosine", "l2", "ip"),
        help="distance of a column that is not tuned yet (default: that of an index over it, else cosine)",
    )
    parser.add_argument(
        "--memory",
        type=int,
        metavar="MB",
        help="advise only an index of at most this size, such as fits into memory (default: no limit)",
    )
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
        "--filter",
        action="append",
        default=[],
        metavar="COLUMN",
        help="of a column not tuned yet: also say what searches need that filter by a value of this column; "
        "may be repeated",
    )
    parser.add_argument(
        "--filters",
        action="store_true",
        help="advise about what the filters of recorded searches need instead: B-trees and partial indexes, "
        "within --max-mb (default: as much as the main index), --max-statements and --max-insert-share",
    )
    parser.add_argument(
        "--max-statements",
        type=int,
        default=6,
        metavar="N",
        help="with --filters: most indexes to advise (default: %(default)s)",
    )
    parser.add_argument(
        "--max-insert-share",
        type=float,
        default=1.0,
        metavar="R",
        help="with --filters: most time to add to an insert, as a share of what it takes today (default: "
        "%(default)g)",
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
    from vectuned.daemon.advisor.bare_column import is_tuned
    from vectuned.daemon.advisor.scratch_run import ScratchRun
    from vectuned.daemon.advisor.storage import read_existing_indexes

    options, console = context.options, context.console
    _check_options(options)
    if options.filters:
        _advise_filters(context)
        return
    problem = None
    with context.database() as conninfo, context.session() as conn:
        if is_tuned(conn, options.relation, options.column):
            if options.filter:
                raise UsageError(
                    "--filter goes with a column that is not tuned yet; --filters tells what the filters of "
                    "recorded searches need."
                )
            tuned = find_tuned_column(conn, options)
            asked = _read_options(context, conn, tuned)
        else:
            tuned, asked = _read_bare_options(context, conn)
        target = _Target(conn, conninfo, tuned, asked)
        with ScratchRun.open(conn, tuned) as run:
            advice = Advisor(conn, conninfo, tuned, asked, console).advise(run)
            existing = read_existing_indexes(conn, tuned)
            report = build_report(conn, tuned, asked, advice, existing)
            if not console.as_json:
                print_advice(console, report)
            advised = _advise_filter_columns(context, run, advice, asked, report)
            if options.apply and tuned.indexes:
                problem = _apply(context, target, run, advice, existing, report)
            elif options.apply:
                problem = _apply_first(context, target, run, advice, report, advised)
    if console.as_json:
        console.document(report)
    if problem is not None:
        raise VectunedError(problem)


def _advise_filter_columns(
    context: Context, run: ScratchRun, advice: Advice, asked: AdvisorOptions, report: dict[str, Any]
) -> list[FilterColumnAdvice]:
    """Advise about each --filter, and add that to the report."""
    from vectuned.daemon.advisor.filter_columns import FilterColumnAdvisor, print_filter_column

    names = dict.fromkeys(context.options.filter)
    if not names or advice.winner is None:
        return []
    adviser = FilterColumnAdvisor(run, advice, asked)
    advised = [adviser.advise(name) for name in names]
    report["filters"] = [each.as_dict() for each in advised]
    if not context.console.as_json:
        for each in advised:
            print_filter_column(context.console, each)
    return advised


def _advise_filters(context: Context) -> None:
    """Advise about the filters of a tuned column, and carry it out with --apply."""
    from vectuned.daemon.advisor.filter_report import print_filter_advice
    from vectuned.daemon.advisor.filters import FilterAdvisor, FilterBudget, learn_about_indexes
    from vectuned.daemon.advisor.scratch_run import ScratchRun
    from vectuned.daemon.advisor.storage import read_size
    from vectuned.daemon.database.standby import using_standby
    from vectuned.daemon.work.worker import Worker
    from vectuned.learning.model.trajectory import drain

    options, console, settings = context.options, context.console, context.settings
    if options.on_table or options.drop_old:
        raise UsageError("--filters goes with neither --on-table nor --drop-old.")
    with context.database() as conninfo, context.session() as conn:
        tuned = find_tuned_column(conn, options)
        drain(conn)
        limit = read_size(conn, tuned.indexes[0].name) if options.max_mb is None else options.max_mb << 20
        budget = FilterBudget(limit, options.max_statements, options.max_insert_share)
        with ScratchRun.open(conn, tuned) as run:
            adviser = FilterAdvisor(run, settings.index_build, console)
            advice = adviser.advise(budget, options.seed)
            report = {"relation": f"{tuned.column.schema}.{tuned.column.table}", **advice.as_dict()}
            report["applied"] = None
            print_filter_advice(console, report)
            if options.apply:
                report["applied"] = adviser.apply(advice, conninfo)
                with using_standby(settings) as standby:
                    learn_about_indexes(Worker(conn, settings, standby=standby), tuned, console)
    if console.as_json:
        console.document(report)


def _check_options(options: argparse.Namespace) -> None:
    if options.drop_old and not options.apply:
        raise UsageError("--drop-old goes with --apply: an index is only dropped for one that serves.")
    check_range("--k", options.k, 1, 1000)
    check_range("--sample-rows", options.sample_rows, 100, 10**9)
    check_range("--budget-seconds", options.budget_seconds, 1, 10**6)
    check_range("--max-mb", options.max_mb, 1, 10**9)
    check_range("--target", options.target, 0.5, 0.999)
    check_range("--seed", options.seed, 0, 2**31 - 1)
    check_range("--memory", options.memory, 1, 10**9)
    check_range("--max-statements", options.max_statements, 1, 100)
    check_range("--max-insert-share", options.max_insert_share, 0, 1000)


def _read_options(context: Context, conn: psycopg.Connection[Any], tuned: TunedColumn) -> AdvisorOptions:
    from vectuned.daemon.advisor.advice import AdvisorOptions

    options = context.options
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
        memory_mb=options.memory,
        build_limits=context.settings.index_build,
    )


def _read_bare_options(context: Context, conn: psycopg.Connection[Any]) -> tuple[TunedColumn, AdvisorOptions]:
    """Describe a column that is not tuned, with queries from a file or rows that no copy will hold."""
    from vectuned.daemon.advisor.advice import AdvisorOptions
    from vectuned.daemon.advisor.bare_column import describe_bare_column, explain_cast, hold_out_rows
    from vectuned.daemon.advisor.filter_columns import read_filter_column
    from vectuned.daemon.advisor.storage import read_table

    options = context.options
    if options.on_table or options.drop_old:
        raise UsageError("--on-table and --drop-old go with a tuned column: see vectuned.enable.")
    bare = describe_bare_column(conn, options.relation, options.column, options.metric, options.target)
    for name in options.filter:
        read_filter_column(conn, bare.column, name)  # a missing one is better said now than after measuring
    count, share = parse_query_count(options), 1.0
    if count is None:
        vectors = load_query_file(bare.column, options)
        note = f"{len(vectors)} queries from {options.queries}"
    else:
        rows = read_table(conn, bare.column).rows
        vectors, share = hold_out_rows(conn, bare, count, rows, options.seed)
        check_query_count(len(vectors), f"{bare.column} yields")
        note = (
            f"{len(vectors)} rows of the table as queries, for want of better ones: real searches may be "
            "harder or easier; --queries FILE takes real ones"
        )
    asked = AdvisorOptions(
        vectors,
        options.k,
        bare.tuned.target_recall,
        options.budget_seconds,
        options.sample_rows,
        max_mb=options.max_mb,
        seed=options.seed,
        largest_share=share,
        note=f"{bare.column} is not tuned yet. {bare.column.metric} distance ({bare.metric_source}); {note}."
        + (f" {explain_cast(bare)}" if bare.column.untyped else ""),
        mixed=bare.mixed,
        memory_mb=options.memory,
        build_limits=context.settings.index_build,
    )
    return bare.tuned, asked


def _apply_first(
    context: Context,
    target: _Target,
    run: ScratchRun,
    advice: Advice,
    report: dict[str, Any],
    filters: list[FilterColumnAdvice],
) -> str | None:
    """Build the first index of a column; with queries of its users also tune the column and prove it."""
    from vectuned.daemon.advisor.apply_bare import build_first_index, tune_and_prove
    from vectuned.daemon.advisor.filter_columns import FilterColumnAdvisor

    console, asked = context.console, target.options
    if report["winner"] is None:
        return None
    report["applied"] = applied = build_first_index(run, target.conninfo, advice, asked, console)
    console.line(
        f"{applied['index']} was built in {applied['built_seconds']:,.0f} s, forecast "
        f"{applied['forecast_seconds']:,.0f} s."
    )
    adviser = FilterColumnAdvisor(run, advice, asked)
    applied["partial"] = [name for each in filters for name in adviser.apply(each, target.conninfo, console)]
    if asked.mixed:
        console.line(
            "vectuned.search needs vectors of one number of dimensions; own SQL orders by the cast, as shown."
        )
        return None
    if parse_query_count(context.options) is not None:
        console.line(
            "Rows as queries prove nothing about real searches: to learn from these, run `vectuned enable "
            f"{report['relation']} {report['column']} --target-recall {asked.target:g}`."
        )
        return None
    applied["serving"] = tune_and_prove(run, context.settings, asked, console)
    if not applied["serving"]:
        console.line(
            f"{len(asked.vectors)} queries are too few to learn from: the column is tuned, and the daemon or "
            "`vectuned learn --once` learns once more searches are recorded."
        )
    for row in applied["serving"]:
        proven = f"proven, at least {row['recall_bound']:.3f}" if row["certified"] else "not proven yet"
        console.line(f"Searches for k up to {row['k_class']} are served at effort {row['effort']}: {proven}.")
    return None


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
    from vectuned.daemon.work.worker import Worker

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
    "CREATE INDEX statement. A column without an index need not be tuned: give a file of its users' queries, "
    "or rows serve as queries. Ctrl-C stops it at any time and drops the copies; those of a run that was "
    "killed are dropped by the next run.",
    example="vectuned advise items --queries 1000 --budget-seconds 1200",
    run=_run,
    add_arguments=_add_arguments,
)
