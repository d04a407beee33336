"""Generates vectuned.toml, which lists every setting, from the descriptions of the settings.

`python -m vectuned.config.reference > config/vectuned.toml` writes the file; a test fails while it differs.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Final

from .sections import Section
from .settings import SECTIONS

_COMMENT_WIDTH: Final = 110  # characters of a line, "# " included: as wide as the code

_HEADER: Final = """\
The configuration of vectuned: every setting at its default. Generated from config/sections.py.

Name this file with --config or in VECTUNED_CONFIG. The environment overrides it, with one variable per \
setting: VECTUNED_DATABASE__DSN sets dsn in [database]. The command line overrides both: --set \
database.dsn=... An unknown name, here or in a variable VECTUNED_*, is an error. `vectuned config check` \
checks file and environment without using them; `vectuned config show` prints each value in force and its \
source."""

# What follows a section.
_FOOTERS: Final[Mapping[str, str]] = {
    "database": """\
To run one daemon on several databases, replace dsn and replay_dsn of [database] by sections \
[databases.NAME] with the same keys, each with its own dsn. Those that do not set connect_timeout or \
application_name inherit them from [database]. A NAME consists of letters, digits, _ and -; \
VECTUNED_DATABASES__SHOP__DSN sets the dsn of "shop". On the command line, --database NAME chooses one of \
them.

[databases.shop]
dsn = "service=shop"

[databases.library]
dsn = "host=db2 dbname=library user=vectuned"
replay_dsn = "host=db3 dbname=library user=vectuned"
"""
}


def render_toml() -> str:
    """Return the text of vectuned.toml."""
    blocks = [_to_comment(_HEADER)]
    for name, model in SECTIONS.items():
        blocks.append("\n".join([f"[{name}]", *_render_settings(model)]))
        if name in _FOOTERS:
            blocks.append(_to_comment(_FOOTERS[name]))
    return "\n\n".join(blocks) + "\n"


def describe_setting(model: type[Section], key: str) -> str:
    """Return the description of a setting, followed by the range of a number."""
    schema = model.model_json_schema()["properties"][key]
    description = str(schema["description"])
    if schema["type"] not in ("integer", "number"):
        return description
    low = schema.get("minimum", f"more than {schema.get('exclusiveMinimum')}")
    high = schema.get("maximum", f"less than {schema.get('exclusiveMaximum')}")
    return f"{description} Range: {low} to {high}."


def _render_settings(model: type[Section]) -> Iterator[str]:
    for key, field in model.model_fields.items():
        yield _to_comment(describe_setting(model, key))
        yield f"{key} = {_to_toml(field.default)}"


def _to_comment(text: str) -> str:
    lines = (
        line
        for paragraph in text.splitlines()
        for line in textwrap.wrap(
            paragraph, _COMMENT_WIDTH - 2, break_long_words=False, break_on_hyphens=False
        )
        or [""]
    )
    return "\n".join(f"# {line}".rstrip() for line in lines)


def _to_toml(value: Any) -> str:
    # Strings, numbers and booleans are written alike in JSON and TOML.
    return json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    sys.stdout.write(render_toml())
