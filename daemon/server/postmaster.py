"""Start, recognise and stop the postgres process of the embedded server."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vectuned.config.errors import DatabaseUnavailableError

log = logging.getLogger(__name__)

PORT: Final = 5432
"""Only part of the socket file's name: the server listens on no network address."""

_PR_SET_PDEATHSIG: Final = 1  # from <linux/prctl.h>
_POLL_SECONDS: Final = 0.01  # between two looks at a process or its pid file
_MEMORY_RETRY_SECONDS: Final = 0.1  # until a killed server's backends have released its shared memory
_SAME_START_SECONDS: Final = 5.0  # between a process's start and the time it writes into postmaster.pid


@dataclass(frozen=True)
class Account:
    """An operating system account that runs the server in place of root."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True)
class PidFile:
    """The contents of a postmaster.pid; `started` is in seconds since the epoch."""

    pid: int
    started: float
    status: str


def read_pid_file(data: Path) -> PidFile | None:
    """Read the postmaster.pid of a data folder; None if it is missing or incomplete."""
    try:
        lines = (data / "postmaster.pid").read_text().split("\n")
        # A negative number marks a standalone backend, which is a process, too.
        pid = abs(int(lines[0]))
        started = float(lines[2])
    except (OSError, ValueError, IndexError):
        return None
    return PidFile(pid, started, lines[7].strip() if len(lines) > 7 else "")


def is_alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not: in a container it may never be reaped."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    if sys.platform == "linux":
        fields = _stat_fields(pid)
        return fields is not None and fields[0] not in ("Z", "X")
    state = _ps(pid, "state")
    return bool(state) and not state.startswith("Z")


def is_postmaster(pid: int, data: Path, started: float) -> bool:
    """Return whether a live process is the server of this data folder, not another one with a reused pid."""
    if pid == os.getpid() or not is_alive(pid):
        return False
    command_matches = _is_server_command(pid, data)
    if sys.platform != "linux":
        return command_matches
    try:
        if not (data.exists() and Path(f"/proc/{pid}/cwd").samefile(data)):
            return False
    except PermissionError:
        # Root without CAP_SYS_PTRACE, as in most containers, may not read another account's cwd link.
        return command_matches
    except OSError:
        return False
    # The clock may have been set since, so a differing start time alone proves nothing.
    start = _start_time(pid)
    return command_matches or (start is not None and abs(start - started) <= _SAME_START_SECONDS)


def stop_orphan(data: Path, *, patience: float) -> None:
    """Stop the server that a killed owner left running, and remove a stale pid file.

    Only the holder of the folder's lock may call this. Each signal has `patience` seconds to take effect.
    """
    pid_file = read_pid_file(data)
    if pid_file is not None and is_postmaster(pid_file.pid, data, pid_file.started):
        log.warning(
            "Stopping the server %d in %s, whose owner is gone",
            pid_file.pid,
            data,
            extra={"action": "stop_orphan"},
        )
        stop_process(pid_file.pid, lambda: not is_alive(pid_file.pid), patience=patience)
    # PostgreSQL refuses to start while any process has the pid in this file.
    (data / "postmaster.pid").unlink(missing_ok=True)


def stop_process(pid: int, is_gone: Callable[[], bool], *, patience: float) -> None:
    """Stop a server by fast, then immediate shutdown, then SIGKILL, with `patience` seconds for each."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        if number is not signal.SIGINT:
            log.warning(
                "Server %d has not stopped after %g s, sending %s",
                pid,
                patience,
                number.name,
                extra={"action": "stop"},
            )
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if is_gone():
                return
            time.sleep(_POLL_SECONDS)
    raise DatabaseUnavailableError(
        f"The server with process id {pid} does not stop, not even after SIGKILL; find out what blocks it."
    )


def spawn(
    command: Sequence[str | Path],
    account: Account | None,
    *,
    stdin: int,
    output: int,
) -> subprocess.Popen[bytes]:
    """Start one of PostgreSQL's programs under the account; on Linux it ends with this process.

    `stdin` and `output` are file descriptors or subprocess constants; standard error joins `output`.
    """
    with warnings.catch_warnings():
        # Python 3.12 warns of forks in a process with threads; the hook between fork and exec takes no lock.
        warnings.simplefilter("ignore", DeprecationWarning)
        return subprocess.Popen(  # noqa: S603 - our own arguments, no shell
            [os.fspath(part) for part in command],
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=_environment(os.environ),
            # A new session: Ctrl-C in the terminal reaches only us, and we stop the server at the end.
            start_new_session=True,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            preexec_fn=_die_with_parent(),
        )


class Postmaster:
    """A running postgres process that is a child of this process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """The process id of the server."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the server has not exited."""
        return self._process.poll() is None

    @classmethod
    def start(
        cls,
        program: Path,
        data: Path,
        settings: Mapping[str, str],
        account: Account | None,
        log_file: Path,
        *,
        timeout: float,
        patience: float,
    ) -> Postmaster:
        """Start a server and wait until it accepts connections.

        Raises DatabaseUnavailableError with the server's own message if it exits, or is not ready within
        `timeout` seconds.
        """
        command: list[str | Path] = [program, "-D", data]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        deadline = time.monotonic() + timeout
        while True:
            with log_file.open("ab") as output:
                offset = output.tell()
                process = spawn(command, account, stdin=subprocess.DEVNULL, output=output.fileno())
            server = cls(process)
            try:
                ready = server._wait(data, deadline)
            except BaseException:
                server.stop(patience=patience)
                raise
            if ready:
                return server
            message = last_error(log_file, offset)
            # The backends of a killed server outlive it for a moment and hold its shared memory.
            if "still in use" in message and time.monotonic() < deadline:
                time.sleep(_MEMORY_RETRY_SECONDS)
                continue
            if server.is_running:
                server.stop(patience=patience)
                message = f"it was not ready after {timeout:g} s"
            raise DatabaseUnavailableError(
                f"The embedded PostgreSQL server in {data} did not start ({message}); see {log_file}."
            )

    def _wait(self, data: Path, deadline: float) -> bool:
        while self.is_running and time.monotonic() < deadline:
            pid_file = read_pid_file(data)
            if pid_file is not None and pid_file.pid == self.pid and pid_file.status == "ready":
                return True
            time.sleep(_POLL_SECONDS)
        return False

    def stop(self, *, patience: float) -> None:
        """Stop the server if it runs, by fast shutdown at first, and reap it."""
        if self.is_running:
            stop_process(self.pid, lambda: not self.is_running, patience=patience)


def last_error(log_file: Path, offset: int) -> str:
    """Return the last error in a log after a byte offset, without time and process id."""
    with log_file.open("rb") as file:
        file.seek(offset)
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    for mark in ("PANIC:", "FATAL:", "error:", "ERROR:"):
        for line in reversed(lines):
            if mark in line:
                return line[line.index(mark) + len(mark) :].strip()
    return lines[-1] if lines else "it wrote no message"


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    # PGDATA, PGOPTIONS and the locale would change the server's behaviour.
    passed = {name: value for name, value in environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    return passed | {"LC_ALL": "C"}


def _die_with_parent() -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    if threading.current_thread() is not threading.main_thread():
        # The kernel would send the signal when this thread ends, not when the process does.
        log.warning(
            "The server is started outside the main thread, so it will outlive a kill -9 of this process",
            extra={"action": "start"},
        )
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def hook() -> None:
        # preexec_fn runs after the change of user, which would clear this; SIGINT is a fast shutdown.
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGINT), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return hook


def _stat_fields(pid: int) -> list[str] | None:
    # The command's name, in parentheses, may itself hold blanks and parentheses.
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _start_time(pid: int) -> float | None:
    fields = _stat_fields(pid)
    if fields is None:
        return None
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("btime "):
            return float(line.split()[1]) + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return None


def _is_server_command(pid: int, data: Path) -> bool:
    if sys.platform != "linux":
        command = _ps(pid, "command")
        return "postgres" in command and f"-D {data}" in command
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return (
        arguments[0].rpartition(b"/")[2] == b"postgres"
        and b"-D" in arguments
        and arguments[arguments.index(b"-D") + 1] == os.fsencode(data)
    )


def _ps(pid: int, column: str) -> str:
    command = ["/bin/ps", "-o", f"{column}=", "-p", str(pid)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no shell
    return result.stdout.strip()
