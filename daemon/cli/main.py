"""The command line: answers on stdout, talk and logs on stderr, errors one sentence and an exit code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import psycopg

import vectuned
from vectuned.config.errors import UsageError, VectunedError, printable
from vectuned.config.settings import Settings
from vectuned.daemon.console import Console
from vectuned.daemon.logs import set_up_logging

from .command import COMMANDS, Command, Context
from .commands_advise import COMMANDS as ADVISE_COMMANDS
from .commands_ask import COMMANDS as ASK_COMMANDS
from .commands_config import COMMANDS as CONFIG_COMMANDS
from .commands_config import assignment, load
from .commands_entities import COMMANDS as ENTITY_COMMANDS
from .commands_exchange import COMMANDS as EXCHANGE_COMMANDS
from .commands_report import COMMANDS as REPORT_COMMANDS
from .commands_tuning import COMMANDS as TUNING_COMMANDS

EXIT_INTERRUPTED = 130


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; `help` of each says what it does and prints."""
    common = argparse.ArgumentParser(add_help=False)
    place = common.add_argument_group("database and configuration")
    place.add_argument(
        "--dsn",
        metavar="DSN",
        help="connection string or URI; else libpq's PG* variables, and without those the embedded server",
    )
    place.add_argument(
        "--config", metavar="FILE", type=Path, help="TOML file (default: $VECTUNED_CONFIG if set)"
    )
    place.add_argument(
        "--set",
        metavar="SECTION.KEY=VALUE",
        type=assignment,
        action="append",
        default=[],
        help="override one setting, such as budget.core_share=0.5; may be repeated",
    )
    talk = common.add_argument_group("output")
    talk.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    talk.add_argument("-q", "--quiet", action="store_true", help="no talk and no progress on stderr")
    talk.add_argument("-v", "--verbose", action="store_true", help="log what is done on stderr")

    parser = argparse.ArgumentParser(
        prog="vectuned",
        description="A self-learning search tuner for PostgreSQL and pgvector.",
        epilog="Exit codes: 0 done, 1 failed, 2 usage, 69 database unavailable, 78 configuration.",
    )
    parser.add_argument("--version", action="version", version=f"vectuned {vectuned.__version__}")
    verbs = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in (
        *COMMANDS,
        *TUNING_COMMANDS,
        *ADVISE_COMMANDS,
        *EXCHANGE_COMMANDS,
        *CONFIG_COMMANDS,
        *REPORT_COMMANDS,
        *ENTITY_COMMANDS,
        *ASK_COMMANDS,
    ):
        verb = verbs.add_parser(
            command.name, parents=[common], help=command.summary, description=command.description
        )
        command.arguments(verb)
        if command.takes == "one database":
            verb.add_argument(
                "--database", metavar="NAME", help="which of [databases.*] of the configuration, if several"
            )
        verb.set_defaults(command=command)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = build_parser().parse_args(arguments)
    console = Console(as_json=options.json, quiet=options.quiet)
    try:
        settings = _settings(options.command, options)
        set_up_logging(settings.logging, verbose=options.verbose or options.command.name == "run")
        options.command.run(Context(options, settings, console, lambda: _settings(options.command, options)))
    except VectunedError as error:
        return _fail(str(error), error.exit_code)
    except psycopg.Error as error:
        return _fail(*_of_the_server(error))
    except KeyboardInterrupt:
        return _fail("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has gone; say nothing more to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _settings(command: Command, options: argparse.Namespace) -> Settings:
    if command.takes == "no settings":
        return Settings()
    settings = load(options).settings
    if command.takes == "all databases":
        return settings
    if options.dsn is not None and options.database is not None:
        raise UsageError("--dsn and --database both choose the database: give one of them.")
    return settings.of_database(options.database)


def _of_the_server(error: psycopg.Error) -> tuple[str, int]:
    """Turn what the server said into a sentence, its hint and an exit code."""
    said = error.diag.message_primary or str(error).strip().splitlines()[0]
    hint = f" ({error.diag.message_hint})" if error.diag.message_hint else ""
    if said.startswith("permission denied for function"):
        role = "vectuned_daemon" if said.startswith("permission denied for function _") else "vectuned_admin"
        hint = f" (it takes a member of the role {role}: see `vectuned migrate --roles`)"
    state = error.sqlstate or ""
    lost = isinstance(error, psycopg.OperationalError) and (not state or state[:2] in ("08", "57"))
    return f"{said}{hint}", 69 if lost else 2 if state[:2] in ("22", "42") else 1


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"vectuned: {printable(message, 10_000)}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
