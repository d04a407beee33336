"""Searches by drivers that state types, pages of a search, and searches within a distance."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import errors
from tests.integration.table_helpers import clustered, enable, exact, make, one, publish, raw, text

Connection = psycopg.Connection[Any]

VECTORS = clustered(60, 8, seed=1)  # few, so that every graph finds the same neighbours
QUERY = clustered(1, 8, seed=2)[0]

RELATIONS = {
    "unknown": "'items'",
    "text": "'items'::text",
    "varchar": "'items'::varchar",
    "regclass": "'items'::regclass",
    "oid": "'items'::regclass::oid",
}
QUERIES = {"unknown": "'{query}'", "vector": "'{query}'::vector", "halfvec": "'{query}'::halfvec"}
COUNTS = {"smallint": "10::smallint", "int": "10", "bigint": "10::bigint", "unknown": "'10'"}
FILTERS = {
    "none": None,
    "unknown": "'{{\"part\": 1}}'",
    "text": "'{{\"part\": 1}}'::text",
    "jsonb": "'{{\"part\": 1}}'::jsonb",
}


@pytest.fixture
def items(conn: Connection) -> Connection:
    """A connection to a tuned table with a filter column."""
    make(conn, VECTORS)
    conn.execute("ALTER TABLE items ADD part int GENERATED ALWAYS AS (id % 3) STORED")
    conn.execute("ANALYZE items")
    enable(conn, sample_rate=1.0)
    return conn


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("query", QUERIES)
def test_search_takes_every_type_that_drivers_state(items: Connection, relation: str, query: str) -> None:
    for k, filter in itertools.product(COUNTS.values(), FILTERS.values()):
        arguments = [RELATIONS[relation], QUERIES[query], k, *([filter] if filter else [])]
        call = ", ".join(arguments).format(query=text(QUERY)).replace("{{", "{").replace("}}", "}")
        found = items.execute(raw(f"SELECT id FROM vectuned.search({call})")).fetchall()
        keys = [key for key, _ in exact(items, QUERY, len(VECTORS)) if not filter or int(key) % 3 == 1]
        if query == "halfvec":
            # Rounded to half precision, the query has nearly the same neighbours.
            assert len({row[0] for row in found} & set(keys[:20])) == 10, call
        else:
            assert [row[0] for row in found] == keys[:10], call


@pytest.mark.parametrize(
    "types",
    [
        "text, vector, bigint",
        "text, vector, int, text",
        "text, vector, bigint, text, name",
        "varchar, halfvec, bigint, jsonb",
        "regclass, halfvec, smallint, text",
        "regclass, vector, bigint, jsonb, name",
        "regclass, unknown, unknown",
        "regclass, unknown, int, unknown",
        "varchar, unknown, bigint, unknown",
        "oid, unknown",
        "oid, unknown, int, unknown",
        "oid, halfvec, bigint, jsonb",
        "unknown, unknown, unknown",
        "unknown, unknown, unknown, unknown",
        "unknown, unknown, unknown, unknown, unknown",
    ],
)
def test_search_by_prepared_statements_of_these_types(items: Connection, types: str) -> None:
    relation = "'items'::regclass" if types.startswith("oid") else "'items'"
    values = (relation, f"'{text(QUERY)}'", "10", "'{\"part\": 1}'", "'embedding'")
    count = len(types.split(","))
    parameters = ", ".join(f"${number + 1}" for number in range(count))
    items.execute(raw(f"PREPARE typed ({types}) AS SELECT id FROM vectuned.search({parameters})"))
    assert len(items.execute(raw(f"EXECUTE typed ({', '.join(values[:count])})")).fetchall()) == 10


def test_search_by_a_list_of_floats_takes_a_cast(items: Connection) -> None:
    query = QUERY.tolist()
    found = items.execute(
        "SELECT id FROM vectuned.search('items', %s::real[]::vector, 10)", (query,)
    ).fetchall()
    assert [row[0] for row in found] == [key for key, _ in exact(items, QUERY)]


def test_the_other_functions_take_bigint_and_text_filters(items: Connection) -> None:
    for function in ("vectuned.search_rows(NULL::items,", "vectuned.params('items',"):
        assert items.execute(raw(f"SELECT * FROM {function} %s, 10::bigint)"), (text(QUERY),)).fetchall()
    statement = "SELECT part FROM vectuned.search_rows(NULL::items, %s, 5::bigint, '{\"part\": 2}'::text)"
    assert items.execute(statement, (text(QUERY),)).fetchall() == [(2,)] * 5
    with pytest.raises(errors.InvalidTextRepresentation, match="json"):
        items.execute("SELECT * FROM vectuned.search('items', %s, 10, 'part = 2')", (text(QUERY),))
    for k in (0, 1001, 2**40):
        with pytest.raises(errors.InvalidParameterValue, match="k must be between 1 and 1000"):
            items.execute("SELECT * FROM vectuned.search('items', %s, %s)", (text(QUERY), k))


@pytest.mark.parametrize("filter", [None, '{"part": [0, 1]}'])
@pytest.mark.parametrize("size", [1, 7, 25])
def test_pages_show_every_row_once(conn: Connection, filter: str | None, size: int) -> None:
    # Copies of a text have equal distances: by the distance alone their order would be up to chance.
    vectors = np.concatenate([clustered(1500, 8, seed=3), np.repeat(VECTORS[:10], 60, axis=0)])
    make(conn, vectors)
    conn.execute("ALTER TABLE items ADD part int GENERATED ALWAYS AS (id % 3) STORED")
    conn.execute("ANALYZE items")
    column = enable(conn, sample_rate=1.0)
    # An effort that differs from class to class of k, as it does where much was learned.
    for k_class, ef in ((1, 1), (3, 3), (10, 10), (30, 400), (100, 100)):
        publish(conn, column, [0.0], k_class=k_class, fixed_ef=ef)
    conn.execute("UPDATE vectuned.bank SET access_path = 'hnsw'")
    query, seen, last = text(VECTORS[3]), [], -1.0
    statement = "SELECT id, distance FROM vectuned.search('items', %s, %s, %s, skip => %s)"
    for skip in range(0, 40 * size, size):
        page = conn.execute(statement, (query, size, filter, skip)).fetchall()
        for key, distance in page:
            assert distance >= last
            last = distance
            seen.append(key)
    assert len(set(seen)) == len(seen) == 40 * size
    assert one(conn, "SELECT count(*) FROM vectuned.inbox") == 0
    with conn.transaction():
        conn.execute(statement, (query, size, filter, 0))
        conn.execute("SELECT * FROM vectuned.search('items', %s)", (query,))
    assert one(conn, "SELECT count(*) FROM vectuned.inbox") == 1


def test_pages_beyond_the_last_are_empty_and_bad_ones_say_why(items: Connection) -> None:
    statement = "SELECT count(*) FROM vectuned.search('items', %s, %s, skip => %s)"
    assert one(items, statement, text(QUERY), 10, 55) == 5
    assert one(items, statement, text(QUERY), 10, 60) == 0
    assert one(items, statement, text(QUERY), 10, 990) == 0
    for k, skip, message in (
        (10, 991, "pages end with row 1000: skip [+] k is 1001"),
        (10, 2**62, "pages end with row 1000"),
        (10, -1, "skip must not be negative, got -1"),
        (0, 5, "k must be between 1 and 1000, got 0"),
        (None, 5, "k must be between 1 and 1000, got NULL"),
    ):
        with pytest.raises(errors.InvalidParameterValue, match=message):
            one(items, statement, text(QUERY), k, skip)


def test_max_distance_cuts_what_is_farther(items: Connection) -> None:
    nearest = exact(items, QUERY, 40)
    statement = "SELECT id FROM vectuned.search('items', %s, 20, max_distance => %s, skip => %s)"
    for rank, skip in itertools.product((0, 5, 30), (None, 0, 3)):
        limit = nearest[rank][1]
        found = [row[0] for row in items.execute(statement, (text(QUERY), limit, skip)).fetchall()]
        within = [key for key, distance in nearest if distance <= limit][skip or 0 :][:20]
        assert found == within
    assert items.execute(statement, (text(QUERY), -1.0, None)).fetchall() == []
    with pytest.raises(errors.InvalidParameterValue, match="max_distance is not a number"):
        items.execute(statement, (text(QUERY), float("nan"), None))
