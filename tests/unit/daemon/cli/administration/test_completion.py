"""The completion scripts, run by the shells that they are for."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from vectuned.daemon.cli.administration.completion import SHELLS
from vectuned.daemon.cli.main import COMMANDS

# What bash does when TAB is pressed after the last word.
BASH = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
complete_by=$(complete -p vectuned | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
"$complete_by" vectuned "${@: -1}" "${@: -2:1}"
printf '%s\\n' "${COMPREPLY[@]}"
"""
FISH = 'source $SCRIPT; complete -C "$WORDS"'  # its own options may be anywhere among its arguments

Complete = Callable[..., list[str]]


@pytest.fixture(params=["bash", "fish"])
def complete(
    request: pytest.FixtureRequest, tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> Complete:
    """Return a function that completes the last of some words in a shell."""
    program = shutil.which(request.param)
    if program is None:
        pytest.skip(f"needs {request.param}")
    code, text, _ = run("completion", request.param)
    assert code == 0
    script = tmp_path / "script"
    script.write_text(text)
    (tmp_path / "table.toml").touch()
    text = BASH if request.param == "bash" else FISH

    def complete(*words: str) -> list[str]:
        done = subprocess.run(
            [program, "-c", text, *(["bash", str(script), "vectuned", *words] if text == BASH else [])],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
            env={
                "HOME": str(tmp_path),
                "PATH": "/usr/bin:/bin",
                "LANG": "C.UTF-8",
                "SCRIPT": str(script),
                "WORDS": " ".join(("vectuned", *words)),
            },
        )
        # Fish appends a description to each.
        return [line.partition("\t")[0].strip() for line in done.stdout.splitlines()]

    return complete


def test_script_completes_commands_options_and_choices(complete: Complete) -> None:
    assert sorted(complete("re")) == ["recommend", "report"]
    assert set(complete("")) >= {command.name for command in COMMANDS}
    assert complete("status", "--wa") == ["--watch"]
    assert complete("adopt", "--rev") == ["--revert"]
    assert complete("benchmark", "lat") == ["latency"]


def test_script_completes_files(complete: Complete) -> None:
    assert [Path(each).name for each in complete("run", "--config", "tab")] == ["table.toml"]


@pytest.mark.parametrize("shell", SHELLS)
def test_script_is_valid_in_its_shell(
    shell: str, tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"needs {shell}")
    script = tmp_path / "script"
    script.write_text(run("completion", shell)[1])
    done = subprocess.run([program, "-n", str(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(command.name in script.read_text() for command in COMMANDS)
