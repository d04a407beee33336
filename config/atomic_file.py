"""Files that other processes see whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

PARTIAL_FILES: Final = ".vectuned-*.part"
"""Pattern of unfinished files, which remain only where the process was killed."""


@contextmanager
def replace_file(path: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """Yield a file to write; `path` is replaced by it at the end, and stays as it is after an error.

    The content is on disk when the block ends. The umask decides who may read it, or with `private` only this
    account may. Raises OSError where the file cannot be written.
    """
    partial = path.with_name(PARTIAL_FILES.replace("*", secrets.token_hex(8)))
    descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600 if private else 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a change of names in a folder outlive a crash of the machine."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
