"""Reads logs into an observer: files once or as they grow, the server's own, or a stream."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from .formats import LogSettings
from .observer import Observer
from .sources import FileReader, LocalFile, LogFile, Position, local_files, read_stream

_PAUSE: Final = 1.0  # seconds between two looks at files that may have grown
_BATCH: Final = 100  # statements of a stream that are stored together


class LogWatch:
    """Reads files into an observer, goes on where it stopped, and follows rotation."""

    def __init__(
        self,
        observer: Observer,
        list_files: Callable[[], Iterable[LogFile]],
        settings: LogSettings,
        positions: Mapping[str, Position],
    ) -> None:
        self._observer, self._list_files = observer, list_files
        self._settings, self._positions = settings, positions
        self._readers: dict[str, FileReader] = {}
        self._saved = dict(positions)
        self._damaged = 0

    @property
    def damaged(self) -> int:
        """Records that were passed over."""
        return self._damaged + sum(reader.damaged for reader in self._readers.values())

    def read(self, *, is_final: bool = True, may_go_on: Callable[[], bool] = lambda: True) -> int:
        """Read what is there and return the number of statements; a file that is gone is read to its end.

        Asks `may_go_on` after each piece, whose calls are stored by then; the next call goes on from there.
        """
        present, count = set(), 0
        for file in self._list_files():
            present.add(file.identity)
            if file.identity in self._readers:
                file.close()
            else:
                self._readers[file.identity] = FileReader(file, self._settings, self._positions)
        for identity, reader in list(self._readers.items()):
            is_gone = identity not in present
            for statements in reader.pieces(is_final=is_final or is_gone):
                position = reader.position
                if statements or self._saved.get(identity) != position:
                    self._observer.add(statements, position)
                    self._saved[identity] = position
                count += len(statements)
                if not may_go_on():
                    return count
            if is_gone:
                self._damaged += reader.damaged
                reader.file.close()
                del self._readers[identity]
        return count

    def follow(self, pause: Callable[[float], None] = time.sleep) -> None:
        """Read what is there and what comes, until an exception such as KeyboardInterrupt."""
        while True:
            if not self.read(is_final=False):
                self._observer.refresh()
                pause(_PAUSE)

    def close(self) -> None:
        """Close the files."""
        for reader in self._readers.values():
            reader.file.close()


def open_files(paths: Sequence[Path]) -> list[LogFile]:
    """Open the files that exist."""
    files: list[LogFile] = []
    for path in local_files(paths):
        try:
            files.append(LocalFile(path))
        except FileNotFoundError:
            continue  # between two files of a rotation
    return files


def observe_stream(observer: Observer, chunks: Iterable[bytes], settings: LogSettings) -> None:
    """Read a stream to its end; what was read when an exception ends it is stored."""
    waiting = []
    try:
        for statement in read_stream(chunks, settings):
            waiting.append(statement)
            if len(waiting) >= _BATCH:
                ready, waiting = waiting, []
                observer.add(ready)
    finally:
        observer.add(waiting)
