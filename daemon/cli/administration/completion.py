"""The command `vectuned completion`: a script that completes commands and options in a shell."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Final

from vectuned.daemon.cli.command import Command, Context

SHELLS: Final = ("bash", "zsh", "fish")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="shell to write the script for")


def _run(context: Context) -> None:
    sys.stdout.write(render_script(context.options.parser, context.options.shell))


def render_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script that completes the commands of a parser, with their options, choices and files."""
    import shtab

    for action in _walk(parser):
        if "FILE" in str(action.metavar) or action.dest == "file":
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # where shtab looks
    return str(shtab.complete(parser, shell=shell)) + "\n"


def _walk(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the arguments of a parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _walk(command)


COMMAND: Final = Command(
    name="completion",
    summary="print a script that completes commands in bash, zsh or fish",
    description="Prints a script that completes commands, options and files. For bash, write it to "
    "~/.local/share/bash-completion/completions/vectuned; for zsh, to _vectuned in a folder of $fpath; for "
    "fish, to ~/.config/fish/completions/vectuned.fish. Write it again after an upgrade.",
    example="vectuned completion bash",
    run=_run,
    add_arguments=_add_arguments,
    scope="defaults",
)
