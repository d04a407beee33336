"""The database that a benchmark uses."""

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
        Path(folder).chmod(0o755)  # under root the server runs as another account, which needs access
        with open_database(choose_database(dsn, {}), Path(folder) / "home", settings=settings) as conninfo:
            yield conninfo
