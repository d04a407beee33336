"""The commands that compare: which index a column should have, and what vectuned is worth there."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg

from vectuned.config.errors import UsageError, VectunedError
from vectuned.daemon.console import Console
from vectuned.sql.files import queries

from .command import Command, Context, optional_column_arguments

if TYPE_CHECKING:
    from vectuned.daemon.advisor.advice import Advice, AdvisorOptions, ExistingIndex
    from vectuned.learning.model.arrays import Singles
    from vectuned.learning.model.tuned_columns import TunedColumn

_MOST_QUERIES: Final = 10_000


def _advise_arguments(parser: argparse.ArgumentParser) -> None:
    optional_column_arguments(parser)
    parser.add_argument(
        "--queries",
        default="400",
        metavar="N|FILE",
        help="how many of the newest recorded searches to replay, or a file of vectors, .npy or a JSON "
        "array a line (default %(default)s)",
    )
    parser.add_argument("--target", type=float, metavar="R", help="recall wanted (default: the column's own)")
    parser.add_argument(
        "-k", "--k", type=int, default=10, help="rows a search asks for (default %(default)s)"
    )
    parser.add_argument(
        "--budget-seconds",
        type=float,
        default=600.0,
        metavar="S",
        help="no candidate is begun that would take longer, after the current index (default %(default)g)",
    )
    parser.add_argument(
        "--sample-rows",
        type=int,
        default=50_000,
        metavar="N",
        help="rows of the largest copy that candidates are tried on (default %(default)s)",
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
        help="most that copies and an index may take (default: copies 2048, an index that is applied any)",
    )
    parser.add_argument(
        "--apply",
        action="store_true",
        help="build the best index CONCURRENTLY, learn about it, publish, and measure what was predicted",
    )
    parser.add_argument(
        "--drop-old",
        action="store_true",
        help="with --apply: drop the main index once the other serves with a proof and nothing needs it",
    )
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default %(default)s)")


def _advise(context: Context) -> None:
    from vectuned.daemon.advisor.advice_report import build_report, print_advice
    from vectuned.daemon.advisor.advisor import Advisor
    from vectuned.daemon.advisor.scratch_run import ScratchRun
    from vectuned.daemon.advisor.storage import read_existing_indexes

    options = context.options
    if options.drop_old and not options.apply:
        raise UsageError("--drop-old goes with --apply: an index is only dropped for one that serves.")
    _check(options)
    with context.database() as conninfo, context.session() as conn:
        tuned = _tuned(conn, options)
        wish = _wish(conn, tuned, options)
        report: dict[str, Any] = {}
        problem = None
        with ScratchRun.open(conn, tuned) as run:
            advice = Advisor(conn, conninfo, tuned, wish, context.console).advise(run)
            existing = read_existing_indexes(conn, tuned)
            report = build_report(conn, tuned, wish, advice, existing)
            if not context.console.as_json:
                print_advice(context.console, report)
            if options.apply:
                problem = _apply(context, conn, conninfo, tuned, wish, run, advice, existing, report)
    if context.console.as_json:
        context.console.document(report)
    if problem is not None:
        raise VectunedError(problem)


def _check(options: argparse.Namespace) -> None:
    for name, value, low, high in (
        ("--k", options.k, 1, 1000),
        ("--sample-rows", options.sample_rows, 100, 10**9),
        ("--budget-seconds", options.budget_seconds, 1, 10**6),
        ("--max-mb", options.max_mb, 1, 10**9),
        ("--target", options.target, 0.5, 0.999),
        ("--seed", options.seed, 0, 2**31 - 1),
    ):
        if value is not None and not low <= value <= high:
            raise UsageError(f"{name} must be between {low:g} and {high:g}, got {value:g}.")


def _tuned(conn: psycopg.Connection[Any], options: argparse.Namespace) -> TunedColumn:
    from vectuned.learning.model.tuned_columns import read_tuned_columns

    values = {"relation": options.relation, "column_name": options.column}
    number = conn.execute(queries()["find_column"], values).fetchall()[0][0]
    conn.execute(queries()["refresh_column"], {"column_id": number})
    tuned = read_tuned_columns(conn, number)[0]
    if not tuned.indexes:
        raise VectunedError(
            f"{tuned.column} has no index: create an HNSW or IVFFlat index and call vectuned.enable again."
        )
    return tuned


def _queries(conn: psycopg.Connection[Any], tuned: TunedColumn, given: str, k: int, seed: int) -> Singles:
    """Return the query vectors that are meant: so many recorded ones, or those of a file."""
    from vectuned.daemon.measure.query_files import read_query_vectors
    from vectuned.daemon.measure.sampling import MIN_SEARCHES, sample_searches
    from vectuned.learning.model.trajectory import drain

    if given.isdecimal() or given == "recorded":
        count = 2000 if given == "recorded" else int(given)
        if not MIN_SEARCHES <= count <= _MOST_QUERIES:
            raise UsageError(f"--queries must be between {MIN_SEARCHES} and {_MOST_QUERIES}, got {count}.")
        drain(conn)
        return sample_searches(conn, tuned, count, seed=seed).vectors
    found = read_query_vectors(Path(given), tuned.column)
    if not MIN_SEARCHES <= len(found) <= _MOST_QUERIES:
        raise UsageError(
            f"{given} holds {len(found)} queries, and it takes {MIN_SEARCHES} to {_MOST_QUERIES}."
        )
    return found


def _wish(conn: psycopg.Connection[Any], tuned: TunedColumn, options: argparse.Namespace) -> AdvisorOptions:
    from vectuned.daemon.advisor.advice import AdvisorOptions

    vectors = _queries(conn, tuned, options.queries, options.k, options.seed)
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
    conn: psycopg.Connection[Any],
    conninfo: str,
    tuned: TunedColumn,
    wish: AdvisorOptions,
    run: Any,
    advice: Advice,
    existing: list[ExistingIndex],
    report: dict[str, Any],
) -> str | None:
    """Put the advice into force; returns what kept it from what was asked for, if anything did."""
    from vectuned.daemon.advisor.advice_report import print_measurement
    from vectuned.daemon.advisor.apply import IndexReplacement
    from vectuned.daemon.advisor.index_statement import find_rival_index
    from vectuned.daemon.database.standby import using_standby
    from vectuned.daemon.service.worker import Worker

    console = context.console
    main = next((e for e in existing if e.number == tuned.indexes[0].number), None)
    winner_there = advice.current if report["winner"] is None else None
    if winner_there is not None and not (
        context.options.drop_old and main and main.name != winner_there.name
    ):
        return None  # the summary has said that nothing is worth changing
    with using_standby(context.settings) as standby:
        application = IndexReplacement(
            Worker(conn, context.settings, standby=standby), conninfo, tuned, wish, console
        )
        if winner_there is not None:
            winner, seconds = winner_there, None
        else:
            assert advice.winner is not None
            if (before := find_rival_index(advice.winner.definition, existing)) is not None:
                return (
                    f"{advice.winner.definition} cannot be proven beside {before.name}, which PostgreSQL "
                    "takes for the same statements: build it with the statement above and drop that one "
                    "by hand."
                )
            winner, seconds = application.build(run, advice)
        application.learn()
        applied: dict[str, Any] = {
            "index": winner.name,
            "built_seconds": None if seconds is None else round(seconds, 1),
            "serving": application.serving(),
            "dropped": None,
        }
        report["applied"] = applied
        if winner_there is None:
            applied["measured"] = application.measure(advice, winner)
            if not console.as_json:
                print_measurement(console, wish, applied)
        problem = None
        if context.options.drop_old and main is not None and main.name != winner.name:
            if objections := application.objections(winner, main):
                problem = f"{main.name} is kept: {'; '.join(objections)}."
            else:
                application.drop(main)
                applied["dropped"], applied["serving"] = main.name, application.serving()
                console.line(f"{main.name} was dropped. {_warning(tuned, main)}")
        return problem


def _warning(tuned: TunedColumn, old: ExistingIndex) -> str:
    return (
        f"Plain SQL that ordered by {tuned.column.name} through it has no index now, unless it is written "
        "for another; vectuned.search has."
    )


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    optional_column_arguments(parser)
    parser.add_argument(
        "--queries",
        default="recorded",
        metavar="FILE|recorded|N",
        help="a file of vectors (.npy, or a JSON array a line), or the newest recorded searches, up to N "
        "(default %(default)s: 2000)",
    )
    parser.add_argument(
        "-k", "--k", type=int, default=10, help="rows a search asks for (default %(default)s)"
    )
    parser.add_argument(
        "--target", type=float, metavar="R", help="of the best fixed setting (default: the column's)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default %(default)s)")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw recall against latency (needs matplotlib)"
    )


def _evaluate(context: Context) -> None:
    from vectuned.daemon.measure.evaluation import Evaluation, plot

    options, console = context.options, context.console
    for name, value, low, high in (("--k", options.k, 1, 1000), ("--target", options.target, 0.5, 0.999)):
        if value is not None and not low <= value <= high:
            raise UsageError(f"{name} must be between {low:g} and {high:g}, got {value:g}.")
    if options.plot is not None and find_spec("matplotlib") is None:
        raise UsageError("--plot needs matplotlib, which is not installed: pip install 'vectuned[plot]'.")
    if options.plot is not None and not options.plot.absolute().parent.is_dir():
        raise UsageError(f"--plot: the folder of {options.plot} does not exist.")
    with context.database() as conninfo, context.session() as conn:
        tuned = _tuned(conn, options)
        vectors = _queries(conn, tuned, options.queries, options.k, options.seed)
        comparison = Evaluation(conn, conninfo, tuned, vectors, options.k, options.target, options.seed)
        result = comparison.run(console)
    if options.plot is not None:
        plot(result, options.plot)
    if console.as_json:
        console.document(result)
        return
    _print_evaluation(console, result)


def _print_evaluation(console: Console, result: dict[str, Any]) -> None:
    rows = []
    for arm, each in result["arms"].items():
        figures = [
            _between(each[name], style)
            for name, style in (
                ("recall", ".3f"),
                ("below_08", ".1%"),
                ("mean_ms", ".2f"),
                ("p50_ms", ".2f"),
                ("p99_ms", ".2f"),
            )
        ]
        rows.append((arm, f"{each['queries']:,}", *figures))
    console.table(
        ("", "queries", f"recall@{result['k']}", "under 0.8", "mean ms", "p50 ms", "p99 ms"),
        rows,
        title=f"{result['relation']}.{result['column']}, {result['rows']:,} rows: the best "
        f"fixed setting was chosen by {result['chosen_by']:,} other queries; 95 % confidence each",
    )
    for arm, each in result["arms"].items():
        console.line(f"{arm}: {each['setting']}")
    ratio = result["vectuned_over_fixed"]
    console.line(
        f"vectuned takes {ratio['mean_ms']['value']:.2f} ({ratio['mean_ms']['at_least']:.2f} to "
        f"{ratio['mean_ms']['at_most']:.2f}) of the mean time of the best fixed setting, and "
        f"{ratio['p99_ms']['value']:.2f} of its p99."
    )


def _between(figure: dict[str, float], style: str) -> str:
    value, low, high = (format(figure[name], style) for name in ("value", "at_least", "at_most"))
    return f"{value} ({low} to {high})"


COMMANDS: Final = (
    Command(
        "advise",
        "find out by trying which index a column should have",
        "Builds candidate indexes over copies of a sample of the rows, replays searches through each, "
        "compares them with the index in use, and prints what each would cost at the target, with the "
        "statement. Ctrl-C ends it at any time and clears up; what a run that was killed left is cleared up "
        "by the next.",
        _advise_arguments,
        _advise,
    ),
    Command(
        "evaluate",
        "compare the default, the best fixed setting, vectuned and exact search",
        "Half of the queries choose the best fixed setting of the main index, all four are judged on the "
        "other half, in shuffled blocks. Nothing of it is recorded.",
        _evaluate_arguments,
        _evaluate,
    ),
)
