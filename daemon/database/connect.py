"""Connect to a database; error messages hide passwords and explain why no password was found."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow

from vectuned.config.errors import DatabaseUnavailableError, UsageError
from vectuned.config.sections import DatabaseSettings

_SECRETS: Final = ("password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")
_DEFAULTS: Final = DatabaseSettings()


def connect(
    conninfo: str = "",
    database: DatabaseSettings = _DEFAULTS,
    *,
    parameters: Mapping[str, int] | None = None,
) -> psycopg.Connection[TupleRow]:
    """Connect in autocommit mode with the settings' application name and timeout, and libpq `parameters`.

    The connection string and libpq's variables take precedence over these. Raises DatabaseUnavailableError,
    without passwords in its message, or UsageError for a malformed string.
    """
    target = _parse(conninfo)
    defaults: dict[str, str | int] = {
        "fallback_application_name": database.application_name,
        **(parameters or {}),
    }
    if not os.environ.get("PGCONNECT_TIMEOUT"):
        defaults["connect_timeout"] = database.connect_timeout
    missing = {name: value for name, value in defaults.items() if name not in target}
    try:
        return psycopg.connect(make_conninfo(conninfo, **missing), autocommit=True)
    except psycopg.OperationalError as error:
        raise DatabaseUnavailableError(_explain(error, target)) from error


def redact(conninfo: str) -> str:
    """Return a connection string with **** for each secret; with secrets, in the form name=value."""
    parameters = {name: str(value) for name, value in _parse(conninfo).items()}
    secrets = {name: "****" for name in _SECRETS if parameters.get(name)}
    return make_conninfo("", **(parameters | secrets)) if secrets else conninfo


def describe_target(conninfo: str) -> str:
    """Name the host, port, database and user of a connection string, without secrets.

    Raises UsageError if the string cannot be parsed.
    """
    return _describe(_parse(conninfo))


def _explain(error: psycopg.OperationalError, target: Mapping[str, object]) -> str:
    """Write one sentence on a failed connection: where to, libpq's message, and what to do."""
    used = dict(target) | _effective_parameters(error)
    message = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
    # The server or libpq may quote a password.
    for secret in filter(None, [*(used.get(name) for name in _SECRETS), os.environ.get("PGPASSWORD")]):
        message = message.replace(str(secret), "****")
    advice = "check that the server runs and the DSN is right"
    if error.pgconn is not None and error.pgconn.needs_password:
        advice = f"no password was given, and {_explain_password_file(used)}"
    return f"No connection to {_describe(target)} ({message}); {advice}."


def _effective_parameters(error: psycopg.Error) -> dict[str, object]:
    """Return the parameters that libpq used, including those of service files and its own defaults."""
    if error.pgconn is None:
        return {}
    return {
        option.keyword.decode(): option.val.decode(errors="replace")
        for option in error.pgconn.info
        if option.val is not None
    }


def _explain_password_file(parameters: Mapping[str, object]) -> str:
    """Say why the password file gave no password: libpq ignores one it cannot use with at most a warning."""
    name = parameters.get("passfile")
    if not name:
        return "there is no password file: write ~/.pgpass"
    path = Path(str(name))
    file = f"the password file {path}"
    try:
        info = path.stat()
    except FileNotFoundError:
        return f"there is no password file {path}"
    except OSError as error:
        return f"{file} cannot be read ({error.strerror})"
    if not stat.S_ISREG(info.st_mode):
        return f"{file} is not a regular file, so libpq ignores it"
    if info.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return f"{file} is accessible to group or others, so libpq ignores it: chmod 600 {path}"
    if not os.access(path, os.R_OK):
        return f"{file} cannot be read (Permission denied)"
    return f"{file} has no line for this host, port, database and user"


def _parse(conninfo: str) -> dict[str, object]:
    try:
        return dict(conninfo_to_dict(conninfo))
    except psycopg.ProgrammingError as error:
        # psycopg's message quotes the malformed part, which may be a password.
        raise UsageError(
            "The DSN is not a connection string that libpq understands; "
            "write it like postgresql://user@host:5432/database or host=... dbname=...."
        ) from error


def _describe(parameters: Mapping[str, object]) -> str:
    public = ("service", "host", "hostaddr", "port", "dbname", "user")
    parts = [f"{name}={parameters[name]}" for name in public if parameters.get(name)]
    return " ".join(parts) or "libpq's default server"
