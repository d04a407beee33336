"""A command of the command line, and the context in which it runs."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psycopg
from psycopg.rows import TupleRow

from vectuned.config.errors import VectunedError
from vectuned.config.settings import Settings
from vectuned.config.wording import counted
from vectuned.daemon.console import Console
from vectuned.daemon.database.choice import choose_database, open_database
from vectuned.daemon.database.connect import connect, redact
from vectuned.daemon.database.session import open_session
from vectuned.daemon.server.embedded import default_home

Connection = psycopg.Connection[TupleRow]


@dataclass(frozen=True)
class Context:
    """The parsed options, the settings, the console, and a function that reads the settings again."""

    options: argparse.Namespace
    settings: Settings
    console: Console
    reload: Callable[[], Settings]

    @property
    def embedded_home(self) -> Path:
        """Data folder of the embedded server."""
        home = self.settings.embedded.home
        return Path(home).expanduser() if home else default_home(os.environ)

    def repeat(self, command: str, *arguments: str) -> str:
        """Return the command line of another command on the same database, with passwords starred."""
        words = ["vectuned", command]
        if self.options.config is not None:
            words += ["--config", str(self.options.config)]
        if self.options.dsn:
            words += ["--dsn", redact(self.options.dsn)]
        return shlex.join([*words, *arguments])

    @contextmanager
    def database(self) -> Iterator[str]:
        """Yield the connection string of the chosen database; see `open_database`.

        Says so if it is the embedded server, since the user may have meant another one.
        """
        choice = choose_database(self.settings.of_database(None).database.dsn, os.environ)
        if choice.is_embedded:
            self.console.say_once(
                f"Using the embedded server in {self.embedded_home}; --dsn or PGHOST names another database."
            )
        with open_database(choice, self.embedded_home) as conninfo:
            yield conninfo

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Yield a connection to the chosen database, where vectuned need not be installed."""
        with self.database() as conninfo, connect(conninfo, self.settings.database) as conn:
            yield conn

    @contextmanager
    def session(self) -> Iterator[Connection]:
        """Yield a session on the chosen database. Raises UsageError if vectuned is not installed there."""
        with self.database() as conninfo, self.open_session(conninfo) as conn:
            yield conn

    def open_session(self, conninfo: str) -> Connection:
        """Open a session with the name and the timeout of [database]; the caller closes it."""
        return open_session(conninfo, self.settings.database)


def raise_failures(failures: Mapping[str, str], columns: int, work: str) -> None:
    """Raise VectunedError if some columns could not be `work`, a participle; `failures` says why, by name."""
    if failures:
        reasons = "; ".join(f"{name}: {reason.rstrip('.')}" for name, reason in failures.items())
        raise VectunedError(
            f"{len(failures)} of {counted(columns, 'column')} could not be {work}: {reasons}."
        )


def add_no_arguments(_parser: argparse.ArgumentParser) -> None:
    """Add nothing: the command has no arguments besides the common ones."""


@dataclass(frozen=True)
class Command:
    """One command: its name, its help, its arguments and the function that runs it."""

    name: str
    summary: str
    description: str
    example: str
    run: Callable[[Context], None]
    add_arguments: Callable[[argparse.ArgumentParser], None] = add_no_arguments
    # The settings that the command receives. "one database": those of the database that --database chooses.
    # "all databases": those of all. "defaults": none but the defaults, because the command reads the others
    # itself and reports what is wrong with them.
    scope: Literal["one database", "all databases", "defaults"] = "one database"
