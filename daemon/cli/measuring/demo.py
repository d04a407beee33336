"""The command `vectuned demo`: what vectuned gains on a real data set."""

from __future__ import annotations

import argparse
from typing import Final

from vectuned.config.errors import UsageError
from vectuned.daemon.cli.command import Command, Context
from vectuned.daemon.database.choice import choose_database, open_database


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--queries", type=int, default=1500, help="queries to learn from (default: %(default)s)"
    )
    parser.add_argument(
        "--held-out", type=int, default=1000, help="queries to compare on (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of all random choices (default: %(default)s)"
    )


def _run(context: Context) -> None:
    from vectuned.daemon.demo.demo import demo
    from vectuned.daemon.demo.demo_data import DemoSizes

    options, settings, console = context.options, context.settings, context.console
    if not (500 <= options.queries <= 30000 and 100 <= options.held_out <= 10000):
        raise UsageError("--queries must be between 500 and 30000, and --held-out between 100 and 10000.")
    # The embedded server unless a DSN is given: libpq's variables may name a production server.
    choice = choose_database(settings.database.dsn, {})
    with open_database(choice, context.embedded_home) as conninfo:
        embedded = f"the embedded server in {context.embedded_home}"
        server = embedded if choice.is_embedded else "the database of the DSN"
        console.say(f"Using {server}, schema vectuned_demo.")
        sizes = DemoSizes(options.queries, options.held_out, options.seed)
        result = demo(conninfo, settings, sizes, console)
    if console.as_json:
        console.document(result)


COMMAND: Final = Command(
    name="demo",
    summary="compare pgvector's defaults with vectuned on a real data set",
    description="Loads WordNet's 117,659 glosses into the embedded server (with --dsn, into the schema "
    "vectuned_demo there), builds an HNSW index with the default options, lets vectuned learn from real "
    "queries, and compares both on held-out queries. Takes three to six minutes.",
    example="vectuned demo",
    run=_run,
    add_arguments=_add_arguments,
    scope="all databases",
)
