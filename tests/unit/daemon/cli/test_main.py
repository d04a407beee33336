"""The command line: help, choice of the database, overrides and exit codes."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vectuned.daemon.cli.command import Command
from vectuned.daemon.cli.main import COMMANDS, build_parser, main

Run = Callable[..., tuple[int, str, str]]

SHOP = "[databases.shop]\ndsn = 'host=/nowhere dbname=shop password=hunter2'\n"
LIBRARY = "[databases.library]\ndsn = 'host=/nowhere dbname=library'\n"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_of_a_command_fits_80_columns_and_ends_with_an_example(
    command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as exited:
        main([command.name, "--help"])
    assert exited.value.code == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) < 80
    assert text.endswith(f"Example:\n  {command.example}\n")
    words = shlex.split(command.example)
    assert words[0] == "vectuned"
    assert build_parser().parse_args(words[1:]).command is command


@pytest.mark.parametrize(
    ("module", "costly"),
    [
        (
            "vectuned.daemon.cli.main",
            {"sklearn", "hnswlib", "scipy", "apscheduler", "wordllama", "matplotlib"},
        ),
        ("vectuned.daemon.service.service", {"sklearn", "scipy", "wordllama", "matplotlib"}),
    ],
)
def test_start_imports_nothing_that_only_learning_and_reasoning_need(module: str, costly: set[str]) -> None:
    paths = os.pathsep.join(sys.path)  # pytest finds vectuned through its own
    loaded = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert module in loaded
    assert costly & set(loaded) == set()


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert len({command.name for command in COMMANDS}) == len(COMMANDS)
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert [command.name for command in COMMANDS if f"\n    {command.name}" not in text] == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("config", "check", "--set", "learning.sed=1"), 78, "learning.sed (did you mean learning.seed?)"),
        (("config", "check", "--set", "learning.seed=x"), 78, "Command line: learning.seed must be a whole"),
        (("status", "--set", "budget.core_share=0"), 78, "Command line: budget.core_share must be a number"),
        (("run", "--set", "logging.level=LOUD"), 78, "Command line: logging.level must be one of DEBUG, "),
        (("status", "--dsn", "x", "--set", "learning.seed=x"), 2, "not a connection string"),
        (("status", "--dsn", "dbname=a", "--set", "database.dsn=dbname=b"), 2, "give one of them"),
        (("status", "--dsn", "dbname=a", "--database", "b"), 2, "give one of them"),
        (("status", "--database", "shop"), 2, "There is no database shop: the configuration has no section"),
        (("status", "--set", "database.dsn=host=/nowhere dbname=b"), 69, "to host=/nowhere dbname=b (conn"),
        (("status", "--config", "/a\x1b[2J\n"), 78, r"The configuration file /a\x1b[2J\n does not exist."),
    ],
)
def test_main_reports_wrong_options_in_one_line_with_an_exit_code(
    run: Run, arguments: tuple[str, ...], code: int, message: str
) -> None:
    returned, out, err = run(*arguments)
    assert (returned, out) == (code, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "vectuned: There is no command: `vectuned demo` shows"),
        (("chek",), "vectuned: There is no command chek: did you mean check?; see `vectuned --help`"),
        (("xyzzy\x1b[2J",), r"There is no command xyzzy\x1b[2J; see `vectuned --help`"),
        (("enable",), "are required: relation, column; see `vectuned enable --help`"),
        (("run", "--no-such"), "unrecognized arguments: --no-such; see `vectuned --help`"),
        (("completion", "cmd"), "invalid choice: 'cmd'"),
    ],
)
def test_wrong_arguments_get_one_line_that_names_the_next_command(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SystemExit) as exited:
        main(arguments)
    assert exited.value.code == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_help_fits_80_columns_and_says_how_to_begin(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) < 80
    begin = re.findall(r"^  (vectuned .*?)  ", text.partition("Begin with:")[2], flags=re.M)
    names = [build_parser().parse_args(shlex.split(line)[1:]).name for line in begin if "COMMAND" not in line]
    assert names == ["demo", "check"]


@pytest.mark.parametrize("text", ["x", "=", "seed=1", "learning=1", ""])
def test_main_refuses_an_override_without_section_key_or_value(
    capsys: pytest.CaptureFixture[str], text: str
) -> None:
    with pytest.raises(SystemExit) as exited:
        main(["status", "--set", text])
    assert exited.value.code == 2
    assert "is not SECTION.KEY=VALUE" in capsys.readouterr().err


def test_main_chooses_one_of_several_databases_by_name(run: Run, file: Path) -> None:
    file.write_text(SHOP + LIBRARY)
    for arguments in (("status",), ("migrate",), ("learn", "--once")):
        code, _, err = run(*arguments, "--config", file)
        assert (code, err) == (
            2,
            "vectuned: Several databases are configured: choose one of shop, library with --database.\n",
        )
    code, _, err = run("status", "--config", file, "--database", "library")
    assert code == 69
    assert "No connection to host=/nowhere dbname=library" in err
    code, _, err = run("status", "--config", file, "--database", "librari")
    assert (code, err) == (2, "vectuned: There is no database librari: choose one of shop, library.\n")
    code, _, err = run("status", "--config", file, "--dsn", "host=/nowhere dbname=other")
    assert code == 69
    assert "No connection to host=/nowhere dbname=other" in err


def test_commands_on_all_databases_have_no_database_option(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("run", "demo", "config"):
        with pytest.raises(SystemExit):
            build_parser().parse_args(
                [command, *(["check"] if command == "config" else []), "--database", "x"]
            )
        assert "unrecognized arguments: --database" in capsys.readouterr().err
