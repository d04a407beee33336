"""Where logs are read from: files here, and files of the server through a connection."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import psycopg

from vectuned.sql.rows import fetch_rows, fetch_value

from .formats import LogSettings, find_format, open_reader
from .statements import LoggedStatement, StatementReader

_CHUNK: Final = 1 << 20  # bytes read at once
_HEAD: Final = 1024  # bytes at the start of a file that tell it from others: they hold the time
_SURE: Final = (
    256  # bytes of a start that no two files share, so that a renamed or copied file is known again
)


@dataclass(frozen=True)
class Position:
    """How far a file was read.

    `identity` tells files apart on the machine that they are on, such as device and inode; `head` is the hash
    of the first `head_length` bytes.
    """

    identity: str
    head: str
    head_length: int
    offset: int


class LogFile(Protocol):
    """A file of a log; `name` and `identity` tell it from others, see Position."""

    name: str
    identity: str

    def size(self) -> int:
        """Return its size in bytes."""

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes from an offset on; fewer at its end."""

    def close(self) -> None:
        """Close it."""


class LocalFile:
    """A file of this machine, kept open so that a rotation does not take its rest away."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._file = path.open("rb")
        status = os.fstat(self._file.fileno())
        self.identity = f"{status.st_dev}:{status.st_ino}"

    def size(self) -> int:
        """Return its size in bytes."""
        return os.fstat(self._file.fileno()).st_size

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes from an offset on; fewer at its end."""
        self._file.seek(offset)
        return self._file.read(length)

    def close(self) -> None:
        """Close it."""
        self._file.close()


class ServerFile:
    """A file of the server's log, read by a role that may call pg_read_binary_file and pg_stat_file."""

    def __init__(self, conn: psycopg.Connection[Any], name: str) -> None:
        self.name, self.identity = name, f"server:{name}"
        self._conn = conn

    def size(self) -> int:
        """Return its size in bytes."""
        return int(fetch_value(self._conn, "log_file_size", {"name": self.name}) or 0)

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes from an offset on; fewer at its end."""
        values = {"name": self.name, "offset": offset, "length": length}
        return bytes(fetch_value(self._conn, "read_log_file", values) or b"")

    def close(self) -> None:
        """Do nothing: nothing is open."""


def server_files(conn: psycopg.Connection[Any]) -> list[ServerFile]:
    """Return the files of the server's log in one format, jsonlog or csvlog rather than stderr, oldest first.

    Raises psycopg.errors.InsufficientPrivilege where the role may not list them.
    """
    return [ServerFile(conn, row.name) for row in fetch_rows(conn, "log_files")]


def local_files(paths: Iterable[Path]) -> list[Path]:
    """Return files, and for a folder those in it that are logs, oldest first."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            logs = [p for p in path.iterdir() if p.is_file() and p.suffix in (".log", ".csv", ".json")]
            found += sorted(logs, key=lambda log: (log.stat().st_mtime_ns, log.name))
        else:
            found.append(path)
    return found


class FileReader:
    """Reads the statements of one file from a position on, and says how far it has read."""

    def __init__(self, file: LogFile, settings: LogSettings, positions: Mapping[str, Position]) -> None:
        self.file, self._settings = file, settings
        self._reader: StatementReader | None = None
        self._read = _resume(file, positions)

    @property
    def position(self) -> Position:
        """Where the statements end that were yielded."""
        held = 0 if self._reader is None else self._reader.records.held
        length = min(_HEAD, self._read)
        return Position(self.file.identity, _hash(self.file, length), length, self._read - held)

    @property
    def damaged(self) -> int:
        """Records passed over."""
        return 0 if self._reader is None else self._reader.records.damaged

    def statements(self, *, is_final: bool = True) -> Iterator[LoggedStatement]:
        """Yield the statements up to the file's present end; see `pieces`."""
        for piece in self.pieces(is_final=is_final):
            yield from piece

    def pieces(self, *, is_final: bool = True) -> Iterator[list[LoggedStatement]]:
        """Yield lists of statements up to the file's present end; `position` is valid after each.

        Call it again when there is more. Unless it is final, the last record waits until a call finds nothing
        more: the server writes a record line by line.
        """
        end, before = self.file.size(), self._read
        if end < self._read:  # truncated, and perhaps written again
            self._reader, self._read = None, 0
        while self._read < end:
            data = self.file.read(self._read, min(_CHUNK, end - self._read))
            if not data:
                break
            if self._reader is None:
                start = data if self._read == 0 else self.file.read(0, _HEAD)
                self._reader = StatementReader(open_reader(find_format(start), self._settings))
            self._read += len(data)
            yield [*self._reader.feed(data), *self._reader.flush()]
        if self._reader is not None and (is_final or self._read == before):
            yield list(self._reader.finish())


def _resume(file: LogFile, positions: Mapping[str, Position]) -> int:
    """Return where to go on in a file: at its own position, or at that of a file with the same start."""
    size = file.size()
    own = positions.get(file.identity)
    others = [p for p in positions.values() if p is not own and p.head_length >= _SURE]
    for position in ([own] if own is not None else []) + others:
        if position.offset <= size and _hash(file, position.head_length) == position.head:
            return position.offset
    return 0


def _hash(file: LogFile, length: int) -> str:
    return hashlib.sha256(file.read(0, length)).hexdigest()


def read_stream(chunks: Iterable[bytes], settings: LogSettings) -> Iterator[LoggedStatement]:
    """Yield the statements of a stream, such as standard input, as they become complete."""
    reader: StatementReader | None = None
    start = b""
    for chunk in chunks:
        data = chunk
        if reader is None:
            start += chunk
            if b"\n" not in start and len(start) < _HEAD:
                continue
            data, reader = start, StatementReader(open_reader(find_format(start), settings))
        yield from reader.feed(data)
    if reader is None and start:
        reader = StatementReader(open_reader(find_format(start), settings))
        yield from reader.feed(start)
    if reader is not None:
        yield from reader.finish()
