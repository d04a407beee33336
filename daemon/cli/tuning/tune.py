"""The command `vectuned tune`: choose a target for an objective."""

from __future__ import annotations

import argparse
from typing import Final

from vectuned.daemon.cli.arguments import add_optional_column_arguments
from vectuned.daemon.cli.command import Command, Context
from vectuned.daemon.cli.requests import run_request


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_optional_column_arguments(parser)
    parser.add_argument(
        "--optimize-for",
        choices=("recall", "latency", "balanced"),
        default="balanced",
        help="recall: the highest proven target within twice the time; latency: the quickest proven setting "
        "of the current target; balanced: the knee of time against recall (default: %(default)s)",
    )
    parser.add_argument(
        "--sample-queries",
        type=int,
        default=1000,
        metavar="N",
        help="recorded searches to replay first, 0 to 10000 (default: %(default)s)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="only report: change neither the target nor the settings"
    )


def _run(context: Context) -> None:
    options, console = context.options, context.console
    arguments = {
        "optimize_for": options.optimize_for,
        "sample_queries": options.sample_queries,
        "apply": not options.dry_run,
    }
    result = run_request(context, "auto_tune", arguments)
    if console.as_json:
        console.document(result)
        return
    console.line(result["summary"])
    rows = [
        (
            f"{target['target']:g}",
            "proven" if target["proven"] else "unproven",
            f"{target['ms']:.2f}",
            ", ".join(f"k {k}: {setting}" for k, setting in target["settings"].items()),
        )
        for target in result.get("targets", ())
    ]
    if rows:
        console.table(("target", "", "ms of replays", "settings"), rows, left=2)


COMMAND: Final = Command(
    name="tune",
    summary="replay, choose a target for an objective, learn and publish now",
    description="Replays recorded searches, weighs the targets that are proven (the current one, and those "
    "of 0.9, 0.95, 0.98, 0.99 and 0.995 above it), sets the chosen one, learns and publishes. The target "
    "is never lowered.",
    example="vectuned tune items --optimize-for latency --dry-run",
    run=_run,
    add_arguments=_add_arguments,
)
