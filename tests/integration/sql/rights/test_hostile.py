"""Hostile text through everything that takes text: a clear error or a right answer, and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import product

import psycopg
import pytest
from pgvector.psycopg import register_vector
from psycopg import sql
from psycopg.conninfo import make_conninfo
from tests.integration.table_helpers import Connection, clustered, enable, make, one

from vectuned.daemon.server.embedded import EmbeddedServer

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
    # Format specifiers and templates of ours
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

# What may be said of text that means nothing here. No syntax error and no internal one is among them.
CLEAR = {
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

# By type, what the arguments are that are not attacked.
ELSE = {
    "regclass": "'items'",
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
# How a hostile text becomes an argument of a type. A relation is named by text that is quoted by then.
ATTACKS = {
    "text": ("$1",),
    "name": ("$1::name",),
    "text[]": ("ARRAY[$1]", "ARRAY[$1, $1]"),
    "name[]": ("ARRAY[$1::name]",),
    "regclass": ("to_regclass(quote_ident($1))",),
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

ATTACK = """
CREATE FUNCTION public.attack(statement text, words text[]) RETURNS text[] LANGUAGE plpgsql AS $attack$
DECLARE
    answers text[] := '{}';
BEGIN
    FOR i IN 1 .. cardinality(words) LOOP
        BEGIN
            EXECUTE statement USING words[i];
            answers[i] := 'ok';
        EXCEPTION WHEN others THEN
            answers[i] := SQLSTATE || ' ' || SQLERRM;
        END;
    END LOOP;
    RETURN answers;
END
$attack$
"""

# A table all of whose names are the word, taken into care, searched in every way and let go of again.
NAMED = """
CREATE FUNCTION public.name_all(words text[]) RETURNS text[] LANGUAGE plpgsql AS $named$
DECLARE
    answers text[] := '{}';
    found text[];
    again text[];
    subject regclass;
    q vector := '[1,-1,0.5,2]';
BEGIN
    FOR i IN 1 .. cardinality(words) LOOP
        BEGIN
            EXECUTE format('CREATE SCHEMA %I', words[i]);
            EXECUTE format('CREATE TABLE %1$I.%1$I (%1$I vector(4), %2$I text, PRIMARY KEY (%2$I))',
                words[i], left(words[i], 15) || '#');
            EXECUTE format('INSERT INTO %1$I.%1$I SELECT ARRAY[n, 1, 2, sin(n)]::vector, %2$L || n FROM
                generate_series(1, 30) n',
                           words[i], words[i]);
            EXECUTE format('CREATE INDEX %1$I ON %2$I.%2$I USING hnsw (%2$I vector_cosine_ops)',
                left(words[i], 15) || '!', words[i]);
            subject := format('%1$I.%1$I', words[i])::regclass;
            PERFORM vectuned.enable(subject, words[i]::name, sample_rate => 1);
            SELECT array_agg(s.id) INTO found FROM vectuned.search(subject, q, 5) s;
            EXECUTE format('SELECT array_agg(r.%2$I) FROM vectuned.search_rows(NULL::%1$I.%1$I, $1, 5) r',
                words[i], left(words[i], 15) || '#')
                INTO again USING q;
            IF cardinality(found) <> 5 OR found <> again OR NOT starts_with(found[1], words[i]) THEN
                RAISE 'found %, then %', found, again;
            END IF;
            SELECT array_agg(s.id) INTO again
            FROM vectuned.search(subject, q, 5, jsonb_build_object(left(words[i], 15) || '#',
                jsonb_build_array(found[2], words[i]))) s;
            IF again <> found[2:2] THEN
                RAISE 'by filter %, not %', again, found[2];
            END IF;
            PERFORM vectuned.params(subject, q), vectuned.apply(subject, q), vectuned.stats(subject,
                words[i]::name);
            PERFORM vectuned.recommend_params(subject, words[i]::name);
            PERFORM vectuned._refresh_column(c.id), vectuned._set_baseline(c.id),
                vectuned._since_baseline(c.id),
                    vectuned._replay(c.id, 1, q, '{10,20}') FROM vectuned.tuned_column c WHERE c.relation =
                        subject;
            PERFORM vectuned._drain(10);
            EXECUTE format('CREATE ROLE %I', words[i]);
            EXECUTE format('GRANT USAGE ON SCHEMA %1$I TO %1$I; GRANT SELECT ON %1$I.%1$I TO %1$I', words[i]);
            IF vectuned._unreadable(subject, words[i]::name) IS NOT NULL OR vectuned._may_tune(subject,
                words[i]::name) THEN
                RAISE 'the rights of the role are not seen';
            END IF;
            EXECUTE format('SET LOCAL ROLE %I', words[i]);
            SELECT array_agg(s.id) INTO again FROM vectuned.search(subject, q, 5) s;
            RESET ROLE;
            EXECUTE format('DROP OWNED BY %1$I; DROP ROLE %1$I', words[i]);
            IF found <> again THEN
                RAISE 'found % by the role', again;
            END IF;
            PERFORM vectuned.disable(subject, words[i]::name, forget => true);
            EXECUTE format('DROP SCHEMA %I CASCADE', words[i]);
            answers[i] := 'ok';
        EXCEPTION WHEN others THEN
            answers[i] := SQLSTATE || ' ' || SQLERRM;
        END;
    END LOOP;
    RETURN answers;
END
$named$
"""

STATE = """
SELECT ARRAY[
    (SELECT md5(string_agg(t::text, ',' ORDER BY t.id)) FROM canary t),
    (SELECT md5(string_agg(t::text, ',' ORDER BY t.id)) FROM items t),
    (SELECT md5(string_agg(concat_ws(' ', relnamespace, relname, relkind, relacl, relowner), ',' ORDER BY
        oid)) FROM pg_class
     WHERE relnamespace <> 'pg_toast'::regnamespace),
    (SELECT md5(string_agg(concat_ws(' ', oid::regprocedure, prosrc, proacl, prosecdef, proconfig), ','
        ORDER BY oid)) FROM pg_proc),
    (SELECT md5(string_agg(t::text, ',' ORDER BY t.oid)) FROM pg_roles t),
    (SELECT md5(string_agg(concat_ws(' ', nspname, nspacl), ',' ORDER BY oid)) FROM pg_namespace),
    (SELECT md5(string_agg((t.id, t.relation, t.column_name, t.target_recall, t.enabled)::text, ',')) FROM
        vectuned.tuned_column t)]
"""


@pytest.fixture(scope="module")
def conn(server: EmbeddedServer, template: str) -> Iterator[Connection]:
    """A database with a tuned table, and one that nothing here may touch."""
    with psycopg.connect(server.dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE test_hostile TEMPLATE {}").format(sql.Identifier(template)))
        try:
            with psycopg.connect(make_conninfo(server.dsn, dbname="test_hostile"), autocommit=True) as conn:
                register_vector(conn)
                make(conn, clustered(60, 4, seed=1))
                conn.execute(
                    "ALTER TABLE items ADD COLUMN label text, ADD COLUMN kind int, ADD COLUMN day "
                    "date, "
                    "ADD COLUMN size numeric"
                )
                conn.execute("UPDATE items SET label = 'l' || id, kind = id % 3")
                conn.execute("ANALYZE items")
                conn.execute("CREATE TABLE canary AS SELECT id FROM generate_series(1, 10) AS id")
                conn.execute(ATTACK)
                conn.execute(NAMED)
                conn.execute("SET statement_timeout = '60s'")
                # Once, what the statements of any session do anyway.
                enable(conn, sample_rate=1.0)
                yield conn
        finally:
            admin.execute("DROP DATABASE test_hostile WITH (FORCE)")


def targets(conn: Connection) -> list[tuple[str, str]]:
    """List what can be attacked: a label, and a statement in which $1 is the hostile text.

    Every argument that takes text of every function that somebody but the owner may call, or that has no
    underscore: new ones are found here by themselves.
    """
    rows = conn.execute(
        "SELECT p.proname, array_agg(coalesce(a.name, '') ORDER BY a.place), "
        "array_agg(format_type(a.type, NULL) ORDER BY a.place) "
        "FROM pg_proc p CROSS JOIN LATERAL unnest(p.proargnames[1:p.pronargs], p.proargtypes::oid[]) "
        "WITH ORDINALITY AS a (name, type, place) "
        "WHERE p.pronamespace = 'vectuned'::regnamespace "
        "AND (p.proname !~ '^_' OR has_function_privilege('pg_monitor', p.oid, 'EXECUTE')) GROUP BY p.oid "
        "ORDER BY 1"
    ).fetchall()
    found = []
    for name, arguments, types in rows:
        if not set(types) - {"vector"} <= set(ELSE):
            assert name.startswith("_"), f"vectuned.{name} takes a type that nothing is known of here"
            continue  # rows of our own tables, made by our own functions
        for place, kind in enumerate(types):
            for attack in ATTACKS.get(kind, ()):
                given = [
                    f"{attack}::{t}"
                    if i == place
                    else "'[1,-1,0.5,2]'::vector"
                    if t == "vector"
                    else f"{ELSE[t]}"
                    if t == "anyelement"
                    else f"{ELSE[t]}::{t}"
                    for i, t in enumerate(types)
                ]
                found.append(
                    (
                        f"{name}({arguments[place]} => {attack})",
                        f"SELECT * FROM vectuned.{name}({', '.join(given)})",
                    )
                )
    return found


def test_there_is_enough_to_attack_and_to_attack_with(conn: Connection) -> None:
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


def test_hostile_text_in_every_argument(conn: Connection) -> None:
    state = one(conn, STATE)
    words = [word for word in STRINGS if "\0" not in word]
    seen: Counter[str] = Counter()
    for label, statement in targets(conn):
        answers = one(conn, "SELECT public.attack(%s, %s)", statement, words)
        for word, answer in zip(words, answers, strict=True):
            assert answer[:5].strip() in CLEAR, f"{label} with {word[:60]!r}: {answer[:300]}"
            seen[answer[:5].strip()] += 1
    assert seen["ok"] > 1000
    assert seen["42703"] > 1000
    assert one(conn, STATE) == state
    assert one(conn, "SELECT count(*) FROM vectuned.tuned_column") == 1


def test_names_made_of_hostile_text(conn: Connection) -> None:
    state = one(conn, STATE)
    # Such schemas, roles or columns there cannot be.
    reserved = ("", "none", "public", "vectuned", "pg_class", "ctid", "tableoid", "xmin")
    alike = {wrap.format(payload) for wrap, payload in product(WRAPPED, PAYLOADS[2:])}
    words = sorted({word.encode()[:45].decode(errors="ignore") for word in {*STRINGS} - alike - {*reserved}})
    assert len(words) >= 100
    for word, answer in zip(words, one(conn, "SELECT public.name_all(%s)", words), strict=True):
        assert answer == "ok", f"{word!r}: {answer}"
    assert one(conn, STATE) == state
