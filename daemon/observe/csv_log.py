"""Reads logs in the format csvlog."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from datetime import UTC, tzinfo
from typing import Final

from .records import MOST_BYTES, Lines, LogRecord, read_time

_TIME, _USER, _DATABASE, _SESSION, _MESSAGE, _DETAIL = (
    0,
    1,
    2,
    5,
    13,
    14,
)  # columns, the same since PostgreSQL 9
_FEWEST: Final = 23  # columns that every supported version writes
csv.field_size_limit(max(csv.field_size_limit(), MOST_BYTES))  # the default is 128 kB
_RECORD: Final = re.compile(
    rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} [^,\"]{1,10},(?:\"[^\"]*\")?,(?:\"[^\"]*\")?,\d+,"
)  # time, user, database and process of a record
_START: Final = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} [^,\"]{1,10},")


class CsvReader:
    """A RecordReader of the format csvlog: lines whose quotes do not match go on in the next one."""

    def __init__(self, zone: tzinfo = UTC, most: int = MOST_BYTES) -> None:
        self._zone, self._most = zone, most
        self._lines = Lines(most)
        self._open: list[bytes] = []
        self._size = 0
        self._has_open_quote = False
        self._damaged = 0
        self._is_lost = False

    @property
    def held(self) -> int:
        """Bytes of the record that is not complete."""
        return self._size + self._lines.held

    @property
    def damaged(self) -> int:
        """Records passed over."""
        return self._damaged + self._lines.dropped

    def feed(self, data: bytes) -> Iterator[LogRecord]:
        """Yield the records that are complete with some more bytes."""
        dropped = self._lines.dropped
        for line in self._lines.feed(data):
            if self._is_lost and not _START.match(line):
                continue
            self._is_lost = False
            if self._open and _RECORD.match(line):
                # The record before was cut in a quote: text of a statement hardly looks like this.
                self._damaged += 1
                self._reset(is_lost=False)
            if not self._open and not _START.match(line):
                self._lose()
                continue
            self._open.append(line)
            self._size += len(line) + 1
            self._has_open_quote ^= line.count(b'"') % 2 == 1
            if self._size > self._most:
                self._lose()
            elif not self._has_open_quote:
                yield from self._emit()
        if self._lines.dropped > dropped:
            self._reset(is_lost=True)

    def finish(self) -> Iterator[LogRecord]:
        """Yield nothing: a record is complete with its last line."""
        yield from ()

    def _lose(self) -> None:
        """Pass over what is open, up to the next line that begins a record."""
        self._damaged += 1
        self._reset(is_lost=True)

    def _reset(self, *, is_lost: bool) -> None:
        self._open, self._size, self._has_open_quote, self._is_lost = [], 0, False, is_lost

    def _emit(self) -> Iterator[LogRecord]:
        text = b"\n".join(self._open).decode("utf-8", "surrogateescape")
        self._reset(is_lost=False)
        try:
            rows = list(csv.reader(io.StringIO(text, newline="\n"), strict=True))
        except csv.Error:
            rows = []
        if len(rows) != 1 or len(rows[0]) < _FEWEST:
            self._damaged += 1
            return
        columns = rows[0]
        yield LogRecord(
            columns[_MESSAGE],
            columns[_DETAIL],
            read_time(columns[_TIME], self._zone),
            columns[_USER] or None,
            columns[_DATABASE] or None,
            columns[_SESSION] or None,
        )
