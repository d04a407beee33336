"""Errors and the text of unknown origin that they quote."""

from __future__ import annotations

import pytest

from vectuned.config.errors import ConfigurationError, printable


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain", "plain"),
        ("two\nlines", r"two\nlines"),
        ("\x1b[2J", r"\x1b[2J"),
        ("a\u202eb", r"a\u202eb"),
        ("x" * 201, "x" * 200 + "..."),
        (5, "5"),
    ],
)
def test_printable_escapes_control_characters_and_cuts_long_text(text: object, line: str) -> None:
    assert printable(text) == line


def test_printable_cuts_at_the_given_length() -> None:
    assert printable("abcdef", 3) == "abc..."


def test_configuration_error_without_problems_has_its_message_as_the_only_one() -> None:
    assert ConfigurationError("wrong").problems == ("wrong",)
    assert ConfigurationError("a; b", ["a", "b"]).problems == ("a", "b")
