"""The database that a benchmark works in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from vectuned.daemon.database.choice import choose_database, open_database


@contextmanager
def scratch_database(dsn: str | None, settings: Mapping[str, str] | None = None) -> Iterator[str]:
    """Yield `dsn`, or without one the DSN of an embedded server in a temporary folder."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # as root the server runs under another account, which must pass through
        with open_database(choose_database(dsn, {}), Path(folder) / "home", settings=settings) as conninfo:
            yield conninfo
