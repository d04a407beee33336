"""The command `vectuned enable`: begin to tune a column."""

from __future__ import annotations

import argparse
from typing import Final

from vectuned.daemon.cli.arguments import add_column_arguments
from vectuned.daemon.cli.command import Command, Context
from vectuned.sql.rows import fetch_row, fetch_value


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_column_arguments(parser)
    parser.add_argument(
        "--target-recall",
        type=float,
        metavar="R",
        help="recall that searches must reach (default: 0.95)",
    )
    parser.add_argument(
        "--max-tail",
        type=float,
        metavar="P",
        help="largest tolerated share of searches with a recall under 0.8 (default: 2.5 times the share "
        "that --target-recall leaves)",
    )
    parser.add_argument(
        "--sample-rate",
        type=float,
        metavar="P",
        help="share of searches to record (default: 0.05)",
    )
    parser.add_argument(
        "--trajectory-window",
        type=int,
        metavar="N",
        help="learn from the newest N replays (default: 10000)",
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        metavar="R",
        help="share by which the weight of a replay falls with every --min-samples newer ones (default: 0.1)",
    )
    parser.add_argument(
        "--min-samples",
        type=int,
        metavar="N",
        help="replays before anything is published (default: 200)",
    )
    parser.add_argument(
        "--max-effort",
        type=int,
        metavar="N",
        help="highest ef_search or probes that may serve, proven or not; 0 lifts the cap (default: none)",
    )
    parser.add_argument(
        "--max-ms",
        type=float,
        metavar="MS",
        help="highest mean ms of a search, by its replays, that may serve; 0 lifts the cap (default: none)",
    )
    exact = parser.add_mutually_exclusive_group()
    exact.add_argument(
        "--exact-if-unreachable",
        dest="exact_if_unreachable",
        action="store_const",
        const=True,
        help="search exactly where no setting of the index reaches --target-recall, within --max-ms",
    )
    exact.add_argument(
        "--best-if-unreachable",
        dest="exact_if_unreachable",
        action="store_const",
        const=False,
        help="serve the best that the index gives there (default)",
    )
    vectors = parser.add_mutually_exclusive_group()
    vectors.add_argument(
        "--forget-vectors",
        dest="store_vectors",
        action="store_const",
        const=False,
        help="delete each query vector once it has been replayed",
    )
    vectors.add_argument(
        "--keep-vectors",
        dest="store_vectors",
        action="store_const",
        const=True,
        help="keep the query vectors (default)",
    )


def _run(context: Context) -> None:
    options, console = context.options, context.console
    values = {
        "relation": options.relation,
        "column_name": options.column,
        "target_recall": options.target_recall,
        "max_tail": options.max_tail,
        "sample_rate": options.sample_rate,
        "trajectory_window": options.trajectory_window,
        "learning_rate": options.learning_rate,
        "min_samples": options.min_samples,
        "store_vectors": options.store_vectors,
        "max_effort": options.max_effort,
        "max_ms": options.max_ms,
        "exact_if_unreachable": options.exact_if_unreachable,
    }
    with context.session() as conn:
        conn.add_notice_handler(lambda notice: console.say(str(notice.message_primary)))
        message = str(fetch_value(conn, "enable", values))
        served = fetch_row(conn, "column_options", values)
    if console.as_json:
        console.document({**values, **served._asdict(), "message": message})
    console.line(message)


COMMAND: Final = Command(
    name="enable",
    summary="tune a vector column",
    description="Records a share of the column's searches and learns from them. Run it again to change an "
    "option; the others keep their values.",
    example="vectuned enable items embedding --target-recall 0.98",
    run=_run,
    add_arguments=_add_arguments,
)
