"""The command `vectuned config`: check the configuration, or show it."""

from __future__ import annotations

import argparse
import os
from typing import Any, Final

from vectuned.config.errors import ConfigurationError, printable
from vectuned.config.settings import DEFAULT, Configuration, Settings
from vectuned.config.sources import HOME_VARIABLE
from vectuned.daemon.cli.command import Command, Context
from vectuned.daemon.cli.configuration import load_with_options
from vectuned.daemon.database.choice import choose_database
from vectuned.daemon.database.connect import redact
from vectuned.daemon.server.embedded import default_home

# Keys that hold connection strings, which may hold passwords.
_CONNINFO_KEYS: Final = ("dsn", "replay_dsn")
# Characters of a value that are shown: the longest text that a setting may be.
_LONGEST_VALUE: Final = 4096


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        choices=("check", "show"),
        help="check: say whether file, environment and command line are valid; show: print each value in "
        "force and where it comes from, passwords starred",
    )


def _run(context: Context) -> None:
    if context.options.action == "check":
        _check(context)
    else:
        _show(context)


def _check(context: Context) -> None:
    console = context.console
    try:
        configuration = load_with_options(context.options)
    except ConfigurationError as error:
        if console.as_json:
            console.document({"valid": False, "problems": error.problems})
        raise
    if console.as_json:
        console.document({"valid": True, "problems": []})
    file = "the configuration (no file)" if configuration.file is None else printable(configuration.file)
    others = sorted(set(configuration.sources.values()) - {DEFAULT, printable(configuration.file)})
    console.line(f"{file}{' with ' if others else ''}{', '.join(others)} is valid")


def _show(context: Context) -> None:
    console, configuration = context.console, load_with_options(context.options)
    values = {name: _read_effective(name, configuration) for name in configuration.sources}
    databases = {
        name: _describe_choice(settings) for name, settings in configuration.settings.each_database()
    }
    if console.as_json:
        console.document(
            {
                "file": None if configuration.file is None else str(configuration.file),
                "settings": {
                    name: {"value": value, "source": source} for name, (value, source) in values.items()
                },
                "databases": [{"name": name or None, "chosen": choice} for name, choice in databases.items()],
            }
        )
        return
    # Not Console.table, which cuts long values at the width of the terminal.
    lines = [("setting", "from", "value")]
    lines += [(name, source, _to_toml(value)) for name, (value, source) in values.items()]
    name_width, source_width = (max(len(line[column]) for line in lines) for column in (0, 1))
    for name, source, value in lines:
        console.line(f"{name:<{name_width}}  {source:<{source_width}}  {value}")
    for name, choice in databases.items():
        console.line(f"database{f' {name}' if name else ''}: {printable(choice)}")


def _describe_choice(settings: Settings) -> str:
    choice = choose_database(settings.database.dsn, os.environ)
    return f"{'the embedded server' if choice.is_embedded else 'an existing server'}, since {choice.reason}"


def _read_effective(name: str, configuration: Configuration) -> tuple[Any, str]:
    """Return the value of "section.key" as it takes effect, without its secrets, and its source."""
    section, _, key = name.rpartition(".")
    value: Any = configuration.settings
    for part in (*section.split("."), key):
        value = value[part] if isinstance(value, dict) else getattr(value, part)
    source = configuration.sources[name]
    if key in _CONNINFO_KEYS:
        value = redact(value)
    elif name == "embedded.home" and not value:
        value = str(default_home(os.environ))
        source = HOME_VARIABLE if os.environ.get(HOME_VARIABLE) else DEFAULT
    return value, source


def _to_toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{printable(value, _LONGEST_VALUE)}"' if isinstance(value, str) else str(value)


COMMAND: Final = Command(
    name="config",
    summary="check the configuration, or show each value and its source",
    description="Later sources override earlier ones: defaults, the file of --config or $VECTUNED_CONFIG, "
    "variables VECTUNED_SECTION__KEY, the command line. Needs no database.",
    example="vectuned config check --config /etc/vectuned.toml",
    run=_run,
    add_arguments=_add_arguments,
    scope="defaults",
)
