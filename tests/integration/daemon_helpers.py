"""The daemon as a process, and a service manager that receives its notifications."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from tests.integration.embedded_helpers import PACKAGE

RUN = ("-m", "vectuned.daemon", "run")


class Daemon:
    """A process that runs the daemon, or another program; settings are section__key."""

    def __init__(
        self,
        *arguments: str,
        program: Sequence[str] = RUN,
        environment: Mapping[str, str] | None = None,
        **settings: object,
    ) -> None:
        kept = {name: v for name, v in os.environ.items() if not name.startswith(("PG", "VECTUNED"))}
        chosen = {f"VECTUNED_{name.upper()}": str(value) for name, value in settings.items()}
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by __exit__
        self.process = subprocess.Popen(
            [sys.executable, *program, *arguments],
            env={**kept, **chosen, **(environment or {}), "PYTHONPATH": str(PACKAGE.parent)},
            stderr=self._log,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._log.close()

    @property
    def log(self) -> str:
        """The log so far."""
        return os.pread(self._log.fileno(), 1 << 20, 0).decode()

    def logs(self, text: str, *, seconds: float = 300, count: int = 1) -> None:
        """Wait until the log contains a text `count` times."""
        until = time.monotonic() + seconds
        while self.log.count(text) < count:
            assert self.process.poll() is None, self.log
            assert time.monotonic() < until, f"no {text!r} in:\n{self.log}"
            time.sleep(0.02)

    def stop(self, *, seconds: float = 300) -> None:
        """End it by SIGTERM; it must end in time and without an error."""
        self.process.terminate()
        assert self.process.wait(seconds) == 0, self.log
        assert "Traceback" not in self.log, self.log
        assert " stop: stopped" in self.log


class Manager:
    """A service manager's socket, at a path or under an abstract name."""

    def __init__(self, folder: Path, *, abstract: bool) -> None:
        self.address = f"@{folder}" if abstract else f"{folder}/notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address.replace("@", "\0", 1) if abstract else self.address)
        self.received: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def hear(self, seconds: float) -> list[str]:
        """Listen for some seconds; return the datagrams received."""
        heard: list[str] = []
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                heard.append(self._socket.recv(4096).decode())
            except TimeoutError:
                break
        self.received += heard
        return heard

    def wait_for(self, wanted: str | Callable[[str], bool], *, seconds: float = 300) -> str:
        """Listen until a wanted datagram arrives, and return it."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                heard = self._socket.recv(4096).decode()
            except TimeoutError:
                break
            self.received.append(heard)
            if heard == wanted if isinstance(wanted, str) else wanted(heard):
                return heard
        raise AssertionError(f"{wanted} was never received, only {self.received}")
