"""The installed command, run from / as a user would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Installed:
    """The `vectuned` command of this environment."""

    program: str
    environment: Mapping[str, str]

    def run(
        self, *arguments: str, environment: Mapping[str, str] | None = None, timeout: float = 600
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.program, *arguments],
            cwd="/",
            env={**self.environment, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.program, *arguments],
            cwd="/",
            env=dict(self.environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture(scope="session")
def vectuned() -> Installed:
    program = Path(sys.executable).parent / "vectuned"
    assert program.exists(), "install the package into this environment first: pip install '.[demo,test]'"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "VECTUNED", "PYTHONPATH"))}
    return Installed(str(program), {**environment, "COLUMNS": "200"})


@pytest.fixture
def home() -> Iterator[Path]:
    """Yield a folder for an embedded server, which for root runs under another account that may enter it."""
    folder = Path(tempfile.mkdtemp(prefix="vectuned-home-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)
