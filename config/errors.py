"""The errors that vectuned raises: one sentence each, which says what failed, where, and what to do."""

from __future__ import annotations

from collections.abc import Sequence


class VectunedError(Exception):
    """Something failed; the message is one sentence for the user."""

    exit_code = 1


class UsageError(VectunedError):
    """The request is wrong: an unknown column, an argument out of range."""

    exit_code = 2  # as argparse


class DatabaseUnavailableError(VectunedError):
    """No PostgreSQL server could be reached or started."""

    exit_code = 69  # EX_UNAVAILABLE of sysexits.h


class ConfigurationError(VectunedError):
    """A setting is missing, unknown or out of range; `problems` lists all of them."""

    exit_code = 78  # EX_CONFIG of sysexits.h

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems) or (message,)


def printable(text: object, longest: int = 200) -> str:
    """Return text of unknown origin as one line that is safe for terminals: escaped, and cut at `longest`."""
    full = str(text)
    cut = full if len(full) <= longest else f"{full[:longest]}..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
