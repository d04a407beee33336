"""The rows of a table as blocks of arrays, streamed by binary COPY without a Python loop per row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import psycopg
from psycopg import sql

from vectuned.config.errors import VectunedError
from vectuned.learning.model.column import VectorColumn

from .neighbors import Block

Buffer = bytes | bytearray | memoryview

# Copies the address, the vector and one flag for each filter of all rows that have a vector; the last
# placeholder is a further condition.
_COPY: Final = (
    "COPY (SELECT tableoid, ctid, {}{} FROM {} AS t WHERE {} IS NOT NULL{}) TO STDOUT (FORMAT BINARY)"
)
# Binary COPY begins with this signature, flags and the length of an extension, both int4, and the extension.
_SIGNATURE: Final = b"PGCOPY\n\xff\r\n\0"
_HEADER_BYTES: Final = len(_SIGNATURE) + 8  # without the extension
_TRAILER: Final = b"\xff\xff"  # -1 as int2 where the number of fields of a row would be
_BLOCK_BYTES: Final = 1 << 25  # bytes of a block, 32 MB: bounds the memory where vectors are wide
_BLOCK_ROWS: Final = 16384  # rows of a block where they are narrow: enough for an efficient matrix product


def stream_blocks(
    conn: psycopg.Connection[Any],
    column: VectorColumn,
    filters: Sequence[sql.Composable],
    *,
    only_matching: bool = False,
    block_rows: int | None = None,
) -> Iterator[Block]:
    """Stream the rows of a table that have a vector, in blocks; `Block.allowed` has a row for each filter.

    `filters` are boolean SQL expressions over the table, which is called t. With `only_matching`, rows that
    match none of them are left out. Raises VectunedError for vectors of other dimensions in the table.
    """
    layout = _row_layout(column, len(filters))
    if block_rows is None:
        block_rows = max(1, min(_BLOCK_ROWS, _BLOCK_BYTES // layout.itemsize))
    flags = [sql.SQL(", coalesce(({}), false)").format(item) for item in filters]
    condition: sql.Composable = sql.SQL("")
    if filters and only_matching:
        either = sql.SQL(" OR ").join(sql.SQL("({})").format(item) for item in filters)
        condition = sql.SQL(" AND ({})").format(either)
    statement = sql.SQL(_COPY).format(
        column.vector, sql.Composed(flags), column.relation, column.vector, condition
    )
    with conn.cursor() as cursor, cursor.copy(statement) as copy:
        for rows in parse_rows(copy, layout, block_rows):
            yield _as_block(rows, column)


def row_bytes(column: VectorColumn, filters: int) -> int:
    """Return the bytes of a row in the stream, with a flag for each filter."""
    return _row_layout(column, filters).itemsize


def _row_layout(column: VectorColumn, flags: int) -> np.dtype[np.void]:
    """Return the dtype of a row in binary COPY: a field is its length as int4 and its bytes, big-endian."""
    element = ">f4" if column.vector_type == "vector" else ">f2"
    return np.dtype(
        [
            ("fields", ">i2"),
            ("tableoid_length", ">i4"),
            ("tableoid", ">u4"),
            ("ctid_length", ">i4"),
            ("ctid_block", ">u4"),
            ("ctid_offset", ">u2"),
            ("vector_length", ">i4"),
            ("dimensions", ">i2"),
            ("unused", ">i2"),
            ("vector", element, (column.dimensions,)),
            ("flags", [("length", ">i4"), ("value", "u1")], (flags,)),
        ]
    )


def parse_rows(
    chunks: Iterable[Buffer], layout: np.dtype[np.void], block_rows: int
) -> Iterator[npt.NDArray[np.void]]:
    """Parse the bytes of a binary COPY into arrays of `block_rows` rows of dtype `layout`, the last shorter.

    `chunks` may be cut anywhere; psycopg yields about one row each. Rows of another width than `layout` yield
    arrays whose length fields are wrong, which the caller must check, or raise VectunedError when the stream
    does not end where a row does. Format: PostgreSQL's manual, COPY, "Binary Format".
    """
    pieces = iter(chunks)
    pending = _skip_header(pieces)
    width = layout.itemsize
    while True:
        # A piece is about one row: as many pieces as rows are missing never hold much more than a block.
        more = list(islice(pieces, max(1, block_rows - len(pending) // width)))
        ended = not more
        pending = b"".join((pending, *more))
        del more  # frees the pieces before the block is used
        while len(pending) >= block_rows * width or (ended and len(pending) >= width):
            count = min(block_rows, len(pending) // width)
            yield np.frombuffer(pending, dtype=layout, count=count)
            pending = pending[count * width :]
        if ended:
            break
    if pending != _TRAILER:
        raise VectunedError(
            f"The COPY stream ended within a row of {width} bytes: the column's vectors differ in dimensions."
        )


def _skip_header(pieces: Iterator[Buffer]) -> bytes:
    """Consume the header of a binary COPY and return the bytes after it that came along."""
    pending = _take(pieces, b"", _HEADER_BYTES)
    if not pending.startswith(_SIGNATURE) or len(pending) < _HEADER_BYTES:
        raise VectunedError("The server's answer to COPY is not in binary format: check what stands between.")
    extension = int.from_bytes(pending[_HEADER_BYTES - 4 : _HEADER_BYTES], "big")
    return _take(pieces, pending, _HEADER_BYTES + extension)[_HEADER_BYTES + extension :]


def _take(pieces: Iterator[Buffer], pending: bytes, length: int) -> bytes:
    """Append pieces to `pending` until it has `length` bytes or they end."""
    while len(pending) < length and (piece := next(pieces, None)) is not None:
        pending += piece
    return pending


def _as_block(rows: npt.NDArray[np.void], column: VectorColumn) -> Block:
    """Check the widths of parsed rows and turn them into native arrays."""
    flags = rows["flags"]
    expected = {
        "fields": 3 + flags.shape[1],
        "tableoid_length": 4,
        "ctid_length": 6,
        "vector_length": 4 + rows["vector"].dtype.itemsize * column.dimensions,
        "dimensions": column.dimensions,
    }
    if not all((rows[name] == value).all() for name, value in expected.items()):
        raise VectunedError(
            f"{column} holds vectors that do not have {column.dimensions} dimensions: "
            "give the column a type with dimensions, or tune a column that has one."
        )
    ctids = rows["ctid_block"].astype(np.int64) << 16 | rows["ctid_offset"]
    allowed = np.ascontiguousarray(flags["value"].T, dtype=np.bool_) if flags.shape[1] else None
    return Block(rows["vector"].astype(np.float32), rows["tableoid"].astype(np.int64), ctids, allowed)
