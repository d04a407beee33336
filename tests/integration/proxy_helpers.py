"""A proxy to a server that can be slow, cut connections, or swallow all data."""

from __future__ import annotations

import select
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo


class Proxy:
    """Forwards bytes between clients of its own socket and a server; `dsn` connects through it.

    `delay` seconds are waited before each piece is passed on; while `open` is false nobody gets in.
    """

    def __init__(self, conn: psycopg.Connection[Any], folder: Path) -> None:
        name = f".s.PGSQL.{conn.info.port}"
        self._target = f"{conn.info.host}/{name}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / name))
        self._listener.listen()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self.dsn = make_conninfo(conn.info.dsn, host=str(folder), port=conn.info.port)
        self.delay = 0.0
        self.open = True
        self.passed = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Close every connection, like a failing network."""
        with self._lock:
            for pair in self._pairs:
                for end in pair:
                    with suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)
            self._pairs.clear()

    def close(self) -> None:
        """Refuse new connections."""
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if not self.open:
                client.close()
                continue
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._target)
            with self._lock:
                self._pairs.append((client, server))
            threading.Thread(target=self._pass_on, args=(client, server), daemon=True).start()

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        with client, server, suppress(OSError):
            while True:
                for end in select.select([client, server], [], [])[0]:
                    piece = end.recv(1 << 16)
                    if not piece:
                        return
                    if self.delay:
                        time.sleep(self.delay)
                    (server if end is client else client).sendall(piece)
                    self.passed += len(piece)


@contextmanager
def proxied(conn: psycopg.Connection[Any]) -> Iterator[Proxy]:
    """Yield a proxy to the server and database of a connection."""
    # The name is short, because the length of a socket's path is limited.
    with tempfile.TemporaryDirectory(prefix="vt-", dir="/tmp") as folder:
        proxy = Proxy(conn, Path(folder))
        try:
            yield proxy
        finally:
            proxy.close()
