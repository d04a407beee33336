"""The command that writes the report."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from vectuned.config.atomic_file import replace_file
from vectuned.config.errors import UsageError

from .command import Command, Context


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        default="vectuned-report.html",
        help="where to write it, - for stdout (default %(default)s)",
    )


def _report(context: Context) -> None:
    from vectuned.daemon.reports.report import render_report

    target = context.options.output
    with context.session() as conn:
        document = render_report(conn)
    if target == "-":
        sys.stdout.write(document)
        return
    path = Path(target)
    try:
        with replace_file(path) as file:
            file.write(document.encode())
    except OSError as error:
        raise UsageError(f"The report cannot be written to {path}: {error.strerror}.") from error
    if context.console.as_json:
        context.console.document({"file": str(path.resolve()), "bytes": len(document.encode())})
    context.console.line(f"report written to {path}")


COMMANDS: Final = (
    Command(
        "report",
        "write everything known of the tuned columns into one HTML file",
        "Recall with its bound over time, recall against time of every path, what serves and why, advice, "
        "patterns and events. The file needs nothing else and loads nothing.",
        _arguments,
        _report,
    ),
)
