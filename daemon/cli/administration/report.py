"""The command `vectuned report`: the HTML report."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from vectuned.config.atomic_file import replace_file
from vectuned.config.errors import UsageError
from vectuned.daemon.cli.command import Command, Context, raise_failures


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        default="vectuned-report.html",
        help="file to write, - for stdout (default: %(default)s)",
    )


def _run(context: Context) -> None:
    from vectuned.daemon.reports.report import render_report

    output = context.options.output
    with context.session() as conn:
        report = render_report(conn)
    if output == "-":
        sys.stdout.write(report.html)
    else:
        _write(context, Path(output), report.html)
    raise_failures(report.failures, report.columns, "shown")


def _write(context: Context, path: Path, html: str) -> None:
    try:
        with replace_file(path) as file:
            file.write(html.encode())
    except OSError as error:
        raise UsageError(
            f"The report cannot be written to {path}: {error.strerror}; name another file with --output."
        ) from error
    if context.console.as_json:
        context.console.document({"file": str(path.resolve()), "bytes": len(html.encode())})
    context.console.line(f"report written to {path}")


COMMAND: Final = Command(
    name="report",
    summary="write everything known about the tuned columns to one HTML file",
    description="The report holds recall with its bound over time, recall against time of every path, the "
    "path in service and why, advice, patterns and events. The file is self-contained: it loads nothing "
    "from elsewhere.",
    example="vectuned report -o /var/www/html/vectuned.html",
    run=_run,
    add_arguments=_add_arguments,
)
