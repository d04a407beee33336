"""Fingerprints: equal for the same statement however its values are given, different for others."""

from __future__ import annotations

import timeit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vectuned.sql.client.fingerprint import fingerprint, normalize

TEMPLATE = (
    "SELECT id, 1 - (embedding <=> {}) AS score FROM shop.docs d WHERE category = {} AND price < {} "
    "AND id IN ({}) AND meta @> {} ORDER BY embedding <=> {} LIMIT {}"
)
STATEMENT = TEMPLATE.format("'[1,2]'", "'noun'", "-2.5e3", "1, 2, 3", "'{}'", "'[1,2]'", "10")

quoted = st.text(st.characters(exclude_characters="\0"), max_size=20).map(
    lambda text: "'" + text.replace("'", "''") + "'"
)
escaped = st.text(max_size=20).map(
    lambda text: "E'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\0", "") + "'"
)
dollars = st.text(st.characters(exclude_characters="$\0"), max_size=20).map(lambda text: f"$q${text}$q$")
numbers = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False)).map(str)
constants = st.sampled_from(["true", "NULL", "False"])
literals = st.one_of(quoted, escaped, dollars, numbers, constants)
markers = st.sampled_from(["$1", "$12", "%s", "%(name)s", "%b", ":name", "?"])
casts = st.sampled_from(
    ["", "::text", "::public.vector(3)", "::character varying(10)[]", "::timestamp with time zone", "::int[]"]
)
values = st.builds(lambda value, cast: value + cast, st.one_of(literals, markers), casts)
spaces = st.sampled_from([" ", "\n", "\t ", " -- a 'comment'\n", " /* a /* nested */ $1 */ "])


@settings(derandomize=True, deadline=None, database=None)
@given(st.lists(values, min_size=6, max_size=6), st.lists(values, min_size=1, max_size=30))
def test_fingerprint_is_equal_for_literals_and_parameters(each: list[str], listed: list[str]) -> None:
    first, second, third, *rest = each
    text = TEMPLATE.format(first, second, third, ",".join(listed), *rest)
    assert fingerprint(text) == fingerprint(STATEMENT)


@settings(derandomize=True, deadline=None, database=None)
@given(st.data())
def test_fingerprint_ignores_white_space_comments_and_case(data: st.DataObject) -> None:
    words = STATEMENT.split(" ")
    between = [data.draw(spaces) for _ in words]
    text = "".join(word + space for word, space in zip(words, between, strict=True))
    assert fingerprint(text) == fingerprint(STATEMENT)
    assert fingerprint(STATEMENT.upper() + " ; ") == fingerprint(STATEMENT)


@settings(derandomize=True, deadline=None, database=None)
@given(st.text())
def test_normalize_takes_any_text_and_is_idempotent(text: str) -> None:
    once = normalize(text)
    assert normalize(once) == once
    assert fingerprint(once) == fingerprint(text)


@settings(derandomize=True, deadline=None, database=None)
@given(st.lists(st.one_of(quoted, escaped, dollars), min_size=1, max_size=5))
def test_normalize_keeps_no_literal(strings: list[str]) -> None:
    text = f"SELECT a FROM b WHERE c = ANY (ARRAY[{', '.join(strings)}]) AND d = {strings[0]} LIMIT 7"
    assert normalize(text) == "select a from b where c = any (?) and d = ? limit ?"


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("a=-5 AND b - 1 > -2", "a = ? and b - ? > ?"),
        ("a=%s AND b<=>%(q)s AND c=? AND d=:d", "a = ? and b <=> ? and c = ? and d = ?"),
        ("a %% 2 = 1", "a % ? = ?"),
        ("arr[1:n], a::halfvec(3) <=> $1::halfvec(3)", "arr[? : n], a::halfvec(?) <=> ?"),
        ("(a, b) IN ((1,2),(3,4)) OR c IN (SELECT f(1, 2))", "(a, b) in ? or c in (select f(?, ?))"),
        ("d ? 'k' AND d ?| array['a','b'] AND d @? '$.a'", "d ? ? and d ?| ? and d @? ?"),
        ("a IS NOT NULL AND b IS TRUE AND NOT NULL", "a is not null and b is true and not null"),
        ('"Q"."x y" LIKE\'%s\' -- \'', '"Q"."x y" like ?'),
        ("U&'d\\0061t' || X'1F' || b'1' || .5 || 0x1F || 1_000", " || ".join("??????")),
        ("'never closed", "?"),
        ("", ""),
    ],
)
def test_normalize_writes_the_statement_without_values(text: str, normal: str) -> None:
    assert normalize(text) == normal


@pytest.mark.parametrize(
    "other",
    [
        STATEMENT.replace("<=>", "<->"),
        STATEMENT.replace("category =", "category <>"),
        STATEMENT.replace("shop.docs", '"Shop".docs'),
        STATEMENT.replace("LIMIT 10", ""),
        STATEMENT.replace("price < -2.5e3", "price IS NULL"),
        STATEMENT.replace("embedding <=>", "embedding::halfvec(2) <=>"),
    ],
)
def test_fingerprint_differs_for_other_statements(other: str) -> None:
    assert fingerprint(other) != fingerprint(STATEMENT)


def test_fingerprint_time_grows_with_the_length_alone() -> None:
    # A ratio, not a time: hostile texts must not make the expressions backtrack.
    def took(text: str) -> float:
        return min(timeit.repeat(lambda: fingerprint(text), number=1, repeat=3))

    for hostile in (
        "'" * 20_001,
        "/*" * 10_000,
        "$a" * 10_000,
        "((" * 10_000,
        '"' * 20_001,
        "E'\\" * 7000,
        "%(" * 10_000,
    ):
        # In quadratic time, this would take 256 times as long.
        assert took(hostile * 16) < 150 * took(hostile) + 0.05, hostile[:10]
