"""Conditions made independent of the search_path: every name that is not pg_catalog's with its schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import psycopg
from psycopg import sql

from vectuned.sql.rows import execute, fetch_rows

from .plan import NotReducibleError, read_scan
from .preparation import explain, prepared_statement
from .tokens import Token, tokenize

_MOST_TRIES: Final = 40  # plans made to find which operators need their schema


def qualify(
    conn: psycopg.Connection[Any],
    relation: tuple[str, str],
    condition: str,
    types: Sequence[str],
    settings: Mapping[str, str | None],
) -> str:
    """Return a condition as it is written with search_path = pg_catalog.

    The server writes names without a schema where the search_path finds them. So the condition is parsed and
    written again with search_path = pg_catalog. If the result, read back with the application's search_path,
    is the condition as it was, both mean the same. Otherwise types, functions and operators get the schema of
    the application's search_path, operators one after the other, as far as that brings the texts together.

    `types` are the parameters' types; `settings` those of `statement_settings`. Raises NotReducibleError
    where that does not succeed, psycopg.Error if the connection is lost.
    """
    attempt = _Attempt(conn, relation, condition, types, settings)
    written = attempt.write(condition)
    if written is not None and attempt.matches(written):
        return written
    schemas = attempt.schemas()
    tokens = tokenize(condition)
    named = {at: name for at in range(len(tokens)) if (name := _qualified_name(tokens, at, schemas))}
    operators = [at for at, token in enumerate(tokens) if token.kind == "operator" and token.text in schemas]
    best, reached = dict(named), -1
    for at in [-1, *operators][:_MOST_TRIES]:
        chosen = dict(best)
        if at >= 0:
            chosen[at] = f"OPERATOR({schemas[tokens[at].text]}.{tokens[at].text})"
        written = attempt.write(_replace(condition, tokens, chosen))
        common = -1 if written is None else attempt.common(written)
        if written is not None and attempt.matches(written):
            return written
        if common > reached or (written is None and reached < 0):
            best, reached = chosen, common
    raise NotReducibleError("names in its condition that depend on the search_path")


class _Attempt:
    """Writes a condition with search_path = pg_catalog, and reads it back with the application's."""

    def __init__(
        self,
        conn: psycopg.Connection[Any],
        relation: tuple[str, str],
        condition: str,
        types: Sequence[str],
        settings: Mapping[str, str | None],
    ) -> None:
        self._conn, self._condition, self._types = conn, condition, types
        self._settings = dict(settings)
        self._relation = sql.Identifier(*relation).as_string(conn)

    def write(self, condition: str) -> str | None:
        """Return what the server makes of a condition with search_path = pg_catalog, None if it cannot."""
        try:
            return self._plan(condition, "pg_catalog")
        except (psycopg.Error, NotReducibleError):
            if self._conn.closed:
                raise
            return None

    def matches(self, written: str) -> bool:
        """Say whether a condition, read back, is the one that was to be written."""
        return self._read_back(written) == self._condition

    def common(self, written: str) -> int:
        """Return how many characters of the condition that was to be written are read back."""
        pairs = zip(self._read_back(written) or "", self._condition, strict=False)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), 0)

    def schemas(self) -> dict[str, str]:
        """Return the first schema but pg_catalog that has an operator, function or type of each name."""
        names = sorted({token.name or token.text for token in tokenize(self._condition)})
        with self._conn.transaction(force_rollback=True):
            execute(self._conn, "statement_settings", self._settings)
            rows = fetch_rows(self._conn, "statement_schemas", {"names": names})
        return {row.name: row.schema for row in rows}

    def _read_back(self, written: str) -> str | None:
        if written == self._condition:
            return written  # nothing in it needs a schema
        try:
            return self._plan(written, None)
        except (psycopg.Error, NotReducibleError):
            if self._conn.closed:
                raise
            return None

    def _plan(self, condition: str, search_path: str | None) -> str | None:
        values = {**self._settings, **({} if search_path is None else {"search_path": search_path})}
        text = f"SELECT FROM {self._relation} AS t WHERE {condition}"
        with prepared_statement(self._conn, text, values, self._types):
            plan = explain(self._conn, [None] * len(self._types))
        return read_scan(plan).condition


def _qualified_name(tokens: Sequence[Token], at: int, schemas: Mapping[str, str]) -> str | None:
    """Return a type's or function's name with its schema, None for other tokens."""
    before = tokens[at - 1].text if at else ""
    after = tokens[at + 1].text if at + 1 < len(tokens) else ""
    if tokens[at].name not in schemas or before == "." or after == ".":
        return None
    return f"{schemas[tokens[at].name]}.{tokens[at].text}" if before == "::" or after == "(" else None


def _replace(text: str, tokens: Sequence[Token], chosen: Mapping[int, str]) -> str:
    pieces, copied = [], 0
    for at in sorted(chosen):
        pieces += [text[copied : tokens[at].start], chosen[at]]
        copied = tokens[at].end
    return "".join([*pieces, text[copied:]])
