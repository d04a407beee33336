"""Every key refuses what it cannot take, whichever source it comes from; what it takes does no harm."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict
from tests.hostile_helpers import HOSTILE

from vectuned.config.errors import ConfigurationError
from vectuned.config.settings import SECTIONS, Settings, load_settings

SCHEMAS: dict[tuple[str, str], dict[str, Any]] = {
    (section, key): schema
    for section, model in SECTIONS.items()
    for key, schema in model.model_json_schema()["properties"].items()
}
TEXTS = [name for name, schema in SCHEMAS.items() if schema["type"] == "string"]
Source = Callable[[str, str, Any], Settings]


def toml(value: Any) -> str:
    """Write a value for a TOML file, text with every character escaped that might need it."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return repr(value)
    escaped = (c if c.isalnum() and c.isascii() else f"\\U{ord(c):08x}" for c in value)
    return f'"{"".join(escaped)}"'


@pytest.fixture(params=["file", "environment", "command line"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    """A way to set one key."""

    def by_file(section: str, key: str, value: Any) -> Settings:
        file = tmp_path / "vectuned.toml"
        file.write_text(f"[{section}]\n{key} = {toml(value)}\n")
        return load_settings(file, environ={})

    def by_variable(section: str, key: str, value: Any) -> Settings:
        return load_settings(environ={f"VECTUNED_{section}__{key}".upper(): str(value)})

    def by_override(section: str, key: str, value: Any) -> Settings:
        return load_settings(overrides={f"{section}.{key}": str(value)}, environ={})

    return {"file": by_file, "environment": by_variable, "command line": by_override}[request.param]


def impossible(schema: dict[str, Any]) -> Iterator[Any]:
    """Yield values that a key cannot have: of another type, not finite, and just out of range."""
    yield from {
        "string": [],
        "boolean": ["perhaps", 2, ""],
        "integer": ["many", 1.5, "", math.nan],
        "number": ["much", "", math.nan, math.inf, -math.inf],
    }[schema["type"]]
    if "enum" in schema:
        yield from ("", "no such thing", schema["enum"][0].swapcase())
    step = 1 if schema["type"] == "integer" else 1e-9
    if "minimum" in schema:
        yield schema["minimum"] - step
    if "maximum" in schema:
        yield schema["maximum"] + (1 if schema["maximum"] > 100 else step)
    yield from (schema[bound] for bound in ("exclusiveMinimum", "exclusiveMaximum") if bound in schema)
    if "pattern" in schema:
        yield "é\n"
    if "minLength" in schema:
        yield "x" * (schema["minLength"] - 1)
    if "maxLength" in schema:
        yield "x" * (schema["maxLength"] + 1)


def possible(schema: dict[str, Any]) -> Iterator[Any]:
    """Yield the ends of a key's range that it includes."""
    yield from (schema[bound] for bound in ("minimum", "maximum") if bound in schema)
    yield from schema.get("enum", ())


@pytest.mark.parametrize(("section", "key"), SCHEMAS)
def test_every_key_refuses_what_it_cannot_take(source: Source, section: str, key: str) -> None:
    schema = SCHEMAS[section, key]
    tried = list(impossible(schema))
    assert tried
    for value in tried:
        with pytest.raises(ConfigurationError) as caught:
            source(section, key, value)
        assert f"{section}.{key} must be " in str(caught.value), value
        for bound in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "maxLength"):
            assert str(schema.get(bound, "")) in str(caught.value)
    for value in possible(schema):
        assert getattr(getattr(source(section, key, value), section), key) == value


@pytest.mark.parametrize(("section", "key"), SCHEMAS)
@pytest.mark.parametrize("value", ["[1]", "{a = 1}", "1979-05-27", "07:32:00"])
def test_no_key_takes_a_list_a_table_or_a_date(tmp_path: Path, section: str, key: str, value: str) -> None:
    file = tmp_path / "vectuned.toml"
    file.write_text(f"[{section}]\n{key} = {value}\n")
    with pytest.raises(ConfigurationError, match=rf"{section}\.{key} must be "):
        load_settings(file, environ={})


def test_enough_is_tried() -> None:
    assert len(HOSTILE) >= 100
    assert {"database.dsn", "database.replay_dsn", "database.application_name", "embedded.home"} <= {
        f"{section}.{key}" for section, key in TEXTS
    }


@pytest.mark.parametrize(("section", "key"), TEXTS)
def test_a_hostile_text_is_a_clear_error_or_harmless(source: Source, section: str, key: str) -> None:
    taken = 0
    for text in HOSTILE:
        try:
            settings = source(section, key, text)
        except ConfigurationError as error:
            told = str(error)
            assert told.isprintable(), repr(text)
            # A file that holds a lone surrogate is no TOML, and says no more than that.
            assert f"{section}.{key} must be " in told or ("not valid TOML" in told and "\\ud" in ascii(text))
            assert len(told) < 600
            continue
        value = getattr(getattr(settings, section), key)
        assert value == text
        taken += 1
        assert "\0" not in value
        if key in ("dsn", "replay_dsn"):
            assert not re.search(r"[\x00-\x1f\x7f]", "".join(map(str, conninfo_to_dict(value).values())))
        else:
            assert not re.search(r"[\x00-\x1f\x7f]", value)
        if key == "application_name":
            assert value.isascii()
            assert 0 < len(value) < 64
        if key == "home":
            assert len(value) <= 4096
            assert str(Path(value).expanduser())
    assert taken < len(HOSTILE) / 1.2
    assert taken > 5 or {"enum", "pattern"} & SCHEMAS[section, key].keys()


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_name_is_a_clear_error(tmp_path: Path, text: str) -> None:
    file = tmp_path / "vectuned.toml"
    told = []
    for body in (f"[{toml(text)}]\n", f"[inbox]\n{toml(text)} = 1\n", f"[databases.{toml(text)}]\n"):
        file.write_text(body)
        with pytest.raises(ConfigurationError) as caught:
            load_settings(file, environ={})
        told.append(str(caught.value))
    for overrides, environ in (
        ({text: "1"}, {}),
        ({f"inbox.{text}": "1"}, {}),
        ({f"databases.{text}.dsn": ""}, {}),
        ({}, {f"VECTUNED_{text}": "1"}),
        ({}, {f"VECTUNED_INBOX__{text}": "1"}),
        ({}, {"VECTUNED_CONFIG": f"{tmp_path}/none/{text}"}),
        ({}, {"VECTUNED_HOME": f"a{text}\n"}),
    ):
        with pytest.raises(ConfigurationError) as caught:
            load_settings(overrides=overrides, environ=environ)
        told.append(str(caught.value))
    for each in told:
        assert each.isprintable()
        assert len(each) < 1000
