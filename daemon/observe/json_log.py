"""Reads logs in the format jsonlog."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, tzinfo
from typing import Any

from .records import MOST_BYTES, Lines, LogRecord, read_time


class JsonReader:
    """A RecordReader of the format jsonlog: a document on each line."""

    def __init__(self, zone: tzinfo = UTC, most: int = MOST_BYTES) -> None:
        self._zone = zone
        self._lines = Lines(most)
        self._damaged = 0

    @property
    def held(self) -> int:
        """Bytes of the line that is not complete."""
        return self._lines.held

    @property
    def damaged(self) -> int:
        """Records passed over."""
        return self._damaged + self._lines.dropped

    def feed(self, data: bytes) -> Iterator[LogRecord]:
        """Yield the records that are complete with some more bytes."""
        for line in self._lines.feed(data):
            try:
                document = json.loads(line.decode("utf-8", "surrogateescape"))
            except (ValueError, RecursionError):
                document = None
            if not isinstance(document, dict):
                self._damaged += bool(line)
                continue
            yield self._record(document)

    def finish(self) -> Iterator[LogRecord]:
        """Yield nothing: a record is complete with its line."""
        yield from ()

    def _record(self, document: dict[str, Any]) -> LogRecord:
        def text(name: str) -> str:
            value = document.get(name)
            return value if isinstance(value, str) else ""

        return LogRecord(
            text("message"),
            text("detail"),
            read_time(text("timestamp"), self._zone),
            text("user") or None,
            text("dbname") or None,
            text("session_id") or None,
        )
