"""The column and the query vectors that `vectuned advise` and `vectuned evaluate` measure with."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg

from vectuned.config.errors import UsageError, VectunedError
from vectuned.daemon.cli.arguments import find_column_id
from vectuned.sql.rows import execute

if TYPE_CHECKING:
    from vectuned.learning.model.arrays import Singles
    from vectuned.learning.model.column import VectorColumn
    from vectuned.learning.model.tuned_columns import TunedColumn

# More queries take hours to answer exactly, and narrow the intervals no further than anyone needs.
_MOST_QUERIES: Final = 10_000
# Recorded searches that `--queries recorded` takes at most.
_RECORDED_QUERIES: Final = 2000


def find_tuned_column(conn: psycopg.Connection[Any], options: argparse.Namespace) -> TunedColumn:
    """Return the tuned column that the options name, its indexes as they are now.

    Raises VectunedError if the column has no index over all rows.
    """
    from vectuned.learning.model.tuned_columns import read_tuned_columns

    column_id = find_column_id(conn, options.relation, options.column)
    execute(conn, "refresh_column", {"column_id": column_id})
    tuned = next(iter(read_tuned_columns(conn, column_id)), None)
    if tuned is None:
        raise VectunedError(f"The column of {options.relation} is missing: see `vectuned status`.")
    if tuned.main is None:
        raise VectunedError(
            f"{tuned.column} has no index over all its rows: create an HNSW or IVFFlat index, then "
            "SELECT vectuned.refresh(...)."
        )
    return tuned


def parse_query_count(options: argparse.Namespace) -> int | None:
    """Return the number that --queries asks for, None where it names a file.

    Raises UsageError for too few or too many.
    """
    from vectuned.daemon.measure.sampling import MIN_SEARCHES

    source = str(options.queries)
    if not (source.isdecimal() or source == "recorded"):
        return None
    count = _RECORDED_QUERIES if source == "recorded" else int(source)
    if not MIN_SEARCHES <= count <= _MOST_QUERIES:
        raise UsageError(f"--queries must be between {MIN_SEARCHES} and {_MOST_QUERIES}, got {count}.")
    return count


def check_query_count(count: int, source: str) -> None:
    """Raise UsageError if `source`, a subject with its verb, gives too few or too many queries."""
    from vectuned.daemon.measure.sampling import MIN_SEARCHES

    if not MIN_SEARCHES <= count <= _MOST_QUERIES:
        raise UsageError(f"{source} {count} queries; between {MIN_SEARCHES} and {_MOST_QUERIES} are needed.")


def load_query_file(column: VectorColumn, options: argparse.Namespace) -> Singles:
    """Return the vectors, float32 (n, dimensions), of the file that --queries names."""
    from vectuned.daemon.measure.query_files import read_query_vectors

    vectors = read_query_vectors(Path(options.queries), column)
    check_query_count(len(vectors), f"{options.queries} holds")
    return vectors


def load_queries(conn: psycopg.Connection[Any], tuned: TunedColumn, options: argparse.Namespace) -> Singles:
    """Return the vectors, float32 (n, dimensions), of --queries: a number, `recorded` or a file."""
    from vectuned.daemon.measure.sampling import sample_searches
    from vectuned.learning.model.trajectory import drain

    count = parse_query_count(options)
    if count is None:
        return load_query_file(tuned.column, options)
    drain(conn)
    other = "name a file of query vectors: --queries FILE"
    return sample_searches(conn, tuned, count, seed=options.seed, alternative=other).vectors
