"""Runs statements of the SQL files and fetches rows, by name rather than by position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row, namedtuple_row, scalar_row

from .files import queries

Values = Mapping[str, Any] | Sequence[Any] | None
Statement = str | sql.SQL | sql.Composed
"""The name of a statement in tuner/queries/, or an SQL statement composed with psycopg.sql."""


def execute(conn: psycopg.Connection[Any], statement: Statement, values: Values = None) -> int:
    """Run a statement and return the number of rows it affected."""
    return conn.execute(_text(statement), values).rowcount


def fetch_value(conn: psycopg.Connection[Any], statement: Statement, values: Values = None) -> Any:
    """Return the first column of the first row, None without a row."""
    with conn.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute(_text(statement), values).fetchone()


def fetch_values(conn: psycopg.Connection[Any], statement: Statement, values: Values = None) -> list[Any]:
    """Return the first column of every row."""
    with conn.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute(_text(statement), values).fetchall()


def fetch_row(conn: psycopg.Connection[Any], statement: Statement, values: Values = None) -> Any:
    """Return the first row as a named tuple, None without a row."""
    with conn.cursor(row_factory=namedtuple_row) as cursor:
        return cursor.execute(_text(statement), values).fetchone()


def fetch_rows(conn: psycopg.Connection[Any], statement: Statement, values: Values = None) -> list[Any]:
    """Return every row as a named tuple."""
    with conn.cursor(row_factory=namedtuple_row) as cursor:
        return cursor.execute(_text(statement), values).fetchall()


def fetch_dicts(
    conn: psycopg.Connection[Any], statement: Statement, values: Values = None
) -> list[dict[str, Any]]:
    """Return every row as a dictionary, for example to be written as JSON."""
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(_text(statement), values).fetchall()


def _text(statement: Statement) -> sql.SQL | sql.Composed:
    return queries()[statement] if isinstance(statement, str) else statement
