"""The command line: parses it, runs the command, and turns errors into one sentence and an exit code.

Answers go to stdout, messages, progress and logs to stderr.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

import psycopg

import vectuned
from vectuned.config.errors import UsageError, VectunedError, printable
from vectuned.config.settings import Settings
from vectuned.daemon.cli.administration import completion, config, migrate, report, run, status
from vectuned.daemon.cli.measuring import advise, benchmark, check, demo, evaluate, observe
from vectuned.daemon.cli.reasoning import ask, entities, wordnet
from vectuned.daemon.cli.tuning import adopt, disable, enable, export, import_, learn, recommend, tune
from vectuned.daemon.console import Console
from vectuned.daemon.logs import set_up_logging

from .command import Command, Context
from .configuration import load_with_options, parse_assignment

# In the order of `vectuned --help`, which is about the order in which a user needs them.
COMMANDS: Final = tuple(
    module.COMMAND
    for module in (
        *(demo, check, observe, migrate, run, config, status, report),
        *(enable, disable, learn, tune, recommend, adopt, export, import_),
        *(benchmark, evaluate, advise),
        *(entities, wordnet, ask, completion),
    )
)

_EPILOG: Final = """\
Begin with:
  vectuned demo                               what it gains; needs no database
  vectuned check --dsn postgresql://db1/shop  what is wrong with your searches
  vectuned COMMAND --help                     the arguments, and an example

Exit codes: 0 done, 1 failed, 2 usage, 69 database unavailable,
78 configuration, 130 interrupted."""

_EXAMPLE: Final = "Example:\n  "
EXIT_FAILED: Final = 1  # any other failure
EXIT_USAGE: Final = 2  # as argparse
EXIT_UNAVAILABLE: Final = 69  # EX_UNAVAILABLE of sysexits.h
EXIT_INTERRUPTED: Final = 130  # as shells report SIGINT: 128 + 2
EXIT_TERMINATED: Final = 143  # as shells report SIGTERM: 128 + 15

# Characters of an error on stderr: errors of the server may quote whole statements.
_LONGEST_ERROR: Final = 10_000
# SQLSTATE classes: data exception, and syntax error or access rule violation.
_USAGE_CLASSES: Final = ("22", "42")
# SQLSTATE of a right that is missing, which is of class 42 but no fault of the command's arguments.
_INSUFFICIENT_PRIVILEGE: Final = "42501"
_UNDEFINED_TABLE: Final = "42P01"  # SQLSTATE
# SQLSTATE classes: connection exception, and operator intervention.
_UNAVAILABLE_CLASSES: Final = ("08", "57")


class _HelpFormatter(argparse.HelpFormatter):
    """Does not wrap the example, so that it can be pasted."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith(_EXAMPLE) else super()._fill_text(text, width, indent)


class _TerminatedError(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does: what it was building is cancelled and dropped."""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line that names the command to run next."""

    def error(self, message: str) -> NoReturn:
        """Write the error and exit."""
        if message.endswith("are required: COMMAND"):
            message = (
                "There is no command: `vectuned demo` shows what vectuned gains, `vectuned check` looks at "
                "your database"
            )
        elif match := re.match(r"argument COMMAND: invalid choice: '(.*)' \(choose from ", message):
            near = difflib.get_close_matches(match[1], [command.name for command in COMMANDS], n=1)
            message = f"There is no command {match[1]}" + (f": did you mean {near[0]}?" if near else "")
        text = printable(f"{self.prog}: {message}; see `{self.prog} --help`", _LONGEST_ERROR)
        self.exit(EXIT_USAGE, f"{text}\n")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; `vectuned COMMAND --help` explains each."""
    parser = _Parser(
        prog="vectuned",
        description="A self-learning search tuner for PostgreSQL and pgvector.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"vectuned {vectuned.__version__}")
    subparsers = parser.add_subparsers(dest="name", metavar="COMMAND", required=True)
    common = _common_parser()
    for command in COMMANDS:
        subparser = subparsers.add_parser(
            command.name,
            parents=[common],
            help=command.summary,
            description=command.description,
            epilog=f"{_EXAMPLE}{command.example}",
            formatter_class=_HelpFormatter,
        )
        command.add_arguments(subparser)
        if command.scope == "one database":
            subparser.add_argument(
                "--database",
                metavar="NAME",
                help="the one of [databases.*] of the configuration to use, if there are several",
            )
        subparser.set_defaults(command=command, parser=parser)
    return parser


def _common_parser() -> _Parser:
    """Return a parser of the arguments that all commands take."""
    parser = _Parser(add_help=False)
    configuration = parser.add_argument_group("database and configuration")
    configuration.add_argument(
        "--dsn",
        metavar="DSN",
        help="connection string or URI (default: libpq's PG* variables, and without those the embedded "
        "server)",
    )
    configuration.add_argument(
        "--config", metavar="FILE", type=Path, help="TOML file (default: $VECTUNED_CONFIG if set)"
    )
    configuration.add_argument(
        "--set",
        metavar="SECTION.KEY=VALUE",
        type=parse_assignment,
        action="append",
        default=[],
        help="override one setting, such as budget.core_share=0.5; may be repeated",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    output.add_argument("-q", "--quiet", action="store_true", help="no messages and no progress on stderr")
    output.add_argument("-v", "--verbose", action="store_true", help="log on stderr what is done")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = build_parser().parse_args(arguments)
    command: Command = options.command
    console = Console(as_json=options.json, quiet=options.quiet)

    def read_settings() -> Settings:
        return _read_settings(command, options)

    try:
        settings = read_settings()
        set_up_logging(settings.logging, verbose=options.verbose or command.name == "run")
        with _stopping_at_sigterm():
            command.run(Context(options, settings, console, read_settings))
    except VectunedError as error:
        return _fail(str(error), error.exit_code)
    except psycopg.Error as error:
        return _fail(*_describe_server_error(error))
    except _TerminatedError:
        return _fail("terminated", EXIT_TERMINATED)
    except KeyboardInterrupt:
        return _fail("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader of stdout has gone, as `| head` does. Python would fail again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


@contextmanager
def _stopping_at_sigterm() -> Iterator[None]:
    """Raise _TerminatedError at SIGTERM; `vectuned run` sets a handler of its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise _TerminatedError

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _read_settings(command: Command, options: argparse.Namespace) -> Settings:
    if command.scope == "defaults":
        return Settings()
    settings = load_with_options(options).settings
    if command.scope == "all databases":
        return settings
    if options.dsn is not None and options.database is not None:
        raise UsageError("--dsn and --database both choose the database: give one of them.")
    return settings.of_database(options.database)


def _describe_server_error(error: psycopg.Error) -> tuple[str, int]:
    """Return an error of the server as a sentence with its hint, and the exit code."""
    message = error.diag.message_primary or str(error).strip().splitlines()[0]
    hint = f" ({error.diag.message_hint})" if error.diag.message_hint else ""
    if message.startswith("permission denied for function"):
        # Functions whose names begin with an underscore are the daemon's.
        is_internal = message.startswith("permission denied for function _")
        role = "vectuned_daemon" if is_internal else "vectuned_admin"
        hint = f" (it takes a member of the role {role}: see `vectuned migrate --roles`)"
    elif error.sqlstate == _UNDEFINED_TABLE and not hint:
        hint = " (name it with its schema; `vectuned check` lists the vector columns of the database)"
    return f"{message}{hint}", _exit_code(error)


def _exit_code(error: psycopg.Error) -> int:
    state = error.sqlstate or ""
    if isinstance(error, psycopg.OperationalError) and (not state or state[:2] in _UNAVAILABLE_CLASSES):
        return EXIT_UNAVAILABLE
    is_usage = state[:2] in _USAGE_CLASSES and state != _INSUFFICIENT_PRIVILEGE
    return EXIT_USAGE if is_usage else EXIT_FAILED


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"vectuned: {printable(message, _LONGEST_ERROR)}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
