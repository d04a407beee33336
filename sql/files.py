"""The SQL files of this folder: scripts that install things, and named statements that the code runs."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, cast

import psycopg
from psycopg import sql

import vectuned


def folder() -> Traversable:
    """Return the folder of the SQL files, wherever the package is installed."""
    return resources.files("vectuned.sql")


@cache
def queries() -> dict[str, sql.SQL]:
    """Return the statements of tuner/queries/*.sql by the name in the comment `-- name: ...` before each."""
    files = [f for f in folder().joinpath("tuner", "queries").iterdir() if f.name.endswith(".sql")]
    return {name: statement for file in files for name, statement in named_statements(file).items()}


def named_statements(file: Traversable) -> dict[str, sql.SQL]:
    """Return the statements of a file by the name in the comment before each."""
    parts = re.split(r"^-- name: *(\w+).*\n", file.read_text("utf-8"), flags=re.M)
    return {
        name: trusted(text.strip().rstrip(";")) for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def trusted(text: str) -> sql.SQL:
    """Mark a text of our own as SQL; psycopg's types accept only literals."""
    return sql.SQL(cast(Any, text))


def run_script(conn: psycopg.Connection[Any], text: str, schema: str, ltree_schema: str = "") -> None:
    """Run a file's statements after replacing its markers.

    `@extschema@` becomes pgvector's schema, `@ltree@` that of ltree where one is given, and `@version@` the
    version of vectuned.
    """
    for token, name in (("@extschema@", schema), ("@ltree@", ltree_schema)):
        if name:
            text = text.replace(token, sql.Identifier(name).as_string(conn))
    conn.execute(text.replace("@version@", vectuned.__version__.replace("'", "''")).encode())
