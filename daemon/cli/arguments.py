"""Arguments that several commands share, their checks, and the search for the tuned column they name."""

from __future__ import annotations

import argparse
from typing import Any

import psycopg

from vectuned.config.errors import UsageError
from vectuned.sql.rows import fetch_value

_RELATION_HELP = "table, with its schema unless that is in the search_path"


def add_column_arguments(parser: argparse.ArgumentParser) -> None:
    """Add RELATION and COLUMN, both required."""
    parser.add_argument("relation", help=_RELATION_HELP)
    parser.add_argument("column", help="column of type vector or halfvec")


def add_optional_column_arguments(parser: argparse.ArgumentParser) -> None:
    """Add RELATION, and COLUMN for relations with several tuned columns."""
    parser.add_argument("relation", help=_RELATION_HELP)
    parser.add_argument("column", nargs="?", help="tuned column; may be omitted if the table has only one")


def add_search_arguments(parser: argparse.ArgumentParser, *, target_help: str) -> None:
    """Add -k, --target and --seed."""
    parser.add_argument("-k", "--k", type=int, default=10, help="rows per search (default: %(default)s)")
    parser.add_argument("--target", type=float, metavar="R", help=target_help)
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of all random choices (default: %(default)s)"
    )


def check_range(name: str, value: float | None, low: float, high: float) -> None:
    """Raise UsageError unless an argument was omitted (None) or lies between two bounds, both included."""
    if value is not None and not low <= value <= high:
        raise UsageError(f"{name} must be between {low:g} and {high:g}, got {value:g}.")


def find_column_id(conn: psycopg.Connection[Any], relation: str, column: str | None) -> int:
    """Return the id of a tuned column.

    Raises the server's error, which says what is wrong with the name, if there is no such column.
    """
    return int(fetch_value(conn, "find_column", {"relation": relation, "column_name": column}))
