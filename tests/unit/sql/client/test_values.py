"""The key of a call's values is the same in the application and in the server's log."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pgvector import Vector

from vectuned.sql.client.fingerprint import fingerprint
from vectuned.sql.client.values import value_key, value_slots

VECTOR = "[0.5,1,2]"
LOGGED = "SELECT id FROM t WHERE a = $2 AND n < 7 ORDER BY e <=> $1 LIMIT $3"


def key(text: str, parameters: Any) -> str | None:
    return value_key(fingerprint(text), value_slots(text), parameters)


EXPECTED = key(LOGGED, [VECTOR, "it's", "10"])


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        (LOGGED, [VECTOR, "it's", 20]),
        ("select id from t where a = %s and n < 7 order by e <=> %s limit %s", ("it's", Vector([1]), 10)),
        (
            "SELECT id FROM t WHERE a = %(a)s AND n < 7 ORDER BY e <=> %(v)s LIMIT 10",
            {"a": "it's", "v": "[1]"},
        ),
        ("SELECT id FROM t WHERE a = 'it''s' AND n < 7 ORDER BY e <=> '[1]' LIMIT 10 -- 5", None),
        ("SELECT id FROM t WHERE a = %s AND n < %s ORDER BY e <=> %s LIMIT 5", ("it's", 7, np.ones(3))),
        ("SELECT id FROM t WHERE a = %s AND n < %s ORDER BY e <=> %s LIMIT 5", ("it's", 7, [0.5, 1.0])),
    ],
)
def test_value_key_is_the_same_for_all_drivers(text: str, parameters: Any) -> None:
    assert EXPECTED is not None
    assert key(text, parameters) == EXPECTED


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        (LOGGED, [VECTOR, "its", "10"]),
        (LOGGED, [VECTOR, None, "10"]),
        (LOGGED.replace("7", "8"), [VECTOR, "it's", "10"]),
        (LOGGED.replace("a =", "b ="), [VECTOR, "it's", "10"]),
    ],
)
def test_value_key_differs_by_values_and_statement(text: str, parameters: Any) -> None:
    assert key(text, parameters) not in (None, EXPECTED)


@pytest.mark.parametrize("parameters", [None, [], [VECTOR, object(), 10], [VECTOR, "x" * 20_000, 10]])
def test_value_key_is_none_without_known_values(parameters: Any) -> None:
    assert key(LOGGED, parameters) is None


def test_value_slots_leave_names_and_escaped_signs_alone() -> None:
    text = 'SELECT "a 1", t2.b3 FROM t2 WHERE c LIKE %s AND d %% 2 = 1 OFFSET 5'
    assert value_slots(text) == ((None, 0), ("2", None), ("1", None))
