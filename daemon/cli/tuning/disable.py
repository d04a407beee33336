"""The command `vectuned disable`: stop tuning a column."""

from __future__ import annotations

import argparse
from typing import Final

from vectuned.daemon.cli.arguments import add_column_arguments
from vectuned.daemon.cli.command import Command, Context
from vectuned.sql.rows import execute


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_column_arguments(parser)
    parser.add_argument("--forget", action="store_true", help="also delete what was recorded and learned")


def _run(context: Context) -> None:
    options, console = context.options, context.console
    values = {"relation": options.relation, "column_name": options.column, "forget": options.forget}
    with context.session() as conn:
        execute(conn, "disable", values)
    if console.as_json:
        console.document(values)
    effect = (
        "what was recorded and learned is deleted"
        if options.forget
        else "searches continue with the default effort"
    )
    console.line(f"{options.relation}.{options.column} is no longer tuned; {effect}")


COMMAND: Final = Command(
    name="disable",
    summary="stop recording and learning for a column",
    description="Searches continue with the default effort.",
    example="vectuned disable items embedding",
    run=_run,
    add_arguments=_add_arguments,
)
