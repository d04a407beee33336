"""Types of ports are compared and checked as a type checker does it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from tests.unit.reasoning.graph.graph_helpers import (
    Inputs,
    Text,
)

from vectuned.reasoning.graph.port_types import is_assignable, is_instance, type_name


@pytest.mark.parametrize(
    ("given", "wanted", "expected"),
    [
        (int, float, True),
        (float, int, False),
        (bool, int, True),
        (int, int | None, True),
        (int | None, int, False),
        (int | str, int | str | None, True),
        (tuple[str, ...], Sequence[str], True),
        (tuple[int, str], tuple[int, str], True),
        (tuple[int, str], tuple[int, ...], False),
        (list[int], Sequence[str], False),
        (dict[str, int], dict[str, float], True),
        (list[bool], list[int], True),
        (Inputs, Text, False),
        (None, type(None), True),
        (str, Any, True),
        (Any, str, True),
    ],
)
def test_is_assignable_agrees_with_type_checkers(given: Any, wanted: Any, expected: bool) -> None:
    assert is_assignable(given, wanted) is expected


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (1, float, True),
        (True, float, False),
        ("a", int | None, False),
        (None, int | None, True),
        ((1, 2), tuple[int, ...], True),
        (("a",), tuple[int, ...], False),
        ([], list[int], True),
    ],
)
def test_is_instance_checks_values(value: Any, kind: Any, expected: bool) -> None:
    assert is_instance(value, kind) is expected


def test_type_name_is_as_written_in_code() -> None:
    assert type_name(tuple[int, ...] | None) == "tuple[int, ...] | None"
    assert type_name(dict[str, Inputs]) == "dict[str, Inputs]"
