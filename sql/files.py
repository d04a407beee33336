"""Reads the SQL files of this folder: installation scripts, and named statements that Python runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, cast

import psycopg
from psycopg import sql

import vectuned


def folder() -> Traversable:
    """Return the folder of the SQL files in the installed package."""
    return resources.files("vectuned.sql")


@cache
def queries() -> dict[str, sql.SQL]:
    """Return the statements of tuner/queries/**/*.sql by name."""
    files = list(_sql_files(folder().joinpath("tuner", "queries")))
    return {name: statement for file in files for name, statement in named_statements(file).items()}


def _sql_files(place: Traversable) -> Iterator[Traversable]:
    for entry in place.iterdir():
        if entry.is_dir():
            yield from _sql_files(entry)
        elif entry.name.endswith(".sql"):
            yield entry


def named_statements(file: Traversable) -> dict[str, sql.SQL]:
    """Return the statements of a file by the name in the comment `-- name: ...` before each."""
    parts = re.split(r"^-- name: *(\w+).*\n", file.read_text("utf-8"), flags=re.M)
    return {
        name: trusted(text.strip().rstrip(";")) for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def trusted(text: str) -> sql.SQL:
    """Treat a text of this package as SQL; the types of psycopg accept only literals."""
    return sql.SQL(cast(Any, text))


def run_script(conn: psycopg.Connection[Any], text: str, schema: str, ltree_schema: str = "") -> None:
    """Run an SQL script after replacing its markers.

    `@extschema@` becomes `schema`, that of pgvector; `@ltree@` becomes `ltree_schema` unless that is empty;
    `@version@` becomes the version of vectuned.
    """
    for marker, name in (("@extschema@", schema), ("@ltree@", ltree_schema)):
        if name:
            text = text.replace(marker, sql.Identifier(name).as_string(conn))
    conn.execute(text.replace("@version@", vectuned.__version__.replace("'", "''")).encode())
