"""The commands about the configuration, and how the command line has its say in it."""

from __future__ import annotations

import argparse
import os
from typing import Any, Final

from vectuned.config.errors import ConfigurationError, UsageError, printable
from vectuned.config.settings import DEFAULT, Configuration, Settings, load_configuration
from vectuned.config.sources import HOME_VARIABLE
from vectuned.daemon.database.choice import choose_database
from vectuned.daemon.database.connect import redact
from vectuned.daemon.server.embedded import default_home

from .command import Command, Context

_CONNINFO: Final = ("dsn", "replay_dsn")


def assignment(text: str) -> tuple[str, str]:
    """Split SECTION.KEY=VALUE into name and value; for argparse."""
    name, equals, value = text.partition("=")
    if not equals or "." not in name:
        raise argparse.ArgumentTypeError(f"{printable(text)!r} is not SECTION.KEY=VALUE")
    return name.strip(), value


def load(options: argparse.Namespace) -> Configuration:
    """Load the configuration that the options name, what they set themselves included.

    Raises ConfigurationError, or UsageError for a --dsn that is wrong in itself.
    """
    overrides: dict[str, object] = dict(options.set)
    if options.dsn is not None:
        if "database.dsn" in overrides:
            raise UsageError("--dsn and --set database.dsn=... say the same thing: give one of them.")
        choose_database(options.dsn, {})
        overrides["database.dsn"] = options.dsn
    return load_configuration(options.config, overrides)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what",
        choices=("check", "show"),
        help="check: say whether file, environment and command line are valid; show: print each value in "
        "force and where it is from, passwords starred",
    )


def _config(context: Context) -> None:
    (_check if context.options.what == "check" else _show)(context)


def _check(context: Context) -> None:
    console = context.console
    try:
        configuration = load(context.options)
    except ConfigurationError as error:
        if console.as_json:
            console.document({"valid": False, "problems": error.problems})
        raise
    if console.as_json:
        console.document({"valid": True, "problems": []})
    what = "the configuration (no file)" if configuration.file is None else printable(configuration.file)
    also = sorted(set(configuration.sources.values()) - {DEFAULT, printable(configuration.file)})
    console.line(f"{what}{' with ' if also else ''}{', '.join(also)} is valid")


def _show(context: Context) -> None:
    console, configuration = context.console, load(context.options)
    rows = {name: _effective(name, configuration) for name in configuration.sources}
    databases = {name: _chosen(settings) for name, settings in configuration.settings.each_database()}
    if console.as_json:
        console.document(
            {
                "file": None if configuration.file is None else str(configuration.file),
                "settings": {
                    name: {"value": value, "source": source} for name, (value, source) in rows.items()
                },
                "databases": [{"name": name or None, "chosen": why} for name, why in databases.items()],
            }
        )
        return
    # No table of the console's, which cuts long values where the terminal ends.
    lines = [("setting", "from", "value")]
    lines += [(name, source, _written(value)) for name, (value, source) in rows.items()]
    first, second = (max(len(line[column]) for line in lines) for column in (0, 1))
    for name, source, value in lines:
        console.line(f"{name:<{first}}  {source:<{second}}  {value}")
    for name, why in databases.items():
        console.line(f"database{f' {name}' if name else ''}: {printable(why)}")


def _chosen(settings: Settings) -> str:
    choice = choose_database(settings.database.dsn, os.environ)
    return f"{'the embedded server' if choice.is_embedded else 'an existing server'}, since {choice.reason}"


def _effective(name: str, configuration: Configuration) -> tuple[Any, str]:
    """Return a value as it takes effect and may be shown, and where it is from."""
    section, _, key = name.rpartition(".")
    value: Any = configuration.settings
    for part in (*section.split("."), key):
        value = value[part] if isinstance(value, dict) else getattr(value, part)
    source = configuration.sources[name]
    if key in _CONNINFO:
        value = redact(value)
    elif name == "embedded.home" and not value:
        value = str(default_home(os.environ))
        source = HOME_VARIABLE if os.environ.get(HOME_VARIABLE) else DEFAULT
    return value, source


def _written(value: Any) -> str:
    """Write a value as TOML does."""
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{printable(value, 4096)}"' if isinstance(value, str) else str(value)


COMMANDS: Final = (
    Command(
        "config",
        "check the configuration, or show what is in force and where it comes from",
        "Later sources win: defaults, the file of --config or $VECTUNED_CONFIG, variables "
        "VECTUNED_SECTION__KEY, the command line. Needs no database.",
        _arguments,
        _config,
        "no settings",
    ),
)
