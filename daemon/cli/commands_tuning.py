"""The commands that tune and measure a column at once, in the foreground."""

from __future__ import annotations

import argparse
import json
from typing import Any, Final

import psycopg

from vectuned.config.errors import UsageError
from vectuned.daemon.console import Console
from vectuned.sql.files import queries

from .command import Command, Context, optional_column_arguments

_LABELS: Final = {
    "auto_tune": "replaying searches of",
    "benchmark_recall": "measuring the recall of",
    "benchmark_latency": "measuring the latency of",
}


def _tune_arguments(parser: argparse.ArgumentParser) -> None:
    optional_column_arguments(parser)
    parser.add_argument(
        "--optimize-for",
        choices=("recall", "latency", "balanced"),
        default="balanced",
        help="recall: the highest proven target within twice the time; latency: the quickest proven setting "
        "of the current target; balanced: the knee of time against recall (default %(default)s)",
    )
    parser.add_argument(
        "--sample-queries",
        type=int,
        default=1000,
        metavar="N",
        help="recorded searches to replay first, 0 to 10000 (default %(default)s)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="only report: target and what serves stay as they are"
    )


def _tune(context: Context) -> None:
    options = context.options
    arguments = {
        "optimize_for": options.optimize_for,
        "sample_queries": options.sample_queries,
        "apply": not options.dry_run,
    }
    result = _do(context, "auto_tune", arguments)
    if context.console.as_json:
        context.console.document(result)
        return
    context.console.line(result["summary"])
    rows = [
        (
            f"{price['target']:g}",
            "proven" if price["proven"] else "unproven",
            f"{price['ms']:.2f}",
            ", ".join(f"k {k}: {setting}" for k, setting in price["settings"].items()),
        )
        for price in result.get("targets", ())
    ]
    if rows:
        context.console.table(("target", "", "ms of replays", "settings"), rows, left=2)


def _benchmark_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("recall", "latency"), help="latency measures the recall as well")
    optional_column_arguments(parser)
    parser.add_argument("-k", type=int, default=10, help="rows a search asks for (default %(default)s)")
    parser.add_argument(
        "--sample-queries",
        type=int,
        default=200,
        metavar="N",
        help="recorded searches to measure with, 20 to 10000 (default %(default)s)",
    )
    parser.add_argument(
        "--percentiles", metavar="P,...", help="of the latency, shares from 0 to 1 (default 0.5,0.9,0.99)"
    )
    parser.add_argument(
        "--filter",
        choices=("without", "with", "both"),
        default="without",
        dest="filtered",
        help="searches recorded without a filter, with one, or both (default %(default)s)",
    )
    parser.add_argument(
        "--perturbed",
        action="store_true",
        help="fill up with rows of the table that are moved a little, which are not a fair sample",
    )


def _benchmark(context: Context) -> None:
    options = context.options
    arguments: dict[str, Any] = {
        "k": options.k,
        "sample_queries": options.sample_queries,
        "perturbed": options.perturbed,
        "filtered": {"without": False, "with": True, "both": None}[options.filtered],
    }
    if options.what == "latency":
        arguments["percentiles"] = _shares(options.percentiles or "0.5,0.9,0.99")
    elif options.percentiles is not None:
        raise UsageError("--percentiles are of the latency: vectuned benchmark latency.")
    result = _do(context, f"benchmark_{options.what}", arguments)
    if context.console.as_json:
        context.console.document(result)
        return
    _print_benchmark(context.console, result)


def _shares(text: str) -> list[float]:
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = [float("nan")]
    if not all(0.0 <= share <= 1.0 for share in shares):
        raise UsageError(f"--percentiles must be numbers from 0 to 1, such as 0.5,0.99, not {text}.")
    return shares


def _print_benchmark(console: Console, result: dict[str, Any]) -> None:
    ways = {"vectuned": result["served"], "plain SQL": result["default"]}
    timed = "percentiles_ms" in result["served"]
    shares = list(result["served"].get("percentiles_ms", ()))
    headings = [
        "",
        "setting",
        f"recall@{result['k']}",
        "at least",
        "at most",
        "under 0.8",
        *(["mean ms", *(f"p{100 * float(share):g} ms" for share in shares)] if timed else []),
    ]
    rows = []
    for name, each in ways.items():
        figures = [
            "unknown" if each["recall"] is None else f"{each['recall']:.3f}",
            f"{each['recall_at_least']:.3f}",
            f"{each['recall_at_most']:.3f}",
            "unknown" if each["below_08"] is None else f"{100 * each['below_08']:.1f}%",
        ]
        if timed:
            figures += [f"{ms:.2f}" for ms in (each["mean_ms"], *each["percentiles_ms"].values())]
        rows.append([name, each["setting"], *figures])
    count = result["queries"]["recorded"] + result["queries"]["perturbed_rows"]
    title = (
        f"{result['relation']}.{result['column']}: {count} searches against {result['rows']:,} rows, "
        f"each bound with {100 * result['confidence']:g} % confidence"
    )
    console.table(headings, rows, title=title, left=2)
    if result["queries"]["note"] is not None:
        console.line(result["queries"]["note"])


def _do(context: Context, kind: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Do at once what SQL asks the daemon for, and return the result."""
    from vectuned.daemon.database.standby import using_standby
    from vectuned.daemon.service.requests import prepare
    from vectuned.daemon.service.worker import Worker

    options = context.options
    with context.session() as conn, using_standby(context.settings) as standby:
        conn.execute(queries()["check_request"], {"kind": kind, "arguments": json.dumps(arguments)})
        found = _find(conn, options.relation, options.column)
        job = prepare(Worker(conn, context.settings, standby=standby), found, kind, arguments)
        with context.console.progress(f"{_LABELS[kind]} {options.relation}", job.total) as progress:
            return job.run(progress)


def _find(conn: psycopg.Connection[Any], relation: str, column: str | None) -> int:
    row = conn.execute(queries()["find_column"], {"relation": relation, "column_name": column}).fetchone()
    assert row is not None
    return int(row[0])


COMMANDS: Final = (
    Command(
        "tune",
        "replay, choose a target for an objective, learn and publish now",
        "Replays recorded searches, weighs the targets that are proven (the current one and 0.9, 0.95, 0.98, "
        "0.99, 0.995 above it), sets the chosen one, learns and publishes. The target is never lowered.",
        _tune_arguments,
        _tune,
    ),
    Command(
        "benchmark",
        "measure the recall or the latency of what serves, next to plain SQL",
        "Repeats recorded searches through vectuned.search and by plain SQL at the server's default setting, "
        "and holds both against the exact answers in one snapshot. Nothing of it is recorded.",
        _benchmark_arguments,
        _benchmark,
    ),
)
