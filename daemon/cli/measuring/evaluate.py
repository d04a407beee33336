"""The command `vectuned evaluate`: default, best fixed setting, vectuned and exact search compared."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from vectuned.config.errors import UsageError
from vectuned.daemon.cli.arguments import add_optional_column_arguments, add_search_arguments, check_range
from vectuned.daemon.cli.command import Command, Context
from vectuned.daemon.cli.measuring.query_vectors import find_tuned_column, load_queries
from vectuned.daemon.console import Console

# Figures of an arm, and how each is formatted.
_FIGURES: Final = (
    ("recall", ".3f"),
    ("below_08", ".1%"),
    ("mean_ms", ".2f"),
    ("p50_ms", ".2f"),
    ("p99_ms", ".2f"),
)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_optional_column_arguments(parser)
    parser.add_argument(
        "--queries",
        default="recorded",
        metavar="FILE|recorded|N",
        help="a file of vectors (.npy, or one JSON array per line), or the newest recorded searches, at most "
        "N (default: %(default)s, at most 2000)",
    )
    add_search_arguments(
        parser, target_help="recall that the best fixed setting must reach (default: the column's target)"
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="plot recall against latency (needs matplotlib)"
    )


def _run(context: Context) -> None:
    from vectuned.daemon.measure.evaluation import Evaluation, plot

    options, console = context.options, context.console
    _check_options(options)
    with context.database() as conninfo, context.session() as conn:
        tuned = find_tuned_column(conn, options)
        vectors = load_queries(conn, tuned, options)
        evaluation = Evaluation(conn, conninfo, tuned, vectors, options.k, options.target, options.seed)
        result = evaluation.run(console)
    if options.plot is not None:
        plot(result, options.plot)
    if console.as_json:
        console.document(result)
        return
    _print_result(console, result)


def _check_options(options: argparse.Namespace) -> None:
    check_range("--k", options.k, 1, 1000)
    check_range("--target", options.target, 0.5, 0.999)
    if options.plot is not None and find_spec("matplotlib") is None:
        raise UsageError("--plot needs matplotlib, which is not installed: pip install 'vectuned[plot]'.")
    if options.plot is not None and not options.plot.absolute().parent.is_dir():
        raise UsageError(f"--plot: the folder of {options.plot} does not exist; create it first.")


def _print_result(console: Console, result: dict[str, Any]) -> None:
    arms = result["arms"]
    rows = [
        (
            name,
            f"{arm['queries']:,}",
            *(_format_interval(arm[figure], style) for figure, style in _FIGURES),
        )
        for name, arm in arms.items()
    ]
    console.table(
        ("", "queries", f"recall@{result['k']}", "under 0.8", "mean ms", "p50 ms", "p99 ms"),
        rows,
        title=f"{result['relation']}.{result['column']}, {result['rows']:,} rows: the best "
        f"fixed setting was chosen by {result['chosen_by']:,} other queries; 95 % confidence each",
    )
    for name, arm in arms.items():
        console.line(f"{name}: {arm['setting']}")
    ratio = result["vectuned_over_fixed"]
    console.line(
        f"vectuned takes {ratio['mean_ms']['value']:.2f} ({ratio['mean_ms']['at_least']:.2f} to "
        f"{ratio['mean_ms']['at_most']:.2f}) times the mean time of the best fixed setting, and "
        f"{ratio['p99_ms']['value']:.2f} times its p99."
    )


def _format_interval(figure: dict[str, float], style: str) -> str:
    value, low, high = (format(figure[name], style) for name in ("value", "at_least", "at_most"))
    return f"{value} ({low} to {high})"


COMMAND: Final = Command(
    name="evaluate",
    summary="compare the default, the best fixed setting, vectuned and exact search",
    description="One half of the queries chooses the best fixed setting of the main index; the other half "
    "measures all four, in shuffled blocks. These searches are not recorded.",
    example="vectuned evaluate items --queries recorded --plot items.png",
    run=_run,
    add_arguments=_add_arguments,
)
