"""Definitions of the benchmarks, read from definitions.toml and validated."""

from __future__ import annotations

import re
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from vectuned.config.errors import ConfigurationError, UsageError, printable

FOLDER: Final = Path(__file__).parent
DEFINITIONS: Final = FOLDER / "definitions.toml"
NEEDS: Final = {"demo": "vectuned demo", "wordnet": "vectuned wordnet load"}
_NAME: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class Figures(BaseModel):
    """A table to be made of a result; a path consists of keys separated by /, and * matches every key.

    `rows` is the path of the rows. `heads` are the headings for the keys that its asterisks match (positions
    in a list have none). `columns` maps each heading to a path within the row. Instead of a path, `rows` may
    list chosen rows: the keys to show, then the path. A table with a `name` is shown only where the name is
    given.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str = ""
    title: str = ""
    rows: str | list[list[str]] = ""
    heads: list[str] = []
    columns: dict[str, str] = Field(min_length=1)


class Definition(BaseModel):
    """A run: what it shows, how long it takes, and its kind; further keys are options of that kind."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    shows: str = Field(min_length=1)
    minutes: float = Field(gt=0)
    kind: str
    seed: int = Field(0, ge=0)
    needs: Literal["demo", "wordnet"] | None = None
    judged: str | None = None
    tables: list[Figures] = []

    @field_validator("kind")
    @classmethod
    def _is_a_module(cls, kind: str) -> str:
        if not re.fullmatch(r"[a-z_]+", kind) or find_spec(f"{__package__}.{kind}") is None:
            raise ValueError(
                f"there is no module {FOLDER.name}/{printable(kind)}.py; script, command or that"
            )
        return kind

    @property
    def options(self) -> dict[str, Any]:
        """Return the options of the kind, without the seed."""
        return dict(self.model_extra or {})

    def as_run(self) -> dict[str, Any]:
        """Return the part of the definition that determines the result and is stored with it."""
        told = self.model_dump(by_alias=True, exclude_none=True)
        return {name: value for name, value in told.items() if name not in _OF_THE_VIEW}


class Process(Definition):
    """A run by a program that prints or writes its result."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    arguments: list[str] = []
    document: Literal["stdout", "file"] = Field("stdout", alias="json")
    takes_dsn: bool = True

    @field_validator("kind")
    @classmethod
    def _is_a_module(cls, kind: str) -> str:
        return kind


class Script(Process):
    """A run by a script of this folder."""

    script: str

    @field_validator("script")
    @classmethod
    def _is_there(cls, script: str) -> str:
        if not re.fullmatch(r"[a-z_]+\.py", script) or not (FOLDER / script).is_file():
            raise ValueError(f"there is no script {FOLDER.name}/{printable(script)}")
        return script


class Command(Process):
    """A run by a command of vectuned itself."""

    arguments: list[str] = Field(min_length=1)


_OF_THE_VIEW: Final = ("shows", "minutes", "seed", "needs", "judged", "tables")
_KINDS: Final[dict[object, type[Definition]]] = {"script": Script, "command": Command}


def load_definitions(path: Path = DEFINITIONS) -> dict[str, Definition]:
    """Read the runs by name, in the order of the file; raise ConfigurationError listing all mistakes."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigurationError(f"{path} is not TOML: {error}.") from error
    problems = [f"{printable(key)} is unknown: all stands in [runs.NAME]" for key in found if key != "runs"]
    runs = found.get("runs", {})
    if not isinstance(runs, dict):
        problems, runs = [*problems, "runs must be sections [runs.NAME]"], {}
    definitions = {}
    for name, values in runs.items():
        place = f"runs.{printable(name)}"
        if not _NAME.fullmatch(name):
            problems.append(f"{place}: a name is small letters and digits, with single hyphens between them")
        if not isinstance(values, dict):
            problems.append(f"{place} must be a section")
            continue
        try:
            definitions[name] = _KINDS.get(str(values.get("kind")), Definition).model_validate(values)
        except ValidationError as error:
            problems += [f"{place}{_mistake(each)}" for each in error.errors()]
    if problems:
        raise ConfigurationError(f"{path.name} has mistakes: {'; '.join(problems)}.", problems)
    return definitions


def choose(definitions: dict[str, Definition], names: list[str]) -> dict[str, Definition]:
    """Return the named runs in order, each once; all runs if none is named."""
    unknown = [name for name in names if name not in definitions]
    if unknown:
        raise UsageError(
            f"There is no run {', '.join(map(printable, unknown))}; there are {', '.join(definitions)}."
        )
    return {name: definitions[name] for name in names or definitions}


def _mistake(error: Any) -> str:
    place = "".join(f".{printable(part)}" for part in error["loc"])
    said = error["msg"].removeprefix("Value error, ")
    return f"{place}: {said[:1].lower()}{said[1:]}"
