"""Every setting refuses invalid values from every source, and accepts no value that does harm."""

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
    """Return a value as TOML, with all but ASCII letters and digits escaped in text."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return repr(value)
    escaped = (c if c.isalnum() and c.isascii() else f"\\U{ord(c):08x}" for c in value)
    return f'"{"".join(escaped)}"'


@pytest.fixture(params=["file", "environment", "command line"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    """Return a function that loads the settings with one key set, from each source in turn."""

    def by_file(section: str, key: str, value: Any) -> Settings:
        file = tmp_path / "vectuned.toml"
        file.write_text(f"[{section}]\n{key} = {toml(value)}\n")
        return load_settings(file, environ={})

    def by_variable(section: str, key: str, value: Any) -> Settings:
        return load_settings(environ={f"VECTUNED_{section}__{key}".upper(): str(value)})

    def by_override(section: str, key: str, value: Any) -> Settings:
        return load_settings(overrides={f"{section}.{key}": str(value)}, environ={})

    return {"file": by_file, "environment": by_variable, "command line": by_override}[request.param]


def invalid_values(schema: dict[str, Any]) -> Iterator[Any]:
    """Yield values of another type, not finite, and just out of range."""
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


def extreme_values(schema: dict[str, Any]) -> Iterator[Any]:
    """Yield the bounds of a range that belong to it, and the choices of an enumeration."""
    yield from (schema[bound] for bound in ("minimum", "maximum") if bound in schema)
    yield from schema.get("enum", ())


@pytest.mark.parametrize(("section", "key"), SCHEMAS)
def test_load_settings_refuses_invalid_values_and_accepts_extreme_ones(
    source: Source, section: str, key: str
) -> None:
    schema = SCHEMAS[section, key]
    values = list(invalid_values(schema))
    assert values
    for value in values:
        with pytest.raises(ConfigurationError) as caught:
            source(section, key, value)
        assert f"{section}.{key} must be " in str(caught.value), value
        for bound in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "maxLength"):
            assert str(schema.get(bound, "")) in str(caught.value)
    for value in extreme_values(schema):
        assert getattr(getattr(source(section, key, value), section), key) == value


@pytest.mark.parametrize(("section", "key"), SCHEMAS)
@pytest.mark.parametrize("value", ["[1]", "{a = 1}", "1979-05-27", "07:32:00"])
def test_load_settings_refuses_a_list_a_table_or_a_date(
    tmp_path: Path, section: str, key: str, value: str
) -> None:
    file = tmp_path / "vectuned.toml"
    file.write_text(f"[{section}]\n{key} = {value}\n")
    with pytest.raises(ConfigurationError, match=rf"{section}\.{key} must be "):
        load_settings(file, environ={})


def test_hostile_texts_are_many_and_tried_on_the_settings_that_matter() -> None:
    assert len(HOSTILE) >= 100
    assert {"database.dsn", "database.replay_dsn", "database.application_name", "embedded.home"} <= {
        f"{section}.{key}" for section, key in TEXTS
    }


@pytest.mark.parametrize(("section", "key"), TEXTS)
def test_load_settings_hostile_text_is_refused_or_harmless(source: Source, section: str, key: str) -> None:
    accepted = 0
    for text in HOSTILE:
        try:
            settings = source(section, key, text)
        except ConfigurationError as error:
            message = str(error)
            assert message.isprintable(), repr(text)
            # A file with a lone surrogate is not TOML, and the error names no key.
            assert f"{section}.{key} must be " in message or (
                "not valid TOML" in message and "\\ud" in ascii(text)
            )
            assert len(message) < 600
            continue
        value = getattr(getattr(settings, section), key)
        assert value == text
        accepted += 1
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
    assert accepted < len(HOSTILE) / 1.2
    assert accepted > 5 or {"enum", "pattern"} & SCHEMAS[section, key].keys()


@pytest.mark.parametrize("text", HOSTILE)
def test_load_settings_refuses_a_hostile_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "vectuned.toml"
    messages = []
    for body in (f"[{toml(text)}]\n", f"[inbox]\n{toml(text)} = 1\n", f"[databases.{toml(text)}]\n"):
        file.write_text(body)
        with pytest.raises(ConfigurationError) as caught:
            load_settings(file, environ={})
        messages.append(str(caught.value))
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
        messages.append(str(caught.value))
    for message in messages:
        assert message.isprintable()
        assert len(message) < 1000
