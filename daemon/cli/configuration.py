"""Loads the configuration with what the command line overrides in it."""

from __future__ import annotations

import argparse

from vectuned.config.errors import UsageError, printable
from vectuned.config.settings import Configuration, load_configuration
from vectuned.daemon.database.choice import choose_database


def parse_assignment(text: str) -> tuple[str, str]:
    """Split SECTION.KEY=VALUE into name and value; a `type` for argparse."""
    name, equals, value = text.partition("=")
    if not equals or "." not in name:
        raise argparse.ArgumentTypeError(f"{printable(text)!r} is not SECTION.KEY=VALUE")
    return name.strip(), value


def load_with_options(options: argparse.Namespace) -> Configuration:
    """Load the configuration that --config names, overridden by --set and --dsn.

    Raises ConfigurationError, or UsageError if --dsn cannot be parsed or is given twice.
    """
    overrides: dict[str, object] = dict(options.set)
    if options.dsn is not None:
        if "database.dsn" in overrides:
            raise UsageError("--dsn and --set database.dsn=... say the same thing: give one of them.")
        # Parses the DSN, for a message about --dsn rather than about the setting.
        choose_database(options.dsn, {})
        overrides["database.dsn"] = options.dsn
    return load_configuration(options.config, overrides)
