"""The command `vectuned check`: what is wrong with the vector searches of a database, within a minute."""

from __future__ import annotations

import argparse
from typing import Final

from vectuned.config.errors import VectunedError
from vectuned.daemon.cli.arguments import check_range
from vectuned.daemon.cli.command import Command, Context


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seconds",
        type=float,
        default=50.0,
        metavar="S",
        help="begin no measurement after this time (default: %(default)g)",
    )
    parser.add_argument(
        "--target",
        type=float,
        default=0.95,
        metavar="R",
        help="recall@10 below which searches are reported as a problem (default: %(default)g)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the values that filters are given (default: %(default)s)"
    )


def _run(context: Context) -> None:
    # numpy and scipy take half a second to import, which no other command need wait for.
    from vectuned.daemon.check.check import check
    from vectuned.daemon.check.report import count_of

    options, console = context.options, context.console
    check_range("--seconds", options.seconds, 0, 86400)
    check_range("--target", options.target, 0.5, 0.999)
    with context.connection() as conn:
        report = check(conn, console, seconds=options.seconds, target=options.target, seed=options.seed)
    if console.as_json:
        console.document(report.as_dict())
    if not report.is_healthy:
        count = sum(finding.severity == "problem" for finding in report.findings)
        raise VectunedError(f"{count_of(count, 'problem')} found in database {report.server.database}.")


COMMAND: Final = Command(
    "check",
    "find what is wrong with a database's vector searches",
    "Looks at every vector column, its indexes and the statements in pg_stat_statements, and measures "
    "recall@10 with rows of the tables as queries: unfiltered, by the columns that indexes suggest as "
    "filters, and with other settings. It writes nothing and needs neither vectuned's schema nor more rights "
    "than SELECT. Exit code 1 if anything is a problem.",
    "vectuned check --dsn postgresql://user@host/database",
    _run,
    _add_arguments,
)
