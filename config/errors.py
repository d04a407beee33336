"""The errors vectuned raises: one sentence each, saying what, where and what to do."""

from __future__ import annotations


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
    """A setting is missing, unknown or out of range."""

    exit_code = 78
