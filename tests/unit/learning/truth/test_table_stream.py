"""Parsing the stream of a binary COPY."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from vectuned.config.errors import VectunedError
from vectuned.learning.truth.table_stream import parse_rows

LAYOUT = np.dtype([("length", ">i4"), ("value", ">f4", (3,))])
HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(4) + (5).to_bytes(4, "big") + b"extra"


def stream(count: int) -> tuple[npt.NDArray[np.void], bytes]:
    """Make `count` rows, and the bytes of their binary COPY."""
    rows = np.zeros(count, dtype=LAYOUT)
    rows["length"] = 12
    rows["value"] = np.arange(3 * count, dtype=np.float32).reshape(count, 3)
    return rows, HEADER + rows.tobytes() + b"\xff\xff"


@pytest.mark.parametrize("cut", [1, 7, 16, 1000])
@pytest.mark.parametrize("count", [0, 1, 9, 10, 31])
def test_parse_rows_yields_all_rows_wherever_the_stream_is_cut(cut: int, count: int) -> None:
    rows, data = stream(count)
    parsed = list(parse_rows((data[at : at + cut] for at in range(0, len(data), cut)), LAYOUT, 10))
    assert sum(len(part) for part in parsed) == count
    assert [len(part) for part in parsed[:-1]] == [10] * (len(parsed) - 1)
    if count:
        assert (np.concatenate(parsed) == rows).all()


def test_parse_rows_refuses_streams_that_are_not_a_copy_of_such_rows() -> None:
    _, data = stream(4)
    with pytest.raises(VectunedError, match="not in binary format"):
        list(parse_rows([b"1\t2\n"], LAYOUT, 10))
    with pytest.raises(VectunedError, match="not in binary format"):
        list(parse_rows([], LAYOUT, 10))
    for broken in (data[:-2], data[:-5], data + b"\0"):
        with pytest.raises(VectunedError, match="ended within a row of 16 bytes"):
            list(parse_rows([broken], LAYOUT, 10))
