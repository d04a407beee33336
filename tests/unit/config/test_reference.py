"""vectuned.toml is generated from the settings and their descriptions."""

from __future__ import annotations

import tomllib
from importlib import resources

import pytest

from vectuned.config.reference import describe_setting, render_toml
from vectuned.config.settings import SECTIONS


def test_vectuned_toml_is_what_render_toml_returns() -> None:
    text = (resources.files("vectuned.config") / "vectuned.toml").read_text(encoding="utf-8")
    # If it differs: python -m vectuned.config.reference > config/vectuned.toml
    assert text == render_toml()


def test_render_toml_is_valid_toml_in_lines_of_readable_length() -> None:
    text = render_toml()
    assert list(tomllib.loads(text)) == list(SECTIONS)
    assert max(map(len, text.splitlines())) <= 110


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
