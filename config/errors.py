"""The errors vectuned raises: one sentence each, saying what, where and what to do."""

from __future__ import annotations

from collections.abc import Sequence


class VectunedError(Exception):
    """Something failed; the message is one sentence for the user."""

    exit_code = 1


class UsageError(VectunedError):
    """The request itself is wrong: an unknown column, an argument out of range."""

    exit_code = 2


class DatabaseUnavailableError(VectunedError):
    """No PostgreSQL server could be reached or started."""

    exit_code = 69


class ConfigurationError(VectunedError):
    """A setting is missing, unknown or out of range; `problems` tells each by itself."""

    exit_code = 78

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems) or (message,)


def printable(text: object, longest: int = 200) -> str:
    """Put what somebody else wrote so that it can stand in a line: escaped for terminals, and cut."""
    told = str(text)
    cut = told if len(told) <= longest else f"{told[:longest]}..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
