"""Generates daemon/docs/command-line.md, which describes every command, from the parsers of the commands.

`python -m vectuned.daemon.cli.reference daemon/docs` writes the page into a folder; a test compares it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from .main import COMMANDS, build_parser

PAGE: Final = "command-line.md"

_INTRODUCTION: Final = """\
# Command line

Every command with its arguments. This page is generated from the commands; `--help` prints the same.

- `--dsn` names the database. Without it libpq's variables do (`PGHOST`, `PGHOSTADDR`, `PGPORT`, `PGDATABASE`,
  `PGSERVICE`), and without those it is the embedded server in `VECTUNED_HOME` (by default `/var/lib/vectuned`
  for root, otherwise `vectuned` in the user's data folder). It runs the wheel's PostgreSQL, or the one, with
  pgvector, whose programs are in the folder that `VECTUNED_PROGRAMS` names.
- Answers go to stdout; messages, progress and logs go to stderr. With `--json` the answer is one document.
- Exit codes: 0 done, 1 failed, 2 wrong usage, 69 database unavailable, 78 wrong configuration, 130
  interrupted."""


def render_markdown() -> str:
    """Return the page: the overview, the common options, and a section for each command."""
    (subparsers,) = (
        action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)
    )
    parsers = dict(subparsers.choices)
    common = _common_flags(parsers.values())
    shared = [action for action in next(iter(parsers.values()))._actions if _flags(action) in common]
    overview = ["| command | |", "|---|---|"]
    overview += [f"| [`{each.name}`](#{each.name}) | {_cell(each.summary)} |" for each in COMMANDS]
    parts = [_INTRODUCTION, "\n".join(overview), "## Options of all commands", _table(shared)]
    for command in COMMANDS:
        own = [action for action in parsers[command.name]._actions if _flags(action) not in common]
        parts += [f"## {command.name}", command.description]
        parts += [_table(own)] if own else []
        parts += [f"```sh\n{command.example}\n```"]
    return "\n\n".join(parts) + "\n"


def write_page(folder: Path) -> None:
    """Write the page into a folder."""
    (folder / PAGE).write_text(render_markdown(), encoding="utf-8")


def _common_flags(parsers: Iterable[argparse.ArgumentParser]) -> set[str]:
    """Return the options that all commands have."""
    return set.intersection(
        *({_flags(action) for action in parser._actions if action.option_strings} for parser in parsers)
    )


def _table(actions: Iterable[argparse.Action]) -> str:
    rows = ["| argument | description |", "|---|---|"]
    return "\n".join([*rows, *_rows(actions)])


def _rows(actions: Iterable[argparse.Action]) -> Iterator[str]:
    for action in actions:
        text = (action.help or "") % {**vars(action), "prog": "vectuned"}
        yield f"| `{_cell(_flags(action))}` | {_cell(text)} |"


def _flags(action: argparse.Action) -> str:
    """Return an argument as in a usage line: `-o FILE, --output FILE`, or the name of a positional one."""
    names = list(action.choices) if action.choices is not None else None
    value = action.metavar or (f"{{{','.join(map(str, names))}}}" if names else action.dest)
    if not action.option_strings:
        return f"[{value}]" if action.nargs == "?" else str(value)
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        return ", ".join(action.option_strings)
    if not action.metavar and not names:
        value = action.dest.upper()
    value = f"[{value}]" if action.nargs == "?" else value
    return f"{', '.join(action.option_strings)} {value}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    write_page(Path(sys.argv[1]))
