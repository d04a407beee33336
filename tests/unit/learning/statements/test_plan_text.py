"""What is read of plans of statements that are more than one table."""

from __future__ import annotations

from typing import Any

import pytest

from vectuned.learning.statements.limits import last_limit
from vectuned.learning.statements.plan import orders_by_distance, output_distance, searched_columns
from vectuned.learning.statements.tokens import tokenize

KEY = "((d.embedding <=> '[1,2]'::vector))"


def sort(key: str, *output: str, **more: Any) -> dict[str, Any]:
    scan = {
        "Node Type": "Seq Scan",
        "Schema": "public",
        "Relation Name": "docs",
        "Alias": "d",
        "Output": ["d.id"],
    }
    return {
        "Node Type": "Limit",
        "Output": list(output),
        "Plans": [{"Node Type": "Sort", "Sort Key": [key], "Plans": [scan]}],
        **more,
    }


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (("d.id", KEY), (1, 1.0)),
        (("(d.embedding <=> '[1,2]'::vector)", "d.id"), (0, 1.0)),
        (("d.id", "('1'::double precision - (d.embedding <=> '[1,2]'::vector))"), (1, -1.0)),
        (("d.id", "(d.embedding <=> '[9,9]'::vector)"), None),
        (("d.id", "((d.embedding <=> '[1,2]'::vector) - '1'::double precision)"), None),
        (("d.id",), None),
    ],
)
def test_output_distance_finds_the_distance_that_is_sorted_by(
    output: tuple[str, ...], expected: tuple[int, float] | None
) -> None:
    assert output_distance(sort(KEY, *output)) == expected


@pytest.mark.parametrize("key", [f"{KEY} DESC", "q.score", "d.id"])
def test_output_distance_takes_no_other_order(key: str) -> None:
    assert output_distance(sort(key, "d.id", KEY, "q.score")) is None


def test_searched_columns_are_those_in_distances_of_plans_that_only_read() -> None:
    assert searched_columns(sort(KEY, "d.id", "d.other")) == {("public", "docs", "embedding")}
    assert searched_columns(sort("d.id", "d.id")) == set()
    locking = {"Node Type": "LockRows", "Plans": [sort(KEY, "d.id")]}
    assert searched_columns(locking) == set()


def test_orders_by_distance_sees_the_distance_of_a_subquery() -> None:
    inner = {
        "Node Type": "Subquery Scan",
        "Alias": "q",
        "Output": ["q.d"],
        "Plans": [sort("d.id", "d.id", KEY)],
    }
    outer = {"Node Type": "Sort", "Sort Key": ["q.d"], "Plans": [inner]}
    assert orders_by_distance(outer)
    assert not orders_by_distance({**outer, "Sort Key": ["other.d"]})
    assert not orders_by_distance(sort("d.id", "d.id", KEY))


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("SELECT 1 LIMIT 5", (), 5),
        ("SELECT * FROM (SELECT 1 LIMIT 40) q LIMIT $2", ("x", "7"), 7),
        ("SELECT 1 LIMIT $2", ("x", None), None),
        ("SELECT 1 LIMIT $2", ("x", "many"), None),
        ("SELECT 1 FETCH FIRST 3 ROWS ONLY", (), 3),
        ("SELECT 1 LIMIT 2 + 3", (), None),
        ("SELECT 1", (), None),
    ],
)
def test_last_limit_reads_the_number_of_rows(
    text: str, values: tuple[str | None, ...], expected: int | None
) -> None:
    assert last_limit(tokenize(text), values) == expected
