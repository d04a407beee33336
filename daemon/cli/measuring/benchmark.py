"""The command `vectuned benchmark`: the recall or latency of tuned searches beside plain SQL."""

from __future__ import annotations

import argparse
from typing import Any, Final

from vectuned.config.errors import UsageError
from vectuned.daemon.cli.arguments import add_optional_column_arguments
from vectuned.daemon.cli.command import Command, Context
from vectuned.daemon.cli.requests import run_request
from vectuned.daemon.console import Console

_PERCENTILES: Final = "0.5,0.9,0.99"
# The argument `filtered` of the request: None takes searches with and without a filter.
_FILTERED: Final = {"without": False, "with": True, "both": None}


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("measure", choices=("recall", "latency"), help="latency measures the recall as well")
    add_optional_column_arguments(parser)
    parser.add_argument("-k", type=int, default=10, help="rows per search (default: %(default)s)")
    parser.add_argument(
        "--sample-queries",
        type=int,
        default=200,
        metavar="N",
        help="recorded searches to measure with, 20 to 10000 (default: %(default)s)",
    )
    parser.add_argument(
        "--percentiles",
        metavar="P,...",
        help=f"percentiles of the latency, as shares from 0 to 1 (default: {_PERCENTILES})",
    )
    parser.add_argument(
        "--filter",
        choices=tuple(_FILTERED),
        default="without",
        dest="filtered",
        help="searches that were recorded without a filter, with one, or both (default: %(default)s)",
    )
    parser.add_argument(
        "--perturbed",
        action="store_true",
        help="if too few searches are recorded, add rows of the table moved a little, which are not a fair "
        "sample",
    )


def _run(context: Context) -> None:
    options, console = context.options, context.console
    arguments: dict[str, Any] = {
        "k": options.k,
        "sample_queries": options.sample_queries,
        "perturbed": options.perturbed,
        "filtered": _FILTERED[options.filtered],
    }
    if options.measure == "latency":
        arguments["percentiles"] = _parse_shares(options.percentiles or _PERCENTILES)
    elif options.percentiles is not None:
        raise UsageError("--percentiles are percentiles of the latency: use `vectuned benchmark latency`.")
    result = run_request(context, f"benchmark_{options.measure}", arguments)
    if console.as_json:
        console.document(result)
        return
    _print_result(console, result)


def _parse_shares(text: str) -> list[float]:
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = [float("nan")]
    if not all(0.0 <= share <= 1.0 for share in shares):
        raise UsageError(f"--percentiles must be numbers from 0 to 1, such as 0.5,0.99, not {text}.")
    return shares


def _print_result(console: Console, result: dict[str, Any]) -> None:
    has_times = "percentiles_ms" in result["served"]
    shares = list(result["served"].get("percentiles_ms", ()))
    headings = [
        "",
        "setting",
        f"recall@{result['k']}",
        "at least",
        "at most",
        "under 0.8",
        *(["mean ms", *(f"p{100 * float(share):g} ms" for share in shares)] if has_times else []),
    ]
    rows = []
    for name, figures in (("vectuned", result["served"]), ("plain SQL", result["default"])):
        cells = [
            name,
            figures["setting"],
            "unknown" if figures["recall"] is None else f"{figures['recall']:.3f}",
            f"{figures['recall_at_least']:.3f}",
            f"{figures['recall_at_most']:.3f}",
            "unknown" if figures["below_08"] is None else f"{100 * figures['below_08']:.1f}%",
        ]
        if has_times:
            cells += [f"{ms:.2f}" for ms in (figures["mean_ms"], *figures["percentiles_ms"].values())]
        rows.append(cells)
    queries = result["queries"]
    count = queries["recorded"] + queries["perturbed_rows"]
    title = (
        f"{result['relation']}.{result['column']}: {count} searches against {result['rows']:,} rows, "
        f"each bound with {100 * result['confidence']:g} % confidence"
    )
    console.table(headings, rows, title=title, left=2)
    if queries["note"] is not None:
        console.line(queries["note"])


COMMAND: Final = Command(
    name="benchmark",
    summary="measure the recall or latency of tuned searches beside plain SQL",
    description="Repeats recorded searches through vectuned.search, and by plain SQL at the server's default "
    "setting, and compares both with the exact answers in one snapshot. These searches are not recorded.",
    example="vectuned benchmark latency items -k 20 --percentiles 0.5,0.99",
    run=_run,
    add_arguments=_add_arguments,
)
