"""Hostile text in every argument and every name: a clear error or a right answer, and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import psycopg
import pytest
from pgvector.psycopg import register_vector
from psycopg import sql
from psycopg.conninfo import make_conninfo
from tests.integration.table_helpers import Connection, clustered, enable, make, one

from vectuned.daemon.server.embedded import EmbeddedServer
from vectuned.sql.files import named_statements
from vectuned.sql.rows import fetch_dicts, fetch_value

STATEMENTS = named_statements(Path(__file__).parents[3] / "data" / "hostile.sql")

PAYLOADS = (
    "DROP TABLE canary",
    "DROP SCHEMA vectuned CASCADE",
    "TRUNCATE canary",
    "UPDATE canary SET id = 0",
    "SELECT pg_sleep(5)",
    "COPY canary TO PROGRAM 'true'",
    "ALTER ROLE CURRENT_USER NOLOGIN",
    "SELECT pg_terminate_backend(pg_backend_pid())",
    "GRANT ALL ON canary TO PUBLIC",
)
WRAPPED = (
    "'; {} --",
    '"; {} --',
    "$$; {}; $$",
    "$search$; {}; END $search$ --",
    "1); {}; --",
    "*/ {} /*",
    "E'\\'; {} --",
)
STRINGS = (
    *(wrap.format(payload) for wrap, payload in product(WRAPPED, PAYLOADS)),
    # Quotes, comments, escapes
    "'",
    "''",
    "'''",
    '"',
    '""',
    '"' * 3,
    "`",
    "\\",
    "\\'",
    "\\\\'",
    "--",
    "/*",
    "*/",
    ";",
    "$$",
    "$1",
    "$search$",
    "$search_$",
    "$$;$$",
    "E'\\x27'",
    "U&'\\0027'",
    "\\x00",
    "\\u0000",
    "%00",
    "\\0",
    # Format specifiers, and tokens of our templates
    "%",
    "%%",
    "%s",
    "%I",
    "%L",
    "%1$s",
    "%1$I",
    "%n",
    "{}",
    "{0}",
    "{key}",
    "{id}",
    "{relation}",
    "{searches}",
    "$@$",
    "$body$",
    # JSON and arrays
    "{",
    "}",
    "[",
    "]",
    "null",
    "true",
    '{"a":',
    '["',
    '","',
    '{"<": 1}',
    "{NULL}",
    '{"',
    "{a,b",
    "\\u0022",
    "Infinity",
    "NaN",
    "1e400",
    "9" * 400,
    # Space and control
    "",
    " ",
    "\t",
    "\n",
    "\r\n",
    "a\nb",
    "\x01",
    "\x1b[31m",
    "\x7f",
    # Unicode: homoglyphs of quotes, bidirectional, zero width, combining, private, largest, a flag
    "\u02bc; DROP TABLE canary --",
    "\uff07; DROP TABLE canary --",
    "\u2019",
    "\uff1b",
    "\u037e",
    "\u202eelbat\u202c",
    "\u2066x\u2069",
    "\u200b",
    "\ufeff",
    "e\u0301" * 20,
    "\u0130",
    "\u00df",
    "\ue000",
    "\U0010ffff",
    "\U0001f3f4\u200d\u2620\ufe0f",
    "\u043eid",
    "\u212a",
    # Names that mean something, long ones, paths
    "k",
    "q",
    "t",
    "id",
    "distance",
    "query",
    "NULL",
    "none",
    "public",
    "vectuned",
    "ctid",
    "tableoid",
    "xmin",
    "pg_class",
    "items; SELECT 1",
    "public.items",
    '"public"."items"',
    "../../etc/passwd",
    "x" * 63,
    "x" * 64,
    "\u00e9" * 60,
    "'" * 63,
    '"' * 63,
    "x" * 20000,
    "'" * 20000,
    "%s" * 5000,
    "((((" * 2000,
)

# The outcomes allowed: success, or the SQLSTATE of a clear error, but of no syntax or internal error.
ALLOWED = {
    "ok",
    "22023",
    "22004",
    "22P02",
    "22P05",
    "22003",
    "22007",
    "22008",
    "42703",
    "42704",
    "42P01",
    "42602",
    "3F000",
    "0A000",
    "42809",
}

# Harmless values, by type, for the arguments that are not attacked.
HARMLESS = {
    "regclass": "'items'",
    "vectuned.table_name": "'items'",
    "halfvec": "'[1,-1,0.5,2]'",
    "name": "'embedding'",
    "text": "'recall'",
    "jsonb": "NULL",
    "integer": "5",
    "bigint": "1",
    "boolean": "false",
    "double precision": "0.5",
    "uuid": "gen_random_uuid()",
    "text[]": "'{1}'",
    "interval": "'0'",
    "anyelement": "NULL::items",
    "double precision[]": "'{0.5}'",
    "real": "1",
    "oid": "1",
}
# Harmless values of arguments by name, where that of their type would end a call too early for the attack.
NAMED = {
    ("relation", "text"): "'items'",
    ("relation", "oid"): "'items'::regclass",
    ("filter", "text"): "'{}'",
    ("caller_path", "text"): "'public'",
    ("skip", "bigint"): "NULL",
    ("max_distance", "double precision"): "NULL",
}
# Expressions that turn a hostile text, $1, into an argument, by type. A regclass gets it as a quoted name.
ATTACKS = {
    "text": ("$1",),
    "name": ("$1::name",),
    "text[]": ("ARRAY[$1]", "ARRAY[$1, $1]"),
    "name[]": ("ARRAY[$1::name]",),
    "regclass": ("to_regclass(quote_ident($1))",),
    "vectuned.table_name": ("to_regclass(quote_ident($1))",),
    "jsonb": (
        "$1::jsonb",
        "to_jsonb($1)",
        "jsonb_build_object($1, 1)",
        "jsonb_build_object('kind', $1)",
        "jsonb_build_object('label', $1)",
        "jsonb_build_object('label', jsonb_build_array($1, NULL))",
        "jsonb_build_object('label', jsonb_build_object('>=', $1))",
        "jsonb_build_object('kind', jsonb_build_object($1, 1))",
        "jsonb_build_object('day', $1)",
        "jsonb_build_object('size', jsonb_build_object('in', jsonb_build_array($1)))",
    ),
}


@pytest.fixture(scope="module")
def conn(server: EmbeddedServer, template: str) -> Iterator[Connection]:
    """A connection to a database with a tuned table, and a table that no attack may touch."""
    with psycopg.connect(server.dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE test_hostile TEMPLATE {}").format(sql.Identifier(template)))
        try:
            with psycopg.connect(make_conninfo(server.dsn, dbname="test_hostile"), autocommit=True) as conn:
                register_vector(conn)
                make(conn, clustered(60, 4, seed=1))
                for name in ("tables", "attack", "name_all"):
                    conn.execute(STATEMENTS[name])
                conn.execute("SET statement_timeout = '5min'")  # only a hang takes that long
                enable(conn, sample_rate=1.0)
                yield conn
        finally:
            admin.execute("DROP DATABASE test_hostile WITH (FORCE)")


def targets(conn: Connection) -> list[tuple[str, str]]:
    """List a label and a statement, in which $1 is the hostile text, for everything that can be attacked.

    These are all arguments that take text, of all functions that PUBLIC may execute or that have no leading
    underscore; the catalog lists them, so new functions are attacked as well.
    """
    attacks = []
    for row in fetch_dicts(conn, STATEMENTS["arguments"]):
        function, types = row["function"], row["types"]
        if not set(types) - {"vector"} <= set(HARMLESS):
            assert function.startswith("_"), f"vectuned.{function} takes a type that HARMLESS lacks"
            continue  # it takes rows of vectuned's own tables, which only vectuned's functions pass
        for place, (argument, attacked) in enumerate(zip(row["arguments"], types, strict=True)):
            for attack in ATTACKS.get(attacked, ()):
                values = [
                    f"{attack}::{each}" if i == place else harmless(name, each)
                    for i, (name, each) in enumerate(zip(row["arguments"], types, strict=True))
                ]
                attacks.append(
                    (
                        f"{function}({argument} => {attack})",
                        f"SELECT * FROM vectuned.{function}({', '.join(values)})",
                    )
                )
    return attacks


def harmless(name: str, kind: str) -> str:
    """Return a harmless value of an argument of some type, as SQL."""
    if kind == "vector":
        return "'[1,-1,0.5,2]'::vector"
    value = NAMED.get((name, kind), HARMLESS[kind])
    return value if kind == "anyelement" else f"{value}::{kind}"


def test_targets_cover_the_public_functions(conn: Connection) -> None:
    assert len(set(STRINGS)) == len(STRINGS) >= 150
    names = {label.partition("(")[0] for label, _ in targets(conn)}
    assert names >= {
        "search",
        "search_rows",
        "params",
        "apply",
        "enable",
        "disable",
        "auto_tune",
        "stats",
        "record_feedback",
        "recommend_params",
        "benchmark_recall",
        "benchmark_latency",
        "_compile_filter",
        "_filtered_1",
    }


def test_harmless_values_let_each_search_answer(conn: Connection) -> None:
    count = 0
    for row in fetch_dicts(conn, STATEMENTS["arguments"]):
        if row["function"] in ("search", "params", "_search_fallback"):
            values = map(harmless, row["arguments"], row["types"])
            found = conn.execute(f"SELECT * FROM vectuned.{row['function']}({', '.join(values)})".encode())
            assert found.fetchall(), row
            count += 1
    assert count >= 9


def test_arguments_of_hostile_text_change_nothing(conn: Connection) -> None:
    state = fetch_value(conn, STATEMENTS["state"])
    words = [word for word in STRINGS if "\0" not in word]
    outcomes: Counter[str] = Counter()
    for label, statement in targets(conn):
        answers = one(conn, "SELECT public.attack(%s, %s)", statement, words)
        for word, answer in zip(words, answers, strict=True):
            assert answer[:5].strip() in ALLOWED, f"{label} with {word[:60]!r}: {answer[:300]}"
            outcomes[answer[:5].strip()] += 1
    assert outcomes["ok"] > 1000
    assert outcomes["42703"] > 1000
    assert fetch_value(conn, STATEMENTS["state"]) == state
    assert one(conn, "SELECT count(*) FROM vectuned.tuned_column") == 1


def test_names_of_hostile_text_can_be_tuned_and_searched(conn: Connection) -> None:
    state = fetch_value(conn, STATEMENTS["state"])
    # PostgreSQL has no schemas, roles or columns of these names, or has them already.
    reserved = ("", "none", "public", "vectuned", "pg_class", "ctid", "tableoid", "xmin")
    alike = {wrap.format(payload) for wrap, payload in product(WRAPPED, PAYLOADS[2:])}
    words = sorted({word.encode()[:45].decode(errors="ignore") for word in {*STRINGS} - alike - {*reserved}})
    assert len(words) >= 100
    for word in words:
        (answer,) = one(conn, "SELECT public.name_all(%s)", [word])
        assert answer == "ok", f"{word!r}: {answer}"
    assert fetch_value(conn, STATEMENTS["state"]) == state
