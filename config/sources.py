"""Reads settings from a file, the environment and the command line, and collects all mistakes.

The TOML and environment sources of pydantic-settings do not serve here. They ignore unknown variables, do not
record which source set a value, and validate only the merged settings, which cannot be strict with TOML
(where "10" is no number) and lenient with variables (which are always text).
"""

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
PROGRAMS_VARIABLE: Final = "VECTUNED_PROGRAMS"
CONFIG_VARIABLE: Final = "VECTUNED_CONFIG"
COMMAND_LINE: Final = "command line"

# NAME of [databases.NAME]; 63 is the length of names in PostgreSQL.
_MEMBER_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,63}")
# Bytes: a hundred times what all settings take. A longer file is another one, or a device without an end.
_LONGEST_FILE: Final = 1 << 20
# An unknown name with fewer alternatives than this is answered with all of them.
_FEW_NAMES: Final = 16
# Characters of an unknown name that are compared with known ones: the comparison takes quadratic time.
_COMPARED_LENGTH: Final = 200

_TYPE_NAMES: Final = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
}
# Keywords of JSON schema, and how errors describe them.
_BOUNDS: Final = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
    "minLength": "of at least {} character",
    "maxLength": "of at most {} characters",
}


@dataclass(frozen=True)
class Schema:
    """The models of the sections, and of families whose sections the user names, such as [databases.NAME]."""

    sections: Mapping[str, type[BaseModel]]
    families: Mapping[str, type[BaseModel]]

    def model(self, section: str) -> type[BaseModel] | None:
        """Return the model of a section or of a member of a family, None if there is no such section."""
        family, dot, name = section.partition(".")
        if dot:
            return self.families.get(family) if _MEMBER_NAME.fullmatch(name) else None
        return self.sections.get(section)

    def every_key(self, members: Iterable[str] = ()) -> Iterator[tuple[str, str]]:
        """Yield (section, key) for all sections and for these members of families."""
        for section in (*self.sections, *members):
            model = self.model(section)
            yield from ((section, key) for key in (model.model_fields if model else ()))


@dataclass(frozen=True)
class SourcedValue:
    """A value and its source: a file, a variable or the command line."""

    value: Any
    source: str


Layer = dict[str, dict[str, SourcedValue]]
"""Values by section and key."""


@dataclass
class SourceReading:
    """The values that one source sets, and the problems found in it, which `heading` introduces."""

    heading: str = ""
    layer: Layer = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    readable: bool = True


def list_members(layer: Layer, family: str) -> list[str]:
    """Return the sections [family.NAME] of a layer."""
    return [section for section in layer if section.startswith(f"{family}.")]


def read_file(path: Path, schema: Schema, named_by: str = "") -> SourceReading:
    """Read a TOML file; `named_by` is the variable that named it, if one did."""
    name = printable(path)
    try:
        document = _parse(path)
    except _UnreadableError as error:
        by = f", named by {named_by}," if named_by else ""
        return SourceReading("", {}, [f"The configuration file {name}{by} {error}"], readable=False)
    reading = SourceReading(f"{name}: ")
    for section, values in document.items():
        if section in schema.families:
            _read_family(reading, schema, section, values, name)
        elif section not in schema.sections:
            known = [*schema.sections, *schema.families]
            reading.problems.append(f"unknown section [{printable(section)}]{_suggest(section, known)}")
        else:
            _read_section(reading, schema, section, values, name)
    return reading


def read_environment(environ: Mapping[str, str], schema: Schema, members: Iterable[str]) -> SourceReading:
    """Read the variables VECTUNED_SECTION__KEY.

    Those of a family are VECTUNED_FAMILY__NAME__KEY. NAME is the name of one of the `members` in upper case
    and with _ for -; any other NAME adds a member, whose name is in lower case.
    """
    reading = SourceReading("Environment: ")
    keys = schema.every_key([*_find_members(environ, schema), *members])
    known = {_variable_name(section, key): (section, key) for section, key in keys}
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in (HOME_VARIABLE, PROGRAMS_VARIABLE, CONFIG_VARIABLE):
            continue
        if name not in known:
            reading.problems.append(f"unknown variable {printable(name)}{_suggest(name, known)}")
            continue
        section, key = known[name]
        model = schema.model(section)
        assert model is not None
        problems = _find_problems(section, model, {key: environ[name]})
        reading.problems += [f"{name}: {problem}" for problem in problems]
        reading.layer.setdefault(section, {})[key] = SourcedValue(environ[name], name)
    return reading


def read_overrides(overrides: Mapping[str, object], schema: Schema) -> SourceReading:
    """Read values of the command line, by "section.key"; None stands for an option that is not given."""
    reading = SourceReading("Command line: ")
    for name, value in overrides.items():
        section, _, key = name.rpartition(".")
        model = schema.model(section)
        if model is None or key not in model.model_fields:
            members = [section] if model is not None and section not in schema.sections else []
            known = [f"{section}.{key}" for section, key in schema.every_key(members)]
            reading.problems.append(f"unknown setting {printable(name)}{_suggest(name, known)}")
        elif value is not None:
            reading.problems += _find_problems(section, model, {key: value})
            reading.layer.setdefault(section, {})[key] = SourcedValue(value, COMMAND_LINE)
    return reading


class _UnreadableError(Exception):
    """The message continues "The configuration file NAME ..."."""


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


def _read_family(reading: SourceReading, schema: Schema, family: str, members: object, source: str) -> None:
    """Add the sections [family.NAME] of a file to its reading."""
    if not isinstance(members, dict):
        reading.problems.append(f"{family} must be sections, [{family}.NAME]")
        return
    for name, values in members.items():
        if _MEMBER_NAME.fullmatch(name):
            _read_section(reading, schema, f"{family}.{name}", values, source)
        else:
            reading.problems.append(
                f"[{family}.{printable(name)}] must be named by 1 to 63 letters, digits, _ and -"
            )


def _read_section(reading: SourceReading, schema: Schema, section: str, values: object, source: str) -> None:
    """Add a section of a file to its reading."""
    if not isinstance(values, dict):
        reading.problems.append(f"{section} must be a section, [{section}]")
        return
    model = schema.model(section)
    assert model is not None
    # Strict, because TOML has types: a quoted number is a mistake.
    reading.problems += _find_problems(section, model, values, strict=True)
    reading.layer[section] = {key: SourcedValue(value, source) for key, value in values.items()}


def _variable_name(section: str, key: str) -> str:
    return f"{PREFIX}{section.replace('.', '__').replace('-', '_')}__{key}".upper()


def _find_members(environ: Mapping[str, str], schema: Schema) -> Iterator[str]:
    """Yield the sections "family.name" that variables may add."""
    for family in schema.families:
        prefix = f"{PREFIX}{family.upper()}__"
        for variable in environ:
            name = variable.removeprefix(prefix).rpartition("__")[0]
            is_upper = name.isupper() or name.isdigit()
            if variable.startswith(prefix) and is_upper and _MEMBER_NAME.fullmatch(name):
                yield f"{family}.{name.lower()}"


def _find_problems(
    section: str, model: type[BaseModel], values: Mapping[str, object], strict: bool = False
) -> list[str]:
    """Return a message for each wrong value or unknown key of a section, with what is expected."""
    try:
        model.model_validate(values, strict=strict)
    except ValidationError as error:
        keys = dict.fromkeys(str(detail["loc"][0]) for detail in error.errors(include_input=False))
        return [
            f"{section}.{key} must be {_describe_expected(model, key)}"
            if key in model.model_fields
            else f"unknown key {section}.{printable(key)}{_suggest(key, list(model.model_fields))}"
            for key in keys
        ]
    return []


def _describe_bounds(schema: Mapping[str, Any]) -> str:
    """Return the bounds of a setting in words, from its JSON schema; empty if there are none."""
    return " and ".join(text.format(schema[name]) for name, text in _BOUNDS.items() if name in schema)


def _describe_expected(model: type[BaseModel], key: str) -> str:
    """Return what a setting must be, as it follows "must be"."""
    schema = model.model_json_schema()["properties"][key]
    if "expected" in schema:
        return str(schema["expected"])
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    parts = (_TYPE_NAMES[schema["type"]], _describe_bounds(schema), schema.get("form", ""))
    return " ".join(parts).strip()


def _suggest(word: str, names: Iterable[str]) -> str:
    """Return a hint in parentheses: the known name that resembles a word, or all of them if they are few."""
    # Compared without the prefix of all variables, which makes any two of them similar.
    known = {name.removeprefix(PREFIX): name for name in names}
    compared = word[:_COMPARED_LENGTH].removeprefix(PREFIX)
    if close := difflib.get_close_matches(compared, known, n=1):
        return f" (did you mean {known[close[0]]}?)"
    if len(known) < _FEW_NAMES:
        return f" (known: {', '.join(known)})"
    return " (see config/vectuned.toml for all)"
