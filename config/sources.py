"""Reads settings from a file, the environment and the command line, and tells every mistake at once."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from .errors import printable

PREFIX: Final = "VECTUNED_"
HOME_VARIABLE: Final = "VECTUNED_HOME"
CONFIG_VARIABLE: Final = "VECTUNED_CONFIG"
COMMAND_LINE: Final = "command line"

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,63}")
_LONGEST_FILE: Final = 1 << 20


@dataclass(frozen=True)
class Schema:
    """The sections there are, and the families of sections that the user names, such as [databases.NAME]."""

    sections: Mapping[str, type[BaseModel]]
    families: Mapping[str, type[BaseModel]]

    def model(self, section: str) -> type[BaseModel] | None:
        """Find the model of a section or of a member of a family; None if there is no such section."""
        family, dot, name = section.partition(".")
        if dot:
            return self.families.get(family) if _NAME.fullmatch(name) else None
        return self.sections.get(section)

    def every_key(self, members: Iterable[str] = ()) -> Iterator[tuple[str, str]]:
        """Yield (section, key) of all sections and of these members of families."""
        for section in (*self.sections, *members):
            model = self.model(section)
            yield from ((section, key) for key in (model.model_fields if model else ()))


@dataclass(frozen=True)
class SourcedValue:
    """A value that was set, and by what: a file, a variable or the command line."""

    value: Any
    source: str


@dataclass
class SourceReading:
    """What one source sets, by section and key, and what is wrong with it; `heading` introduces that."""

    heading: str = ""
    layer: dict[str, dict[str, SourcedValue]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    readable: bool = True

    def members(self, family: str) -> list[str]:
        """List the sections [family.NAME] that there are."""
        return [section for section in self.layer if section.startswith(f"{family}.")]


def read_file(path: Path, schema: Schema, named_by: str = "") -> SourceReading:
    """Read a TOML file; `named_by` is the variable that named it, if one did."""
    shown = printable(path)
    try:
        document = _parse(path)
    except _UnreadableError as error:
        by = f", named by {named_by}," if named_by else ""
        return SourceReading("", {}, [f"The configuration file {shown}{by} {error}"], readable=False)
    reading = SourceReading(f"{shown}: ")
    for section, values in document.items():
        if section in schema.families and isinstance(values, dict):
            for name, inner in values.items():
                if not _NAME.fullmatch(name):
                    reading.problems.append(
                        f"[{section}.{printable(name)}] must be named by 1 to 63 letters, digits, _ and -"
                    )
                elif not isinstance(inner, dict):
                    reading.problems.append(f"{section}.{name} must be a section, [{section}.{name}]")
                else:
                    _take(reading, schema, f"{section}.{name}", inner, shown)
        elif section in schema.families:
            reading.problems.append(f"{section} must be sections, [{section}.NAME]")
        elif section not in schema.sections:
            known = [*schema.sections, *schema.families]
            reading.problems.append(f"unknown section [{printable(section)}]{_suggest(section, known)}")
        elif not isinstance(values, dict):
            reading.problems.append(f"{section} must be a section, [{section}]")
        else:
            _take(reading, schema, section, values, shown)
    return reading


def read_environment(environ: Mapping[str, str], schema: Schema, members: Iterable[str]) -> SourceReading:
    """Read the variables VECTUNED_SECTION__KEY.

    Of a family they are VECTUNED_FAMILY__NAME__KEY, where NAME is that of one of the `members` in upper case
    with _ for -, else a new one's, which is then in lower case.
    """
    reading = SourceReading("Environment: ")
    every = schema.every_key([*_new_members(environ, schema), *members])
    known = {_variable(section, key): (section, key) for section, key in every}
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in (HOME_VARIABLE, CONFIG_VARIABLE):
            continue
        if name not in known:
            reading.problems.append(f"unknown variable {printable(name)}{_suggest(name, known)}")
            continue
        section, key = known[name]
        model = schema.model(section)
        assert model is not None
        reading.problems += [f"{name}: {each}" for each in _problems(section, model, {key: environ[name]})]
        reading.layer.setdefault(section, {})[key] = SourcedValue(environ[name], name)
    return reading


def read_overrides(overrides: Mapping[str, object], schema: Schema) -> SourceReading:
    """Read what the command line says, by "section.key"; None is not given."""
    reading = SourceReading("Command line: ")
    for name, value in overrides.items():
        section, _, key = name.rpartition(".")
        model = schema.model(section)
        if model is None or key not in model.model_fields:
            members = [section] if model is not None and section not in schema.sections else []
            known = [f"{section}.{key}" for section, key in schema.every_key(members)]
            reading.problems.append(f"unknown setting {printable(name)}{_suggest(name, known)}")
        elif value is not None:
            reading.problems += _problems(section, model, {key: value})
            reading.layer.setdefault(section, {})[key] = SourcedValue(value, COMMAND_LINE)
    return reading


class _UnreadableError(Exception):
    """Goes on after "The configuration file so-and-so"."""


def _parse(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_LONGEST_FILE + 1)
    except FileNotFoundError as error:
        raise _UnreadableError("does not exist") from error
    except OSError as error:
        raise _UnreadableError(f"cannot be read: {error.strerror}") from error
    except ValueError as error:  # a NUL in the name
        raise _UnreadableError(f"cannot be read: {error}") from error
    if len(data) > _LONGEST_FILE:
        raise _UnreadableError("is longer than 1 MB, so hardly a configuration")
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _UnreadableError(f"is not UTF-8, as TOML must be: see line {line}") from error
    except RecursionError as error:
        raise _UnreadableError("is not valid TOML: it is nested too deeply") from error
    except ValueError as error:
        raise _UnreadableError(f"is not valid TOML: {printable(error)}") from error


def _take(
    reading: SourceReading, schema: Schema, section: str, values: Mapping[str, Any], source: str
) -> None:
    model = schema.model(section)
    assert model is not None
    # Strict: TOML has types of its own, and a quoted number is a mistake.
    reading.problems += _problems(section, model, values, strict=True)
    reading.layer[section] = {key: SourcedValue(value, source) for key, value in values.items()}


def _variable(section: str, key: str) -> str:
    return f"{PREFIX}{section.replace('.', '__').replace('-', '_')}__{key}".upper()


def _new_members(environ: Mapping[str, str], schema: Schema) -> Iterator[str]:
    for family in schema.families:
        start = f"{PREFIX}{family.upper()}__"
        for variable in environ:
            name = variable.removeprefix(start).rpartition("__")[0]
            if variable.startswith(start) and name.isupper() | name.isdigit() and _NAME.fullmatch(name):
                yield f"{family}.{name.lower()}"


def _problems(
    section: str, model: type[BaseModel], values: Mapping[str, object], strict: bool = False
) -> list[str]:
    """Say of each of a section's values that is wrong what is expected instead."""
    try:
        model.model_validate(values, strict=strict)
    except ValidationError as error:
        keys = dict.fromkeys(str(detail["loc"][0]) for detail in error.errors(include_input=False))
        return [
            f"{section}.{key} must be {_expected(model, key)}"
            if key in model.model_fields
            else f"unknown key {section}.{printable(key)}{_suggest(key, list(model.model_fields))}"
            for key in keys
        ]
    return []


def _expected(model: type[BaseModel], key: str) -> str:
    schema = model.model_json_schema()["properties"][key]
    if "expected" in schema:
        return str(schema["expected"])
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    kinds = {"integer": "a whole number", "number": "a number", "string": "text", "boolean": "true or false"}
    limits = {
        "minimum": "at least {}",
        "exclusiveMinimum": "more than {}",
        "maximum": "at most {}",
        "exclusiveMaximum": "less than {}",
        "minLength": "of at least {} character",
        "maxLength": "of at most {} characters",
    }
    bounds = [text.format(schema[name]) for name, text in limits.items() if name in schema]
    return " ".join((kinds[schema["type"]], " and ".join(bounds), schema.get("form", ""))).strip()


def _suggest(word: str, known: Iterable[str]) -> str:
    # Without what all variables begin with, which would make any two of them alike.
    known = {each.removeprefix(PREFIX): each for each in known}
    if close := difflib.get_close_matches(word[:200].removeprefix(PREFIX), known, n=1):
        return f" (did you mean {known[close[0]]}?)"
    return f" (known: {', '.join(known)})" if len(known) < 16 else " (see config/vectuned.toml for all)"
