"""Generates vectuned.toml and README.md, which list every setting, from the descriptions of the settings.

`python -m vectuned.config.reference config` writes both into the folder config; a test compares them.
"""

from __future__ import annotations

import inspect
import json
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
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

_INTRODUCTION: Final = """\
# Configuration

Every setting, by section. This page is generated from `config/sections.py`, as is
[vectuned.toml](vectuned.toml), a configuration file with every setting at its default.

Nothing needs to be configured. Settings come from four sources, of which later ones override earlier ones:

1. the defaults;
2. a TOML file, which `--config` or the variable `VECTUNED_CONFIG` names;
3. variables of the environment, one per setting: `VECTUNED_DATABASE__DSN` sets `dsn` in `[database]`;
4. the command line: `--set database.dsn=...`, or `--dsn ...` for this setting.

An unknown name in the file or in a variable `VECTUNED_*` is an error, as is a value of the wrong type or out
of range. `vectuned config check` reports all errors without starting anything; `vectuned config show` prints
each value in force and its source, with passwords starred."""

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


def render_markdown() -> str:
    """Return the text of README.md."""
    blocks = [_INTRODUCTION]
    for name, model in SECTIONS.items():
        rows = [
            f"| `{key}` | `{_to_toml(field.default)}` | {describe_setting(model, key)} |"
            for key, field in model.model_fields.items()
        ]
        table = "\n".join(["| key | default | description |", "|---|---|---|", *rows])
        blocks += [f"## [{name}]", inspect.getdoc(model) or "", table]
        if name in _FOOTERS:
            text, _, example = _FOOTERS[name].partition("\n\n")
            blocks += [text, f"```toml\n{example}```"]
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


def write_files(folder: Path) -> None:
    """Write vectuned.toml and README.md into a folder."""
    (folder / "vectuned.toml").write_text(render_toml(), encoding="utf-8")
    (folder / "README.md").write_text(render_markdown(), encoding="utf-8")


if __name__ == "__main__":
    write_files(Path(sys.argv[1]))
