"""Tokens of SQL texts, and the shapes of conditions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vectuned.learning.statements.tokens import (
    cut_at_parameters,
    literal_end,
    rename_alias,
    shape_of,
    tokenize,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a<=>'x'", ["a", "<=>", "'x'"]),
        ("'it''s' E'a\\'b' B'01' U&'x'", ["'it''s'", "E'a\\'b'", "B'01'", "U&'x'"]),
        ('"a""b".c', ['"a""b"', ".", "c"]),
        ("$$a'$$ $x$ $$ $x$ $1", ["$$a'$$", "$x$ $$ $x$", "$1"]),
        ("1.5e3 .5 1..2 0x1F", ["1.5e3", ".5", "1", "..", "2", "0x1F"]),
        ("a -- x\n/* b /* c */ d */ e", ["a", "e"]),
        ("a=-1 @- b", ["a", "=", "-", "1", "@-", "b"]),
        ("'never closed", ["'never closed"]),
        ("/* never closed", []),
        ("x::int[1:2]", ["x", "::", "int", "[", "1", ":", "2", "]"]),
        ("a$1", ["a$1"]),
    ],
)
def test_tokenize_splits_as_the_server_does(text: str, expected: list[str]) -> None:
    assert [token.text for token in tokenize(text)] == expected


@given(st.text("ab1$'\"-/*.\\ \n<=>:éE&u", max_size=60))
def test_tokenize_accepts_any_text_and_loses_nothing_but_spaces_and_comments(text: str) -> None:
    place = 0
    for token in tokenize(text):
        assert token.text
        assert text[token.start : token.end] == token.text
        between = text[place : token.start]
        assert not between.strip() or "--" in between or "/*" in between or "\0" in between
        place = token.end


def test_token_name_is_folded_unless_quoted_and_cut_as_the_server_does() -> None:
    assert [token.name for token in tokenize('Docs "Docs" "a""b" 1 \'x\'')] == ["docs", "Docs", 'a"b', "", ""]
    assert tokenize("x" * 100)[0].name == "x" * 63


@pytest.mark.parametrize(
    ("condition", "shape"),
    [
        ("(t.a = 'x'::text)", "(t.a = $1)"),
        ("(t.a = $7)", "(t.a = $1)"),
        ("(t.a = ($7)::text)", "(t.a = $1)"),
        ("(t.n = ANY ('{1,2}'::integer[]))", "(t.n = ANY ($1))"),
        ("(t.n = ANY (ARRAY[$2, ($3)::integer, 4]))", "(t.n = ANY ($1))"),
        ("((t.m ->> 'k'::text) = 'v'::text)", "((t.m ->> $1) = $2)"),
        ("(t.d < '2020-01-01 00:00:00'::timestamp(3) without time zone)", "(t.d < $1)"),
        ("(t.c = 'x'::character varying(3))", "(t.c = $1)"),
        ("((t.a IS NOT NULL) AND (t.b IS TRUE) AND (t.c = true))", None),
        ("(f(t.a, 1) OPERATOR(s.@>) '{}'::s.ty)", "(f(t.a, $1) OPERATOR(s.@>) $2)"),
        ("(t.a = '$1 and ''t.b'''::text)", "(t.a = $1)"),
    ],
)
def test_shape_of_replaces_literals_with_their_casts(condition: str, shape: str | None) -> None:
    expected = "((t.a IS NOT NULL) AND (t.b IS TRUE) AND (t.c = $1))" if shape is None else shape
    assert shape_of(condition) == expected
    assert shape_of(f"  {condition} ") == expected


def test_shape_of_distinguishes_types_only_on_request() -> None:
    integer, text = "(t.a = '1'::integer)", "(t.a = '1'::text)"
    assert shape_of(integer) == shape_of(text)
    assert shape_of(integer, with_types=True) != shape_of(text, with_types=True)


def test_rename_alias_changes_qualifiers_outside_of_quotes_and_schemas() -> None:
    text = "((x.a = 'x.b'::x.ty) AND (x.c OPERATOR(x.=) x.f(\"x.d\")) AND (y.x.c) AND (x.* IS NULL))"
    renamed = "((t.a = 'x.b'::x.ty) AND (t.c OPERATOR(x.=) x.f(\"x.d\")) AND (y.x.c) AND (t.* IS NULL))"
    assert rename_alias(text, "x", "t") == renamed
    assert rename_alias('("My Docs".a > 1)', "My Docs", "t") == "(t.a > 1)"


def test_cut_at_parameters_leaves_out_those_in_quotes() -> None:
    assert cut_at_parameters("a = $2 AND b = '$1' OR $10") == (("a = ", " AND b = '$1' OR ", ""), (2, 10))
    assert cut_at_parameters("x") == (("x",), ())


@pytest.mark.parametrize(("text", "end"), [("('a')::t", 5 - 0), ("f('a')", None), ("(a)", None), ("", None)])
def test_literal_end_finds_literals_only(text: str, end: int | None) -> None:
    assert literal_end(tokenize(text), 0) == end
