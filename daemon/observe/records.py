"""Records of a server's log, as every format gives them, and the lines that they are read from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Final, Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

# Bytes of one record: a statement of 1 MB with its values takes less. Longer ones are passed over.
MOST_BYTES: Final = 8 << 20
_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?) ?(\S*)")
_OFFSET: Final = re.compile(r"([+-])(\d\d)(?::?(\d\d))?")


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One message of the server; None for what the log does not say.

    `session` tells the messages of one session from those of others: its id, or else its process.
    """

    message: str
    detail: str = ""
    time: datetime | None = None
    user: str | None = None
    database: str | None = None
    session: str | None = None


class RecordReader(Protocol):
    """Reads a log piece by piece."""

    @property
    def held(self) -> int:
        """Bytes read that are not part of a complete record yet."""

    @property
    def damaged(self) -> int:
        """Records passed over: cut, longer than MOST_BYTES, or not of this format."""

    def feed(self, data: bytes) -> Iterator[LogRecord]:
        """Yield the records that are complete with some more bytes, of any length."""

    def finish(self) -> Iterator[LogRecord]:
        """Yield the last record, complete if its last line is: nothing more is there for now."""


class Lines:
    """Splits bytes into lines without their ends, and holds the last one until it is complete.

    Lines longer than `most` are dropped, and counted in `dropped`.
    """

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._most, self._is_dropping = most, False
        self._pieces: list[bytes] = []
        self.held = 0
        self.dropped = 0
        self.dropped_start = b""
        """The first byte of the line that was dropped last."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the lines that are complete with some more bytes."""
        start = 0
        while True:
            end = data.find(b"\n", start)
            if end < 0:
                break
            line = data[start:end]
            if self._pieces:
                line = b"".join([*self._pieces, line])
                self._pieces, self.held = [], 0
            start = end + 1
            if self._is_dropping:
                self._is_dropping = False
            else:
                yield line
        rest = data[start:]
        if rest and not self._is_dropping:
            self._pieces.append(rest)
            self.held += len(rest)
            if self.held > self._most:
                self.dropped, self.dropped_start = self.dropped + 1, self._pieces[0][:1]
                self._pieces, self.held, self._is_dropping = [], 0, True


def read_time(text: str, zone: tzinfo = UTC) -> datetime | None:
    """Read a time as logs write it; abbreviations of time zones other than UTC stand for `zone`."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        return None
    try:
        time = datetime.fromisoformat(match.group(1))
    except ValueError:
        return None
    name = match.group(2)
    offset = _OFFSET.fullmatch(name)
    if offset is not None:
        minutes = int(offset.group(2)) * 60 + int(offset.group(3) or 0)
        zone = timezone(timedelta(minutes=minutes if offset.group(1) == "+" else -minutes))
    elif name in ("UTC", "GMT", "Z"):
        zone = UTC
    return time.replace(tzinfo=zone)


def find_zone(name: str | None) -> tzinfo:
    """Return the time zone of a server's log_timezone, UTC where it is not known here."""
    try:
        return UTC if not name else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return UTC
