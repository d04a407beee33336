"""Which database, and how to connect to it."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow

from vectuned.config.errors import DatabaseUnavailableError, UsageError
from vectuned.daemon.server.embedded import embedded_server

logger = logging.getLogger(__name__)

LIBPQ_VARIABLES = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGSERVICE")
"""The variables that name a database. Others, such as PGUSER or PGSSLMODE, only say how to connect to it."""

_SECRETS = ("password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")


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
    """Choose the DSN if one is given, else what libpq's variables name, else the embedded server.

    An empty DSN or variable counts as not given. Raises UsageError if the DSN cannot be parsed.
    """
    if dsn and dsn.strip():
        return DatabaseChoice(dsn, f"the DSN that was given names {_describe(_parse(dsn))}")
    given = [name for name in LIBPQ_VARIABLES if environ.get(name)]
    if given:
        named = ", ".join(f"{name}={environ[name]}" for name in given)
        return DatabaseChoice("", f"the environment says {named}")
    return DatabaseChoice(None, f"neither a DSN nor any of {', '.join(LIBPQ_VARIABLES)} is given")


@contextmanager
def open_database(
    choice: DatabaseChoice, home: Path | None = None, *, settings: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Yield the connection string of the chosen database, with the embedded server up while it is used.

    `home` and `settings` are those of the embedded server. Raises DatabaseUnavailableError if that cannot
    start.
    """
    which = "the embedded server" if choice.is_embedded else "an existing server"
    logger.info("Using %s: %s", which, choice.reason, extra={"action": "choose_database"})
    if choice.conninfo is not None:
        yield choice.conninfo
        return
    with embedded_server(home, settings=settings) as server:
        yield server.dsn


def connect(
    conninfo: str = "",
    *,
    application_name: str = "vectuned",
    connect_timeout: int = 10,
    autocommit: bool = True,
    parameters: Mapping[str, int] | None = None,
) -> psycopg.Connection[TupleRow]:
    """Connect to PostgreSQL; what the user set for libpq wins over name, timeout (seconds) and `parameters`.

    Raises DatabaseUnavailableError, with no password in its message, or UsageError for a malformed string.
    """
    given = _parse(conninfo)
    defaults: dict[str, str | int] = {"fallback_application_name": application_name, **(parameters or {})}
    if not os.environ.get("PGCONNECT_TIMEOUT"):
        defaults["connect_timeout"] = connect_timeout
    missing = {name: value for name, value in defaults.items() if name not in given}
    try:
        return psycopg.connect(make_conninfo(conninfo, **missing), autocommit=autocommit)
    except psycopg.OperationalError as error:
        used = given | _in_use(error)
        words = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
        for secret in filter(None, [*(used.get(name) for name in _SECRETS), os.environ.get("PGPASSWORD")]):
            words = words.replace(str(secret), "****")
        advice = "check that the server runs and the DSN is right"
        if error.pgconn is not None and error.pgconn.needs_password:
            advice = f"no password was given, and {_password_file(used)}"
        raise DatabaseUnavailableError(f"No connection to {_describe(given)} ({words}); {advice}.") from error


def redacted(conninfo: str) -> str:
    """Return a connection string with its secrets starred, then in the form name=value."""
    given = {name: str(value) for name, value in _parse(conninfo).items()}
    secrets = {name: "****" for name in _SECRETS if given.get(name)}
    return make_conninfo("", **(given | secrets)) if secrets else conninfo


def _in_use(error: psycopg.Error) -> dict[str, object]:
    """Return what libpq tried to connect with, what service files and its defaults say included."""
    if error.pgconn is None:
        return {}
    return {
        option.keyword.decode(): option.val.decode(errors="replace")
        for option in error.pgconn.info
        if option.val is not None
    }


def _password_file(parameters: Mapping[str, object]) -> str:
    """Say why the password file gave no password: libpq passes over one it cannot use, nearly in silence."""
    name = parameters.get("passfile")
    if not name:
        return "there is no password file: write ~/.pgpass"
    path = Path(str(name))
    file = f"the password file {path}"
    try:
        found = path.stat()
    except FileNotFoundError:
        return f"there is no password file {path}"
    except OSError as error:
        return f"{file} cannot be read ({error.strerror})"
    if not stat.S_ISREG(found.st_mode):
        return f"{file} is no plain file, so libpq ignores it"
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return f"{file} is open to group or others, so libpq ignores it: chmod 600 {path}"
    if not os.access(path, os.R_OK):
        return f"{file} cannot be read (Permission denied)"
    return f"{file} has no line for this host, port, database and user"


def _parse(conninfo: str) -> dict[str, object]:
    try:
        return dict(conninfo_to_dict(conninfo))
    except psycopg.ProgrammingError as error:
        # The driver quotes the part it stumbled over, which may be a password.
        raise UsageError(
            "The DSN is not a connection string that libpq understands; "
            "write it like postgresql://user@host:5432/database or host=... dbname=...."
        ) from error


def _describe(parameters: Mapping[str, object]) -> str:
    public = ("service", "host", "hostaddr", "port", "dbname", "user")
    told = [f"{name}={parameters[name]}" for name in public if parameters.get(name)]
    return " ".join(told) or "libpq's default server"
