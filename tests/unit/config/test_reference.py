"""vectuned.toml and README.md are generated from the settings and their descriptions."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from importlib import resources

import pytest

from vectuned.config.reference import describe_setting, render_markdown, render_toml
from vectuned.config.settings import SECTIONS


@pytest.mark.parametrize(("name", "render"), [("vectuned.toml", render_toml), ("README.md", render_markdown)])
def test_committed_file_is_what_the_settings_render(name: str, render: Callable[[], str]) -> None:
    text = (resources.files("vectuned.config") / name).read_text(encoding="utf-8")
    # If it differs: python -m vectuned.config.reference config
    assert text == render()


def test_render_toml_is_valid_toml_in_lines_of_readable_length() -> None:
    text = render_toml()
    assert list(tomllib.loads(text)) == list(SECTIONS)
    assert max(map(len, text.splitlines())) <= 110


def test_render_markdown_has_a_row_for_every_setting() -> None:
    rows = [line.split(" | ")[0] for line in render_markdown().splitlines() if line.startswith("| `")]
    assert rows == [f"| `{key}`" for model in SECTIONS.values() for key in model.model_fields]


@pytest.mark.parametrize(
    ("section", "key", "ending"),
    [
        ("database", "connect_timeout", " Range: 1 to 3600."),
        ("learning", "confidence", " Range: 0.5 to less than 1."),
        ("budget", "core_share", " Range: more than 0 to 1."),
        ("logging", "level", "DEBUG, INFO, WARNING or ERROR."),
    ],
)
def test_describe_setting_ends_with_the_range_of_a_number(section: str, key: str, ending: str) -> None:
    assert describe_setting(SECTIONS[section], key).endswith(ending)
