"""The command `vectuned status`: what is tuned and how well."""

from __future__ import annotations

import argparse
from contextlib import suppress
from typing import Final

from vectuned.config.errors import UsageError
from vectuned.daemon.cli.command import Command, Context, raise_failures
from vectuned.daemon.reports import status

# Seconds between two looks. Below a tenth the screen flickers; above an hour it is a job for cron.
_SHORTEST_WATCH: Final = 0.1
_LONGEST_WATCH: Final = 3600  # seconds
_DEFAULT_WATCH: Final = 2.0  # seconds, as of watch(1)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--watch",
        type=float,
        nargs="?",
        const=_DEFAULT_WATCH,
        metavar="SECONDS",
        help="show it again every SECONDS (2 if omitted) until interrupted",
    )


def _run(context: Context) -> None:
    console = context.console
    if context.options.watch is not None:
        _watch(context, context.options.watch)
        return
    with context.session() as conn:
        columns, daemon = status.read(conn), status.read_daemon(conn)
    if console.as_json:
        console.document({"columns": columns, **daemon})
    else:
        status.show(console, columns)
        status.show_daemon(console, daemon)
    raise_failures(status.unread_columns(columns), len(columns), "shown")


def _watch(context: Context, seconds: float) -> None:
    if not _SHORTEST_WATCH <= seconds <= _LONGEST_WATCH:
        raise UsageError(f"--watch takes {_SHORTEST_WATCH} to {_LONGEST_WATCH} seconds, not {seconds:g}.")
    with context.database() as conninfo, suppress(KeyboardInterrupt):  # Ctrl-C is how to end it
        status.watch(context.console, lambda: context.open_session(conninfo), seconds)


COMMAND: Final = Command(
    name="status",
    summary="show the tuned columns, what they are searched with, and why",
    description="Prints a paragraph for each tuned column and a row for each class of k.",
    example="vectuned status --watch 5",
    run=_run,
    add_arguments=_add_arguments,
)
