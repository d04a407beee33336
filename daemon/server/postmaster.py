"""The postgres process behind the embedded server: started, recognised and stopped."""

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

from vectuned.config.errors import DatabaseUnavailableError

logger = logging.getLogger(__name__)

PORT = 5432
"""Only names the socket file: the server listens on no network address."""

_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.01
_SAME_START_SECONDS = 5.0


@dataclass(frozen=True)
class Account:
    """An operating system account that runs the server in place of root."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True)
class PidFile:
    """What a server wrote into its postmaster.pid; started in seconds since the epoch."""

    pid: int
    started: float
    status: str


def read_pid_file(data: Path) -> PidFile | None:
    """Read the postmaster.pid of a data folder; None where it is missing or half written."""
    try:
        lines = (data / "postmaster.pid").read_text().split("\n")
        # A negative number marks a standalone backend; it is a process all the same.
        pid = abs(int(lines[0]))
        started = float(lines[2])
    except (OSError, ValueError, IndexError):
        return None
    return PidFile(pid, started, lines[7].strip() if len(lines) > 7 else "")


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie, which nobody may ever reap in a container, does not."""
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
    """Tell whether a live process is the server of this data folder, not a stranger with a reused pid."""
    if pid == os.getpid() or not is_alive(pid):
        return False
    command_matches = _is_server_command(pid, data)
    if sys.platform != "linux":
        return command_matches
    try:
        if not (data.exists() and Path(f"/proc/{pid}/cwd").samefile(data)):
            return False
    except PermissionError:
        # Root without CAP_SYS_PTRACE, as in most containers, may not look at another account's cwd.
        return command_matches
    except OSError:
        return False
    # The clock may have been set since, so a differing start time alone acquits nobody.
    begun = _start_time(pid)
    return command_matches or (begun is not None and abs(begun - started) <= _SAME_START_SECONDS)


def stop_orphan(data: Path, *, patience: float) -> None:
    """Stop the server that a killed owner left behind and remove a pid file that means nothing.

    Only the holder of the folder's lock may call this. Each signal is given `patience` seconds.
    """
    found = read_pid_file(data)
    if found is not None and is_postmaster(found.pid, data, found.started):
        logger.warning(
            "Stopping the server %d in %s, whose owner is gone",
            found.pid,
            data,
            extra={"action": "stop_orphan"},
        )
        stop_process(found.pid, lambda: not is_alive(found.pid), patience=patience)
    # PostgreSQL refuses to start while any process at all has the pid in this file.
    (data / "postmaster.pid").unlink(missing_ok=True)


def stop_process(pid: int, is_gone: Callable[[], bool], *, patience: float) -> None:
    """Stop a server: fast, then immediately, then by force, with `patience` seconds for each."""
    for step in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        if step is not signal.SIGINT:
            logger.warning(
                "Server %d has not stopped after %g s, sending %s",
                pid,
                patience,
                step.name,
                extra={"action": "stop"},
            )
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, step)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if is_gone():
                return
            time.sleep(_POLL_SECONDS)
    raise DatabaseUnavailableError(
        f"The server with process id {pid} does not stop, not even by force; find out what holds it."
    )


def spawn(
    command: Sequence[str | Path],
    account: Account | None,
    *,
    stdin: int,
    output: int,
) -> subprocess.Popen[bytes]:
    """Start one of PostgreSQL's programs as the account; it dies with this process on Linux.

    `stdin` and `output` are file descriptors or subprocess constants; standard error joins `output`.
    """
    with warnings.catch_warnings():
        # Python 3.12 warns of forks in a threaded process; the hook between fork and exec takes no lock.
        warnings.simplefilter("ignore", DeprecationWarning)
        return subprocess.Popen(  # noqa: S603 - our own arguments, no shell
            [os.fspath(part) for part in command],
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=_environment(os.environ),
            # A session of its own: the terminal's Ctrl-C is for us, and we stop the server when done with it.
            start_new_session=True,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            preexec_fn=_die_with_parent(),
        )


class Postmaster:
    """A running postgres process that is our own child."""

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
        log: Path,
        *,
        timeout: float,
        patience: float,
    ) -> Postmaster:
        """Start a server and wait until it takes connections.

        Raises DatabaseUnavailableError with the server's own words if it exits, or takes longer than
        `timeout` seconds.
        """
        command: list[str | Path] = [program, "-D", data]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        deadline = time.monotonic() + timeout
        while True:
            with log.open("ab") as output:
                seen = output.tell()
                process = spawn(command, account, stdin=subprocess.DEVNULL, output=output.fileno())
            server = cls(process)
            try:
                ready = server._wait(data, deadline)
            except BaseException:
                server.stop(patience=patience)
                raise
            if ready:
                return server
            words = complaint(log, seen)
            # Backends of a server that was killed outlive it for a moment and hold its memory.
            if "still in use" in words and time.monotonic() < deadline:
                time.sleep(10 * _POLL_SECONDS)
                continue
            if server.is_running:
                server.stop(patience=patience)
                words = f"it was not ready after {timeout:g} s"
            raise DatabaseUnavailableError(
                f"The embedded PostgreSQL server in {data} did not start ({words}); {log} says more."
            )

    def _wait(self, data: Path, deadline: float) -> bool:
        while self.is_running and time.monotonic() < deadline:
            found = read_pid_file(data)
            if found is not None and found.pid == self.pid and found.status == "ready":
                return True
            time.sleep(_POLL_SECONDS)
        return False

    def stop(self, *, patience: float) -> None:
        """Stop the server if it runs, fast at first, and reap it."""
        if self.is_running:
            stop_process(self.pid, lambda: not self.is_running, patience=patience)


def complaint(log: Path, offset: int) -> str:
    """Quote the last complaint in a log after a byte offset, without time and process id."""
    with log.open("rb") as file:
        file.seek(offset)
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    for mark in ("PANIC:", "FATAL:", "error:", "ERROR:"):
        for line in reversed(lines):
            if mark in line:
                return line[line.index(mark) + len(mark) :].strip()
    return lines[-1] if lines else "it left no message"


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    # PGDATA, PGOPTIONS and the locale would change what the server does.
    kept = {name: value for name, value in environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    return kept | {"LC_ALL": "C"}


def _die_with_parent() -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    if threading.current_thread() is not threading.main_thread():
        # The kernel would send the signal when this thread ends, not when the process does.
        logger.warning(
            "The server is started outside the main thread, so it would outlive a kill -9 of this process",
            extra={"action": "start"},
        )
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def hook() -> None:
        # After the change of user, which would clear it; SIGINT is PostgreSQL's fast shutdown.
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGINT), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return hook


def _stat_fields(pid: int) -> list[str] | None:
    # The command's name, in parentheses, may hold blanks and parentheses itself.
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
    found = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no shell
    return found.stdout.strip()
