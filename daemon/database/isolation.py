"""A column in trouble is that column's alone: its errors do not end the work on the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import psycopg

from vectuned.config.errors import DatabaseUnavailableError, VectunedError
from vectuned.daemon.pacing.pace import Halt

from .standby import StandbyUnreadyError

T = TypeVar("T")

_SHUTDOWNS: Final = ("57P01", "57P02", "57P03")  # admin_shutdown, crash_shutdown, cannot_connect_now
# Errors that concern all columns, whichever was worked on.
_OF_ALL: Final = (Halt, StandbyUnreadyError, DatabaseUnavailableError)


@dataclass(frozen=True)
class Failure:
    """The error that ended the work on one column."""

    error: Exception

    @property
    def reason(self) -> str:
        """Return the error as one line."""
        return describe_error(self.error).strip() or type(self.error).__name__

    @property
    def is_passing(self) -> bool:
        """Return whether the cause is gone by the next attempt: a conflict, or a standby that went away."""
        if not isinstance(self.error, psycopg.OperationalError):
            return False
        state = self.error.sqlstate or "08000"  # without one, the connection was lost
        return state[:2] in ("08", "40") or state in _SHUTDOWNS

    @property
    def is_bug(self) -> bool:
        """Return whether nothing raises such an error on purpose, so that its traceback is of use."""
        return not isinstance(self.error, (VectunedError, psycopg.Error))


def attempt(conn: psycopg.Connection[Any], work: Callable[[], T]) -> T | Failure:
    """Run work on one column; return its result, or the error if that concerns this column alone.

    Any error does, except the end of all work, a standby that is not ready, and a lost connection.
    """
    try:
        return work()
    except _OF_ALL:
        raise
    except Exception as error:
        if conn.closed:
            raise
        return Failure(error)


def describe_error(error: Exception) -> str:
    """Return the server's primary message, or the text of another exception."""
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        return error.diag.message_primary
    return str(error)
