"""Which texts may be planned and run with our rights: those that call functions of PostgreSQL and extensions.

Any role that can send a statement can have it logged. The daemon's role often may do more than the sender,
and the planner itself evaluates functions of constants. So names are compared before anything is planned.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import psycopg

from vectuned.sql.rows import fetch_value, fetch_values

from .tokens import Token, tokenize

# Operators that the server looks up by name for a keyword.
_BY_KEYWORD: Final = {
    "like": ("~~", "!~~"),
    "ilike": ("~~*", "!~~*"),
    "similar": ("~", "!~"),
    "between": ("<=", ">=", "<", ">"),
    "in": ("=", "<>"),
    "distinct": ("=",),
    "using": ("=",),
    "nullif": ("=",),
    "case": ("=",),
}


def find_untrusted(conn: psycopg.Connection[Any], tokens: Sequence[Token]) -> str | None:
    """Return what in a text may call a function of neither PostgreSQL nor an extension, None if nothing.

    That is conservative: it compares names, whatever schema they are looked up in.
    """
    if any(token.kind == "quoted" and token.text[0] in "uU" for token in tokens):
        return "a name with Unicode escapes"
    operators = {token.text for token in tokens if token.kind == "operator"}
    for token in tokens:
        operators.update(_BY_KEYWORD.get(token.keyword, ()))
    values = {
        "functions": called_functions(tokens),
        "members": sorted({token.name for before, token in pairwise(tokens) if before.text == "."}),
        "names": sorted({token.name for token in tokens} - {""}),
        "operators": sorted(operators),
    }
    found: str | None = fetch_value(conn, "statement_untrusted", values)
    return found


def find_untrusted_condition(
    conn: psycopg.Connection[Any], condition: str, *, is_template: bool = False
) -> str | None:
    """Return what keeps a condition over one row from being replayed, None if nothing does.

    Besides what `find_untrusted` finds these are volatile functions, which may do anything and give another
    result each time, and subqueries, which read what the condition's table does not hold. Only a template
    may hold parameters.
    """
    tokens = tokenize(condition)
    if any(token.keyword in ("select", "with", "table", "values", ";") for token in tokens):
        return "a subquery"
    if not is_template and any(token.kind == "parameter" for token in tokens):
        return "a parameter"
    if not _is_balanced(tokens):
        return "brackets or quotes that do not match"
    volatile = find_volatile(conn, tokens)
    return find_untrusted(conn, tokens) if volatile is None else volatile


def find_volatile(conn: psycopg.Connection[Any], tokens: Sequence[Token]) -> str | None:
    """Return the first volatile function that a text calls, in words; None if it calls none."""
    found = fetch_values(conn, "statement_volatile", {"functions": called_functions(tokens)})
    return f"the volatile function {found[0]}" if found else None


def called_functions(tokens: Sequence[Token]) -> list[str]:
    """Return the names before an opening bracket, which include those of all functions called."""
    return sorted({token.name for token, after in pairwise(tokens) if after.text == "("} - {""})


def _is_balanced(tokens: Sequence[Token]) -> bool:
    """Say whether brackets match and quotes are closed, so that a condition cannot end early."""
    depth = 0
    for token in tokens:
        depth += (token.text == "(") - (token.text == ")")
        if depth < 0 or (token.kind == "quoted" and token.text[-1] != '"'):
            return False
        if token.kind == "string" and token.text[-1] not in "'$":
            return False
    return depth == 0
