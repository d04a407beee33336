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
