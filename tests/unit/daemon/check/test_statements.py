"""What keeps a statement from an index, by its text and by its plan."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from vectuned.daemon.check.catalogue import Server, VectorIndex, VectorTable
from vectuned.daemon.check.health import check_version
from vectuned.daemon.check.recall import describe_path
from vectuned.daemon.check.statements import (
    VectorStatement,
    check_statement,
    unused_operator_classes,
)


def index(name: str = "i", operators: str = "vector_cosine_ops", **values: Any) -> VectorIndex:
    given: dict[str, Any] = {
        "relation": 1,
        "oid": 2,
        "schema": "public",
        "name": name,
        "method": "hnsw",
        "key": 2,
        "expression": "embedding",
        "operator_class": operators,
        "m": None,
        "ef_construction": None,
        "lists": None,
        "predicate": None,
        "is_valid": True,
        "is_ready": True,
        "is_building": False,
        "definition": "",
        "bytes": 1000,
        "scans": 0,
        "rows": 0.0,
    }
    return VectorIndex(**{**given, **values})


def table(*indexes: VectorIndex, rows: float = 1e6, vacuums: int = 0) -> VectorTable:
    return VectorTable(
        1,
        "public",
        "items",
        "embedding",
        2,
        "vector",
        8,
        False,
        rows,
        10**9,
        True,
        0,
        0,
        None,
        vacuums,
        indexes,
    )


def server(pgvector: str | None) -> Server:
    return Server("db", "me", "18.6", False, 10**9, pgvector, "public", "public", True, timedelta(days=3))


def unindexed(text: str) -> VectorStatement:
    return VectorStatement(text, 12, 80.0, "exact, every row read")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("SELECT id FROM items ORDER BY 1 - (embedding <=> $1) DESC LIMIT $2", "descending"),
        ("SELECT id FROM items ORDER BY 1 - (embedding <=> $1) LIMIT $2", "expression around the distance"),
        ("SELECT id FROM items ORDER BY cosine_distance(embedding, $1) LIMIT $2", "orders by a function"),
        ("SELECT id FROM items ORDER BY embedding <=> $1", "no LIMIT"),
        ("SELECT id FROM items ORDER BY embedding <-> $1 LIMIT $2", "the index serves <=> (cosine)"),
        ("SELECT id FROM items ORDER BY embedding <=> $1 LIMIT $2", "the planner thinks"),
        ("SELECT id FROM items ORDER BY embedding <=> $1 FETCH FIRST $2 ROWS ONLY", "the planner thinks"),
    ],
)
def test_check_statement_says_what_keeps_it_from_an_index(text: str, why: str) -> None:
    (found,) = check_statement(unindexed(text), [table(index())])
    assert (found.severity, found.code) == ("problem", "statement-without-index")
    assert why in found.message
    assert "12 calls" in found.message
    assert found.advice


def test_check_statement_of_another_expression_names_that_of_the_index() -> None:
    half = index(expression="(embedding::halfvec(8))", key=0, operators="halfvec_cosine_ops")
    (found,) = check_statement(
        unindexed("SELECT id FROM items ORDER BY embedding <=> $1 LIMIT 5"), [table(half)]
    )
    assert "another expression than the index: (embedding::halfvec(8))" in found.message


def test_check_statement_passes_small_tables_and_exact_searches_by_an_index() -> None:
    text = "SELECT id FROM items ORDER BY embedding <=> $1 LIMIT $2"
    assert list(check_statement(unindexed(text), [table(rows=500)])) == []
    exact = VectorStatement(text, 1, 1.0, "exact, through items_category")
    assert list(check_statement(exact, [table(index())])) == []
    unplanned = VectorStatement(text, 1, 1.0, None, (), "it is too long")
    assert list(check_statement(unplanned, [table(index())])) == []


def test_check_statement_warns_of_a_filter_behind_the_index() -> None:
    statement = VectorStatement("SELECT ...", 3, 2.0, "index i", ("(category = $2)",))
    (found,) = check_statement(statement, [table(index())])
    assert (found.severity, found.code) == ("warning", "filter-after-index")


def test_unused_operator_classes_names_an_index_that_no_statement_orders_by() -> None:
    statements = [VectorStatement("SELECT id FROM items ORDER BY embedding <-> $1 LIMIT 5", 1, 1.0, None)]
    both = table(index("by_cosine"), index("by_l2", "vector_l2_ops"))
    assert [f.subject for f in unused_operator_classes(statements, [both])] == ["public.by_cosine"]
    assert list(unused_operator_classes([], [both])) == []


def test_describe_path_tells_vector_indexes_from_those_of_filters() -> None:
    scan = {"Node Type": "Index Scan", "Index Name": "i"}
    assert describe_path({"Node Type": "Limit", "Plans": [scan]}, {"i"}) == "index i"
    bitmap = {"Node Type": "Bitmap Index Scan", "Index Name": "c"}
    plan = {"Node Type": "Limit", "Plans": [{"Node Type": "Sort", "Plans": [bitmap]}]}
    assert describe_path(plan, {"i"}) == "exact, through c"
    assert describe_path({"Node Type": "Sort", "Plans": [{"Node Type": "Seq Scan"}]}, {"i"}) == (
        "exact, every row read"
    )


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("0.7.4", {"old-pgvector", "parallel-build-overflow", "vacuum-corruption", "ivfflat-build-overflow"}),
        ("0.8.1", {"parallel-build-overflow", "vacuum-corruption", "ivfflat-build-overflow"}),
        ("0.8.2", {"vacuum-corruption", "ivfflat-build-overflow"}),
        ("0.8.6", {"ivfflat-build-overflow"}),
        ("0.8.7", set()),
        ("0.10.0", set()),
    ],
)
def test_check_version_finds_the_defects_that_concern_the_indexes(version: str, expected: set[str]) -> None:
    tables = [table(index(), index("j", method="ivfflat"), vacuums=2)]
    assert {finding.code for finding in check_version(server(version), tables)} == expected
    assert [f.code for f in check_version(server(version), [table()])] in ([], ["old-pgvector"])
