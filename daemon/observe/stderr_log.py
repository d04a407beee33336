"""Reads logs in the format stderr."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from typing import Final

from .messages import SECONDARY_TAGS
from .prefix import compile_prefix
from .records import MOST_BYTES, Lines, LogRecord, read_time

_UNKNOWN: Final = ("", "[unknown]")  # where a session has no user or database yet
_DETAIL: Final = "$1 = "  # in every language
_DETAIL_WITHIN: Final = 60  # characters of a line in which that stands, behind a word and a colon


class StderrReader:
    """A RecordReader of the format stderr with a log_line_prefix, None if that is not known.

    The lines of a message after its first begin with a tab. A line that fits the prefix of no message ends
    the record before it.
    """

    def __init__(self, prefix: str | None = None, zone: tzinfo = UTC, most: int = MOST_BYTES) -> None:
        self._pattern, self._any = compile_prefix(prefix), compile_prefix(None)
        self._zone, self._most = zone, most
        self._lines = Lines(most)
        self._parts: list[list[str]] = []  # lines of the record: of its message, and of what belongs to it
        self._groups: dict[str, str | None] = {}
        self._size = 0
        self._damaged = 0
        self._is_passing_over = False

    @property
    def held(self) -> int:
        """Bytes of the record that is not known to be complete."""
        return self._size + self._lines.held

    @property
    def damaged(self) -> int:
        """Records passed over."""
        return self._damaged + self._lines.dropped

    def feed(self, data: bytes) -> Iterator[LogRecord]:
        """Yield the records that are complete with some more bytes."""
        dropped = self._lines.dropped
        for raw in self._lines.feed(data):
            line = raw.decode("utf-8", "surrogateescape")
            if line.startswith("\t"):
                self._continue(line[1:], len(raw) + 1)
                continue
            match = self._pattern.match(line) or self._any.match(line)
            if match is None:
                yield from self._emit()
                continue
            tag, message = match.group("tag"), match.group("message")
            if self._parts and (tag in SECONDARY_TAGS or _DETAIL in message[:_DETAIL_WITHIN]):
                self._parts.append([message])
                self._grow(len(raw) + 1)
                continue
            yield from self._emit()
            if tag not in SECONDARY_TAGS:
                self._parts, self._groups, self._size = [[message]], match.groupdict(), len(raw) + 1
        if self._lines.dropped > dropped:
            if self._lines.dropped_start == b"\t":
                self._forget()
            else:
                yield from self._emit()
            self._is_passing_over = True

    def finish(self) -> Iterator[LogRecord]:
        """Yield the last record, without a line that is not complete."""
        yield from self._emit()

    def _continue(self, line: str, size: int) -> None:
        if self._parts:
            self._parts[-1].append(line)
            self._grow(size)
        elif not self._is_passing_over:
            self._is_passing_over = True
            self._damaged += 1

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > self._most:
            self._damaged += 1
            self._forget()
            self._is_passing_over = True

    def _forget(self) -> None:
        self._parts, self._size = [], 0

    def _emit(self) -> Iterator[LogRecord]:
        self._is_passing_over = False
        if not self._parts:
            return
        texts = ["\n".join(lines) for lines in self._parts]
        groups = self._groups
        self._forget()
        detail = next(
            (text for text in texts[1:] if _DETAIL in text[:_DETAIL_WITHIN]), texts[1] if texts[1:] else ""
        )
        yield LogRecord(
            texts[0],
            detail,
            self._read_time(groups),
            _known(groups.get("user")),
            _known(groups.get("database")),
            groups.get("session") or groups.get("process"),
        )

    def _read_time(self, groups: dict[str, str | None]) -> datetime | None:
        if groups.get("epoch"):
            return datetime.fromtimestamp(float(groups["epoch"] or 0), UTC)
        text = groups.get("milliseconds") or groups.get("time")
        return None if text is None else read_time(text, self._zone)


def _known(name: str | None) -> str | None:
    return None if name is None or name in _UNKNOWN else name
