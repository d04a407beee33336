"""How many rows a text asks for."""

from __future__ import annotations

import pytest

from vectuned.learning.statements.limits import Limits, find_limits
from vectuned.learning.statements.tokens import tokenize


@pytest.mark.parametrize(
    ("text", "values", "rows"),
    [
        ("x LIMIT 5", (), 5),
        ("x LIMIT 5 OFFSET 7", (), 12),
        ("x offset $2 limit $1", ("5", "7"), 12),
        ("x LIMIT $1::bigint", ("5",), 5),
        ("x LIMIT ($1)::int OFFSET NULL", ("5",), 5),
        ("x LIMIT '5'", (), 5),
        ("x LIMIT (5)", (), 5),
        ("x FETCH FIRST 5 ROWS ONLY", (), 5),
        ("x FETCH NEXT ROW ONLY", (), 1),
        ("x FETCH FIRST $1 ROWS WITH TIES", ("5",), 5),
        ("x LIMIT 5 FOR UPDATE", (), 5),
        ("SELECT t.limit, 1 AS offset LIMIT 5", (), 5),
        ("x LIMIT $1", (None,), None),
        ("x LIMIT ALL", (), None),
        ("x LIMIT 0", (), None),
        ("x LIMIT $1", ("-1",), None),
        ("x LIMIT $1", ("many",), None),
        ("x LIMIT 1000000", (), None),
        ("x LIMIT $3", ("1",), None),
    ],
)
def test_find_limits_reads_numbers_and_parameters(
    text: str, values: tuple[str | None, ...], rows: int | None
) -> None:
    limits = find_limits(tokenize(text))
    assert isinstance(limits, Limits)
    assert limits.rows(values) == rows


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x", "it has no LIMIT"),
        ("x LIMIT 1) LIMIT 2", "it has more than one LIMIT"),
        ("x LIMIT 1 OFFSET 1) OFFSET 2", "it has more than one LIMIT"),
        ("x LIMIT 1 + 2", "its LIMIT is an expression"),
        ("x LIMIT least(1, 2)", "its LIMIT is an expression"),
        ("x LIMIT (SELECT 1)", "its LIMIT is an expression"),
        ("x LIMIT", "its LIMIT is an expression"),
        ("x LIMIT 5 OFFSET f(1)", "its LIMIT is an expression"),
        ("x LIMIT 'five'", "its LIMIT is an expression"),
    ],
)
def test_find_limits_gives_the_reason_for_other_texts(text: str, reason: str) -> None:
    assert find_limits(tokenize(text)) == reason
