"""Query vectors from a file: `--queries FILE` of `vectuned advise` and `vectuned evaluate`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from vectuned.config.errors import UsageError
from vectuned.learning.model.arrays import Singles
from vectuned.learning.model.column import VectorColumn


def read_query_vectors(path: Path, column: VectorColumn) -> Singles:
    """Read vectors (n, d) for a column: a .npy file with an array of n rows, or lines of JSON arrays.

    Raises UsageError, naming the file and the line or query, for vectors that the column cannot be searched
    for.
    """
    try:
        rows = _read_array(path) if path.suffix == ".npy" else _read_lines(path)
    except OSError as error:
        raise UsageError(f"The queries in {path} cannot be read ({error.strerror}).") from error
    for number, row in enumerate(rows, 1):
        if len(row) != column.dimensions:
            raise UsageError(
                f"{path}, query {number}: it has {len(row)} dimensions, {column} has {column.dimensions}."
            )
    vectors = np.asarray(rows, dtype=np.float32).reshape(len(rows), column.dimensions)
    for number in np.flatnonzero(~np.isfinite(vectors).all(axis=1))[:1]:
        raise UsageError(f"{path}, query {number + 1}: not all of its elements are finite numbers.")
    if column.metric == "cosine":
        for number in np.flatnonzero(~vectors.any(axis=1))[:1]:
            raise UsageError(f"{path}, query {number + 1}: it is zero and has no cosine distance.")
    return vectors


def _read_array(path: Path) -> Singles:
    try:
        array = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise UsageError(f"{path} is not a file written by numpy.save: give rows of numbers.") from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "fiu":
        raise UsageError(f"{path} must hold one array of numbers with two dimensions, one query per row.")
    return array.astype(np.float32)


def _read_lines(path: Path) -> list[list[float]]:
    rows = []
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not UTF-8 text: give a .npy file, or one JSON array per line."
        ) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            row = None
        if not isinstance(row, list) or not all(type(x) in (int, float) for x in row):
            raise UsageError(f"{path}, line {number}: expected a JSON array of numbers.")
        rows.append([float(x) for x in row])
    return rows
