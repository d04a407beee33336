"""Homes for the embedded server, and other processes that use it."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest
from psycopg import sql

import vectuned
from vectuned.daemon.database.connect import connect
from vectuned.daemon.server.embedded import EmbeddedServer

IS_ROOT = os.geteuid() == 0
FAST = {"fsync": "off", "shared_buffers": "16MB"}
PACKAGE = Path(vectuned.__file__).parent

root_only = pytest.mark.skipif(not IS_ROOT, reason="only root runs the server under another account")

USE = """
import json, logging, signal, sys
from pathlib import Path
from vectuned.daemon.server.embedded import EmbeddedServer
# A background job of a shell ignores SIGINT, and so do its children.
signal.signal(signal.SIGINT, signal.default_int_handler)
logging.basicConfig(level=logging.INFO)
options = json.loads(sys.argv[1])
home = Path(options["home"]) if options["home"] else None
server = EmbeddedServer(home, share=options["share"], settings={"fsync": "off", "shared_buffers": "16MB"})
if options["thread"]:
    import threading
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
with server:
    said = {"pid": server.pid, "dsn": server.dsn, "owner": server.is_owner, "home": str(server.home)}
    print(json.dumps(said), flush=True)
    sys.stdin.readline()
"""


class Command:
    """Another process that uses the embedded server until it is told to stop."""

    def __init__(
        self,
        home: Path | None,
        *,
        share: bool = False,
        thread: bool = False,
        before: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        **popen: Any,
    ) -> None:
        options = {"home": str(home) if home else None, "share": share, "thread": thread}
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by __exit__
        self.process = subprocess.Popen(
            [sys.executable, *before, "-c", USE, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "PYTHONPATH": str(PACKAGE.parent), **(environ or {})},
            **popen,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        self._errors.close()

    def ready(self) -> dict[str, Any]:
        """Wait until it uses the server and return what it says of it."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.errors()
        said: dict[str, Any] = json.loads(line)
        return said

    def leave(self) -> None:
        """Tell it to leave, without waiting until it has."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def errors(self) -> str:
        """Return what it wrote to standard error so far."""
        self._errors.seek(0)
        return self._errors.read()


@contextmanager
def open_folder() -> Iterator[Path]:
    """Make a short temporary folder that every account may enter, and remove it after the block."""
    path = Path(tempfile.mkdtemp(prefix="vt-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


@functools.cache
def prepared_home() -> Path:
    """Make, once, a home whose server was stopped and that holds one row.

    It lacks the databases that no test enters: they are most of the files that a copy has to create.
    """
    path = Path(tempfile.mkdtemp(prefix="vt-"))
    atexit.register(shutil.rmtree, path)
    path.chmod(0o755)
    with EmbeddedServer(path, settings=FAST) as server, connect(server.dsn) as conn:
        conn.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        conn.execute("UPDATE pg_database SET datistemplate = false")
        for name in ("postgres", "template0", "template1"):
            conn.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))
    return path


def copy_home(folder: Path) -> Path:
    """Copy the prepared home into a folder, cheaper than another initdb."""
    home = folder / "home"
    subprocess.run(["cp", "-a", prepared_home(), home], check=True)
    return home


def eventually(condition: Callable[[], bool], *, seconds: float = 300) -> bool:
    """Tell whether a condition comes true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


def ask(dsn: str, question: str) -> Any:
    """Return the only value of a statement, asked over a connection of its own."""
    with connect(dsn) as conn:
        row = conn.execute(question).fetchone()
    assert row is not None
    return row[0]
