"""Result files: the result of a run with the machine, time and version it was measured on."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any, Final

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

import vectuned
from benchmarks.definitions import FOLDER
from vectuned.config.atomic_file import replace_file
from vectuned.config.errors import VectunedError

RESULTS: Final = FOLDER / "results"
LARGEST: Final = 200_000  # bytes of a file
_DIGITS: Final = 5


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Machine(_Part):
    """The machine of a measurement."""

    cores: int
    processor: str
    memory_gb: float
    system: str
    python: str


class LoadAverage(_Part):
    """Load average over one minute at the start and at the end."""

    start: float
    end: float


class Result(_Part):
    """A result file; `commit` ends with +changes if files of the repository were changed."""

    name: str
    definition: dict[str, Any]
    seed: int
    started: datetime
    seconds: float
    version: str
    commit: str | None
    machine: Machine
    load_average: LoadAverage
    result: dict[str, Any]


def record(name: str, definition: dict[str, Any], seed: int, work: Callable[[], dict[str, Any]]) -> Result:
    """Perform the work and return its result with the circumstances."""
    started, begun, load, commit = datetime.now(UTC), monotonic(), os.getloadavg()[0], present_commit()
    result = work()
    loads = LoadAverage(start=round(load, 2), end=round(os.getloadavg()[0], 2))
    return Result(
        name=name,
        definition=definition,
        seed=seed,
        started=started.replace(microsecond=0),
        seconds=round(monotonic() - begun, 1),
        version=vectuned.__version__,
        commit=commit,
        machine=this_machine(),
        load_average=loads,
        result=rounded(result),
    )


def store(result: Result, folder: Path) -> Path:
    """Write the file of a result atomically and return its path."""
    path = folder / f"{result.name}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as file:
            file.write(_text(result.model_dump(mode="json")).encode())
    except OSError as error:
        raise VectunedError(f"The result cannot be written to {path}: {error.strerror}.") from error
    return path


def stored(name: str, folder: Path) -> Result | None:
    """Read the stored result of a run, None if there is none."""
    path = folder / f"{name}.json"
    try:
        found = Result.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise VectunedError(f"The result {path} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise VectunedError(f"{path} is not a result, {place}: {first['msg']}; run {name} again.") from error
    if found.name != name:
        raise VectunedError(f"{path} is the result of {found.name}, not of {name}: rename it.")
    return found


def rounded(value: Any) -> Any:
    """Convert a value for JSON: floats to five digits, arrays to lists, NaN and infinities to null."""
    if isinstance(value, dict):
        return {str(key): rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(each) for each in value]
    if isinstance(value, np.ndarray | np.generic):
        return rounded(value.tolist())
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    raise TypeError(f"a result holds no {type(value).__name__}: {value!r}")


def this_machine() -> Machine:
    """Describe the machine without identifying it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return Machine(
        cores=cores,
        processor=_processor(),
        memory_gb=round(memory, 1),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
    )


def present_commit() -> str | None:
    """Return the checked-out commit, None outside a repository; changed result files are ignored."""
    try:
        commit = _git("rev-parse", "--short=12", "HEAD").strip()
        changes = _git("status", "--porcelain", "--", ".", f":(exclude){FOLDER.name}/{RESULTS.name}")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}+changes" if changes.strip() else commit


def _git(*arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(FOLDER.parent), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _processor() -> str:
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        told = ""
    found = re.search(r"^model name\s*: *(.+)$", told, flags=re.MULTILINE)
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def _text(document: Any) -> str:
    """Format JSON for comparison by line, with lists of plain values on one line."""
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    # JSON strings contain no line breaks, so spaces after one are layout.
    return re.sub(r"\[\n([^\[\]{}]*)\n *\]", _in_a_line, text) + "\n"


def _in_a_line(found: re.Match[str]) -> str:
    return "[" + re.sub(r"\n *", " ", found.group(1)).strip() + "]"
