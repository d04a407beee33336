"""Choose the database: the DSN, what libpq's variables name, or the embedded server."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vectuned.daemon.server.embedded import EmbeddedServer

from .connect import describe_target

log = logging.getLogger(__name__)

LIBPQ_VARIABLES: Final = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGSERVICE")
"""The variables that name a database. Others, such as PGUSER or PGSSLMODE, only say how to connect to it."""


@dataclass(frozen=True)
class DatabaseChoice:
    """The database to use: a libpq connection string, None for the embedded server, and why."""

    conninfo: str | None
    reason: str

    @property
    def is_embedded(self) -> bool:
        """Whether the embedded server was chosen."""
        return self.conninfo is None


def choose_database(dsn: str | None, environ: Mapping[str, str]) -> DatabaseChoice:
    """Choose the DSN if there is one, else the database of libpq's variables, else the embedded server.

    An empty DSN or variable counts as absent. Raises UsageError if the DSN cannot be parsed.
    """
    if dsn and dsn.strip():
        return DatabaseChoice(dsn, f"the DSN names {describe_target(dsn)}")
    present = [name for name in LIBPQ_VARIABLES if environ.get(name)]
    if present:
        named = ", ".join(f"{name}={environ[name]}" for name in present)
        return DatabaseChoice("", f"the environment sets {named}")
    return DatabaseChoice(None, f"there is no DSN, and none of {', '.join(LIBPQ_VARIABLES)} is set")


@contextmanager
def open_database(
    choice: DatabaseChoice, home: Path | None = None, *, settings: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Yield the connection string of the chosen database; the embedded server runs until the block ends.

    `home` and `settings` are those of the embedded server. Raises DatabaseUnavailableError if it cannot
    start.
    """
    which = "the embedded server" if choice.is_embedded else "an existing server"
    log.info("Using %s: %s", which, choice.reason, extra={"action": "choose_database"})
    if choice.conninfo is not None:
        yield choice.conninfo
        return
    with EmbeddedServer(home, share=True, settings=settings) as server:
        yield server.dsn
