"""The command `vectuned report`: the HTML report, as a file or as a page that updates itself."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import Final

from psycopg.conninfo import conninfo_to_dict

from vectuned.config.atomic_file import replace_file
from vectuned.config.errors import UsageError
from vectuned.config.sections import LISTEN_PATTERN
from vectuned.daemon.cli.command import Command, Context, raise_failures

_FILE: Final = "vectuned-report.html"
_ENDS: Final = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C, and what service managers send


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    target = parser.add_mutually_exclusive_group()
    target.add_argument(
        "-o", "--output", metavar="FILE", help=f"file to write, - for stdout (default: {_FILE})"
    )
    target.add_argument(
        "--serve",
        metavar="ADDRESS:PORT",
        type=_parse_address,
        help="serve the report until interrupted, as a page that updates itself",
    )


def _parse_address(text: str) -> str:
    if not LISTEN_PATTERN.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no address and port, such as 127.0.0.1:8432")
    return text


def _run(context: Context) -> None:
    from vectuned.daemon.reports.report import render_report

    if context.options.serve is not None:
        _serve(context, context.options.serve)
        return
    output = context.options.output or _FILE
    with context.session() as conn:
        report = render_report(conn)
    if output == "-":
        sys.stdout.write(report.html)
    else:
        _write(context, Path(output), report.html)
    raise_failures(report.failures, report.columns, "shown")


def _serve(context: Context, listen: str) -> None:
    from vectuned.daemon.reports.web import serve_report

    with context.database() as conninfo:
        context.open_session(conninfo).close()  # what is wrong with the database is an error of the command
        name = str(conninfo_to_dict(conninfo).get("dbname") or "default")
        # Blocked in the threads too, which inherit it, so that the signal waits for sigwait.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)
        try:
            with serve_report(listen, {name: lambda: context.open_session(conninfo)}) as url:
                context.console.record({"url": url})
                context.console.line(f"report at {url} until Ctrl-C")
                signal.sigwait(_ENDS)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
    summary="show everything known about the tuned columns in a browser",
    description="The report says for each column whether recall is all right and where it is not, what "
    "vectuned gained, and what there is to do. It also holds recall with its bound over time, recall against "
    "time of every path, the path in service and why, advice, patterns and events. It loads nothing from "
    "elsewhere. --serve shows it as a page that updates itself every 30 seconds; all who can connect to the "
    "address can read it.",
    example="vectuned report --serve 127.0.0.1:8432",
    run=_run,
    add_arguments=_add_arguments,
)
