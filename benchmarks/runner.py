"""Perform a run: by the module of its kind, by a script, or by a command of vectuned."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from benchmarks.definitions import FOLDER, NEEDS, Definition, Process, Script
from benchmarks.records import Result, record
from vectuned.config.errors import UsageError, VectunedError
from vectuned.daemon.console import Console


def perform(name: str, definition: Definition, seed: int | None, console: Console, dsn: str | None) -> Result:
    """Perform a run and return its result; None for `seed` or `dsn` uses that of the definition."""
    drawn = definition.seed if seed is None else seed

    def work() -> dict[str, Any]:
        if isinstance(definition, Process):
            return _by_process(name, definition, drawn, console, dsn)
        return _by_module(definition, drawn, console, dsn)

    return record(name, definition.as_run(), drawn, work)


def _by_module(definition: Definition, seed: int, console: Console, dsn: str | None) -> dict[str, Any]:
    module = import_module(f"{__package__}.{definition.kind}")
    measure = getattr(module, "measure", None)
    if measure is None:
        raise UsageError(f"{FOLDER.name}/{definition.kind}.py measures nothing: it has no function measure.")
    result: dict[str, Any] = measure({**definition.options, "seed": seed}, console, dsn)
    return result


def _by_process(
    name: str, definition: Process, seed: int, console: Console, dsn: str | None
) -> dict[str, Any]:
    if isinstance(definition, Script):
        program = [str(FOLDER / definition.script)]
    else:
        program = ["-m", "vectuned.daemon"]
    command = [sys.executable, *program, *definition.arguments, f"--seed={seed}"]
    if dsn is not None and definition.takes_dsn:
        command.append(f"--dsn={dsn}")
    elif dsn is not None:
        console.say(f"{name} runs without the database of --dsn, on a server of its own or none.")
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder, "result.json")
        if definition.document == "file":
            # Its tables go to our standard error.
            code, _ = finish([*command, f"--json={written}"], sys.stderr)
            text = written.read_text(encoding="utf-8") if written.exists() else ""
        else:
            code, text = finish(command, subprocess.PIPE)
    if code:
        where = "" if dsn is None else " --dsn ..."
        need = definition.needs
        hint = f"; it needs what `{NEEDS[need]}{where}` loads: do that first" if need else ""
        raise VectunedError(f"{name} failed with exit code {code}{hint}.")
    try:
        result = json.loads(text)
    except ValueError as error:
        raise VectunedError(f"{name} gave no JSON document where its definition says: {error}.") from error
    if not isinstance(result, dict):
        raise VectunedError(f"{name} gave a JSON document that is no object.")
    return result


def finish(command: list[str], stdout: IO[str] | int) -> tuple[int, str]:
    """Run a program that may import this folder; return its exit code and output."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    with subprocess.Popen(command, stdout=stdout, encoding="utf-8", env=environment) as process:
        try:
            printed, _ = process.communicate()
        except KeyboardInterrupt:
            process.wait()  # it was interrupted too, and has a server to stop
            raise
    return process.returncode, printed or ""
