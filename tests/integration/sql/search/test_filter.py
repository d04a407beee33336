"""The filter language: each filter returns the rows of the equivalent WHERE clause, and cannot inject SQL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from tests.integration.table_helpers import Connection, build, clustered, enable, make, one, raw, text

ROWS = 120
QUERY = [1.0, -1.0, 0.5, 2.0]
FAR = 1000

# A type, an expression for its value by row number (every seventh is NULL), and values to compare with.
TYPES: dict[str, tuple[str, list[Any]]] = {
    "smallint": ("(n % 9)::smallint", [0, 4, 8, 100]),
    "int": ("n % 9", [0, 4, 8, -1]),
    "bigint": ("9007199254740990 + n % 9", [9007199254740990, 9007199254740993, 1]),
    "numeric": ("(n % 9) * 0.25", [0, 0.25, 0.5, 1.75, 2, 1e3]),
    "numeric(10,2)": ("(n % 9) * 0.25", [0, 0.25, 1.75, 2]),
    "float8": ("(n % 9) / 8.0", [0, 0.125, 0.5, 2]),
    "real": ("(n % 9) / 8.0", [0, 0.125, 0.5, 2]),
    "text": ("'v' || n % 9", ["v0", "v5", "v", "", "é", "V5"]),
    "varchar(3)": ("'ab' || n % 9", ["ab0", "ab5", "ab55", "a", ""]),
    "char(4)": ("'a' || n % 9", ["a0", "a5", "a5  ", "b"]),
    "bool": ("n % 3 = 0", [True, False, "true", "f"]),
    "date": ("date '2026-02-25' + n % 9", ["2026-02-25", "2026-03-01", "2020-01-01"]),
    "timestamp": ("timestamp '2026-02-25' + n % 9 * interval '1 hour'", ["2026-02-25 03:00", "2026-02-25"]),
    "timestamptz": (
        "timestamptz '2026-02-25 00:00+00' + n % 9 * interval '1 hour'",
        ["2026-02-25T03:00:00Z", "2026-02-25 05:00:00+02", "2026-02-25"],
    ),
    "interval": ("n % 9 * interval '1 hour'", ["2 hours", "120 minutes", "1 day"]),
    "uuid": (
        "('00000000-0000-0000-0000-00000000000' || n % 9)::uuid",
        ["00000000-0000-0000-0000-000000000004", "{00000000-0000-0000-0000-000000000004}"],
    ),
    "inet": ("inet '10.0.0.0' + n % 9", ["10.0.0.4", "10.0.0.0/8"]),
    "bytea": ("decode('0' || n % 9, 'hex')", ["\\x04", "\\x"]),
    "mood": ("(ARRAY['sad','ok','very happy'])[1 + n % 3]::mood", ["sad", "ok", "very happy"]),
    "citext": ("CASE WHEN n % 2 = 0 THEN 'Abc' ELSE 'DEF' END", ["abc", "ABC", "def", "x"]),
    "positive": ("(1 + n % 9)::positive", [1, 4, 9]),
    "code": ("('c' || n % 9)::code", ["c1", "c5"]),
    "folded": ("(CASE WHEN n % 2 = 0 THEN 'Abc' ELSE 'DEF' END)::folded", ["abc", "def"]),
}
# Types that only some servers have.
NEEDS = {kind: pytest.mark.needs_extension("citext") for kind in ("citext", "folded")}
OPERATORS = ("=", "<>", "<", "<=", ">", ">=")


@pytest.fixture(scope="module")
def types(server: Any, template: str) -> Iterator[Connection]:
    """A tuned table with a column of every type, whose searches are all recorded."""
    name = sql.Identifier("test_filter_types")
    with psycopg.connect(server.dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(name, sql.Identifier(template)))
        try:
            dsn = psycopg.conninfo.make_conninfo(server.dsn, dbname="test_filter_types")
            with psycopg.connect(dsn, autocommit=True) as conn:
                prepare_types(conn)
                yield conn
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


def prepare_types(conn: Connection) -> None:
    """Create the types, the table with a column of each, and its values, every seventh NULL."""
    if one(conn, "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'citext')"):
        conn.execute("CREATE EXTENSION citext")
    else:  # the tests of this column are skipped
        conn.execute("CREATE DOMAIN citext AS text")
    conn.execute("CREATE TYPE mood AS ENUM ('sad', 'ok', 'very happy')")
    conn.execute("CREATE DOMAIN positive AS int CHECK (VALUE > 0)")
    conn.execute("CREATE DOMAIN wide AS varchar(8)")
    conn.execute("CREATE DOMAIN code AS wide CHECK (VALUE <> '')")
    conn.execute("CREATE DOMAIN folded AS citext")
    make(conn, clustered(ROWS, 4, seed=1), index=False)
    for kind, (expression, _) in TYPES.items():
        column = sql.Identifier(kind)
        conn.execute(sql.SQL("ALTER TABLE items ADD COLUMN {} ").format(column) + raw(kind))
        conn.execute(
            sql.SQL("UPDATE items SET {} = (SELECT ").format(column)
            + raw(expression)
            + sql.SQL(" FROM (SELECT id::int AS n) s) WHERE id % 7 <> 0")
        )
    build(conn)
    conn.execute("ANALYZE items")
    enable(conn, sample_rate=1.0)


def found(conn: Connection, condition: object, k: int = FAR) -> set[int]:
    """Search with a filter and return the ids."""
    rows = conn.execute(
        "SELECT id FROM vectuned.search('items', %s, %s, %s::jsonb)", (text(QUERY), k, json.dumps(condition))
    ).fetchall()
    return {int(row[0]) for row in rows}


def where(conn: Connection, condition: sql.Composable) -> set[int]:
    """Return the ids of the rows that meet a handwritten condition."""
    rows = conn.execute(sql.SQL("SELECT id FROM items WHERE {}").format(condition)).fetchall()
    return {int(row[0]) for row in rows}


def literal(value: Any) -> sql.Composable:
    """Write a value as a person would: numbers bare, anything else as an untyped string."""
    if value is None:
        return sql.SQL("NULL")
    if isinstance(value, bool):
        return sql.SQL("true" if value else "false")
    return raw(repr(value)) if isinstance(value, int | float) else sql.Literal(value)


def compared(column: str, operator: str, value: Any) -> sql.Composable:
    """Write one comparison."""
    return sql.SQL("{} {} {}").format(sql.Identifier(column), raw(operator), literal(value))


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=NEEDS.get(kind, ())) for kind in TYPES])
def test_filter_equals_its_where_clause(types: Connection, kind: str) -> None:
    name, (_, values) = sql.Identifier(kind), TYPES[kind]
    there = sql.SQL("{} IS NOT NULL").format(name)
    absent = sql.SQL("{} IS NULL").format(name)
    every = set(range(1, ROWS + 1))
    for value in values:
        equal = where(types, compared(kind, "=", value))
        assert found(types, {kind: value}) == equal, value
        for operator in OPERATORS:
            wanted = where(types, compared(kind, operator, value))
            assert found(types, {kind: {operator: value}}) == wanted, (operator, value)
        assert found(types, {kind: {"in": [value]}}) == equal
        assert found(types, {kind: {"not in": [value]}}) == where(types, there) - equal
        assert found(types, {kind: [value, None]}) == equal | where(types, absent)
    some = set().union(*(where(types, compared(kind, "=", value)) for value in values))
    assert found(types, {kind: values}) == some
    assert found(types, {kind: {"in": values + values}}) == some
    assert found(types, {kind: {"not in": values}}) == where(types, there) - some
    assert found(types, {kind: {"not in": [*values, None]}}) == where(types, there) - some
    assert found(types, {kind: None}) == found(types, {kind: {"=": None}}) == where(types, absent)
    assert found(types, {kind: [None]}) == where(types, absent)
    assert (
        found(types, {kind: {"<>": None}}) == found(types, {kind: {"not in": [None]}}) == where(types, there)
    )
    assert found(types, {kind: []}) == found(types, {kind: {"in": []}}) == set()
    assert found(types, {kind: {"not in": []}}) == every
    low, high = values[0], values[1]
    between = where(types, compared(kind, ">=", low)) & where(types, compared(kind, "<", high))
    assert found(types, {kind: {">=": low, "<": high}}) == between


@pytest.mark.parametrize("kind", ["smallint", "int", "bigint", "positive"])
@pytest.mark.parametrize(
    "value",
    [2.5, 4.0, -0.5, 32767, 32768, 2147483648, 9223372036854775807, 9223372036854775808, -(10**30), 1e300],
)
def test_filter_compares_integers_with_any_number(types: Connection, kind: str, value: float) -> None:
    for operator in OPERATORS:
        wanted = where(types, compared(kind, operator, value))
        assert found(types, {kind: {operator: value}}) == wanted, operator
    equal = where(types, compared(kind, "=", value) + sql.SQL(" OR ") + compared(kind, "=", 4))
    assert found(types, {kind: [4, value]}) == found(types, {kind: [value, 4, "4"]}) == equal


def test_filter_conditions_are_joined_by_and(types: Connection) -> None:
    wanted = where(
        types, sql.SQL("int = 4 AND text IN ('v4', 'v5') AND numeric < 2 AND smallint IS NOT NULL")
    )
    assert wanted
    assert (
        found(types, {"int": 4, "text": ["v4", "v5"], "numeric": {"<": 2}, "smallint": {"<>": None}})
        == wanted
    )
    assert found(types, {"int": {">": 1, "<=": 6, "<>": 3, "not in": [4, 9]}}) == where(
        types, sql.SQL("int > 1 AND int <= 6 AND int <> 3 AND int NOT IN (4, 9)")
    )
    assert found(types, {"int": 4, "text": "v5"}) == set()
    assert found(types, {"id": 17}) == {17}
    assert found(types, {}) == set(range(1, ROWS + 1))


def test_filter_with_long_lists(types: Connection) -> None:
    assert found(types, {"id": list(range(50, 1050))}) == set(range(50, ROWS + 1))
    assert found(types, {"id": {"not in": list(range(50, 1050))}}) == set(range(1, 50))
    assert found(types, {"text": [f"v{i}" for i in range(1000)]}) == where(types, sql.SQL("text IS NOT NULL"))
    assert found(types, {"id": [*range(50, 1048), 10**30, None]}) == set(range(50, ROWS + 1))


@pytest.mark.parametrize(
    ("condition", "state", "words"),
    [
        ([], "22023", "a filter must be a JSON object .*, got array"),
        ([{"int": 1}], "22023", "got array"),
        ("int = 1", "22023", "got string"),
        (5, "22023", "got number"),
        (True, "22023", "got boolean"),
        (None, "22023", "got null"),
        ({"nothing": 5}, "42703", 'column "nothing" of the filter does not exist in .*items'),
        ({"": 5}, "42703", 'column "" of the filter'),
        ({"INT": 5}, "42703", 'column "INT" of the filter'),
        ({"int ": 5}, "42703", 'column "int " of the filter'),
        ({"ctid": "(0,1)"}, "42703", 'column "ctid" of the filter'),
        ({"i" * 200: 1}, "42703", "of the filter does not exist"),
        ({"int": 4, "zzz": 1}, "42703", 'column "zzz" of the filter'),
        ({"int": {"like": 5}}, "22023", 'column "int" has the unknown operator "like"'),
        ({"int": {"==": 5}}, "22023", 'unknown operator "=="'),
        ({"int": {"": 5}}, "22023", 'unknown operator ""'),
        ({"int": {"IN": [5]}}, "22023", 'unknown operator "IN"'),
        ({"int": {"null": None}}, "22023", 'unknown operator "null"'),
        ({"int": {"is": None}}, "22023", 'unknown operator "is"'),
        ({"int": {"= 1 OR 1": 1}}, "22023", 'unknown operator "= 1 OR 1"'),
        ({"int": {}}, "22023", 'the filter has no condition on column "int"'),
        ({"int": {"=": {"=": 5}}}, "22023", 'column "int" compares by "=" with an object'),
        ({"int": {"=": [5]}}, "22023", 'compares by "=" with an array'),
        ({"int": {"<": [5]}}, "22023", 'compares by "<" with an array'),
        ({"int": {"<": None}}, "22023", 'compares by "<" with null'),
        ({"int": {"in": 5}}, "22023", 'compares by "in" with a number'),
        ({"int": {"in": None}}, "22023", 'compares by "in" with null'),
        ({"int": {"not in": "x"}}, "22023", 'compares by "not in" with a string'),
        ({"int": {"in": {"a": 1}}}, "22023", 'compares by "in" with an object'),
        ({"int": [[1, 2], [3]]}, "22023", 'the list of the filter on column "int" holds an array'),
        ({"int": [1, {"<": 2}]}, "22023", 'the list of the filter on column "int" holds an object'),
        ({"int": "abc"}, "22P02", r"does not fit the columns of public\.items: .*integer.*abc"),
        ({"int": ""}, "22P02", r"public\.items: .*integer"),
        ({"int": True}, "22P02", r"public\.items: .*integer.*true"),
        ({"int": [1, "abc"]}, "22P02", r"public\.items: .*integer.*abc"),
        ({"int": "99999999999"}, "22003", r"public\.items: .*out of range for type integer"),
        ({"numeric": "1,5"}, "22P02", r"public\.items: .*numeric"),
        ({"bool": "perhaps"}, "22P02", r"public\.items: .*boolean.*perhaps"),
        ({"date": "2026-02-30"}, "22008", r"public\.items: .*date"),
        ({"date": 5}, "22007", r"public\.items: .*date"),
        ({"timestamptz": "some day"}, "22007", r"public\.items: .*timestamp"),
        ({"uuid": "4"}, "22P02", r"public\.items: .*uuid"),
        ({"mood": "glad"}, "22P02", r"public\.items: .*enum.*glad"),
        ({"positive": "x"}, "22P02", r"public\.items: .*integer"),
        ({"bytea": "\\xz"}, "22023", r"public\.items: .*hexadecimal"),
    ],
)
def test_filter_errors_name_the_fault_and_nothing_is_recorded(
    types: Connection, condition: object, state: str, words: str
) -> None:
    before = one(types, "SELECT count(*) FROM vectuned.inbox")
    for statement in (
        "SELECT * FROM vectuned.search('items', %s, 10, %s::jsonb)",
        "SELECT * FROM vectuned.search_rows(NULL::items, %s, 10, %s::jsonb)",
    ):
        with pytest.raises(psycopg.Error, match=words) as raised:
            types.execute(statement, (text(QUERY), json.dumps(condition)))
        assert raised.value.sqlstate == state
    assert one(types, "SELECT count(*) FROM vectuned.inbox") == before


@pytest.mark.parametrize("kind", ["json", "point", "xid", "int[]", "int4range", "box"])
def test_filter_refuses_types_without_an_order(conn: Connection, kind: str) -> None:
    make(conn, clustered(10, 4, seed=1))
    conn.execute(f"ALTER TABLE items ADD COLUMN odd {kind}".encode())
    enable(conn)
    for condition in ({"odd": "1"}, {"odd": {"<": "1"}}, {"odd": ["1"]}, {"odd": {"<>": "1"}}):
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="cannot be compared in a filter"):
            found(conn, condition)
    assert len(found(conn, {"odd": None})) == 10


def test_filter_of_sql_null_is_no_filter(types: Connection) -> None:
    rows = types.execute("SELECT id FROM vectuned.search('items', %s, 1000, NULL)", (text(QUERY),)).fetchall()
    assert len(rows) == ROWS


NAMES = [
    'a"b',
    "a'b",
    "a$b",
    "$1",
    "$$",
    "$_$",
    "a b",
    " ",
    "%s",
    "%1$I",
    "%%",
    "{relation}",
    "{id}",
    "{",
    "}}",
    "A",
    "Ünï",
    "select",
    "t.id",
    "a.b",
    "a--b",
    "/*",
    "*/",
    "a;b",
    "\\",
    "k",
    "q",
    "query",
    "t",
    "n",
    "o",
    "k1",
    "distance",
    "filter",
    "relation",
    "condition",
    "found_ids",
    "path",
    "key",
    "value",
    '"; DROP TABLE items; --',
    "x" * 63,
]
VALUES = [
    "",
    " ",
    "'",
    "''",
    '"',
    "\\",
    "\\'",
    "\\\\",
    "$$",
    "$_$",
    "$1",
    "$search$",
    "%",
    "%s",
    "%L",
    "%1$s",
    "{relation}",
    "{",
    "{}",
    "{a,b}",
    '{"a"}',
    "NULL",
    "null",
    "a,b",
    "a\nb",
    "\t",
    "x" * 20000,
    "日本語",
    "\xe9\u0301",
    "🙂",
    "--",
    "/*",
    ";",
    "::int",
    "'; DROP TABLE items; --",
    "' OR '1'='1",
    "\\'; DROP TABLE items; --",
    "$$; DROP TABLE items; $$",
    ") OR (true",
    "true",
]


@pytest.mark.parametrize("number", range(len(NAMES)))
def test_filter_quotes_every_name_and_value(conn: Connection, number: int) -> None:
    name = NAMES[number]
    make(conn, clustered(len(VALUES) + 2, 4, seed=1))
    column = sql.Identifier(name)
    conn.execute(sql.SQL("ALTER TABLE items ADD COLUMN {} text").format(column))
    with conn.cursor() as cursor:
        cursor.executemany(
            sql.SQL("UPDATE items SET {} = %s WHERE id = %s").format(
                sql.Identifier(name.replace("%", "%%")) if "%" in name else column
            ),
            [(value, place) for place, value in enumerate(VALUES, start=1)],
        )
    conn.execute("ANALYZE items")
    enable(conn)
    for place, value in enumerate(VALUES, start=1):
        assert found(conn, {name: value}) == {place}, value
        assert found(conn, {name: [value, "no such value"]}) == {place}, value
    assert found(conn, {name: VALUES}) == set(range(1, len(VALUES) + 1))
    assert found(conn, {name: {"not in": VALUES}}) == set()
    assert found(conn, {name: None}) == {len(VALUES) + 1, len(VALUES) + 2}
    # The same after a rename of the table, when _search_fallback builds the statements.
    conn.execute("ALTER TABLE items RENAME TO moved")
    conn.execute("CREATE VIEW items AS SELECT * FROM moved")
    for place, value in enumerate(VALUES, start=1):
        rows = conn.execute(
            "SELECT id FROM vectuned.search('moved', %s, 10, %s::jsonb)",
            (text(QUERY), json.dumps({name: {"=": value}})),
        ).fetchall()
        assert rows == [(str(place),)], value


@pytest.mark.parametrize("name", ["k", "q", 'a"b', "$1", "{id}", "%s", "distance", "k1", "x y"])
def test_filter_with_keys_tables_and_vectors_of_any_name(conn: Connection, name: str) -> None:
    table = sql.Identifier("public", name + "_")
    vectors = name + "v"
    make(conn, clustered(30, 4, seed=1), table=table, column=vectors, key=name)
    conn.execute(sql.SQL("ALTER TABLE {} ADD COLUMN query int DEFAULT 5").format(table))
    enable(conn, table.as_string(conn), vectors)
    for condition, count in (
        ({"query": 5}, 30),
        ({"query": 6}, 0),
        ({name: [3, 4]}, 2),
        ({name: {">": 10}}, 20),
    ):
        rows = conn.execute(
            "SELECT id FROM vectuned.search(%s::regclass, %s, 100, %s::jsonb)",
            (table.as_string(conn), text(QUERY), json.dumps(condition)),
        ).fetchall()
        assert len(rows) == count
