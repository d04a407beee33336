"""The embedded server: a PostgreSQL of our own, from a wheel, for as long as somebody uses it.

Everything lies in one home folder: `data-18` (by major version), `run` (the socket), `postgres.log`, and two
locks. `owner.lock` is held by the one process whose child the server is; `users.lock` is shared by all others
that use it.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import socket
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import platformdirs
from psycopg.conninfo import make_conninfo

from vectuned.config.errors import DatabaseUnavailableError

from .installation import (
    DATABASE,
    ROLE,
    find_binaries,
    initialise,
    make_private,
    readable_binaries,
    server_account,
)
from .postmaster import PORT, Account, Postmaster, stop_orphan

logger = logging.getLogger(__name__)

DEFAULT_SETTINGS: Mapping[str, str] = {
    "shared_buffers": "512MB",
    "maintenance_work_mem": "512MB",
    "max_parallel_maintenance_workers": "2",
    "max_connections": "50",
    "max_wal_size": "2GB",
    # Nothing replicates from this server, and bulk loads write half as much without it.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    # A container's 64 MB of /dev/shm are too few for a parallel index build.
    "dynamic_shared_memory_type": "mmap",
    "log_line_prefix": "%m [%p] ",
}

SOCKET = f".s.PGSQL.{PORT}"

_SOCKET_PATH_BYTES = 107
_LOG_BYTES = 10_000_000
_POLL_SECONDS = 0.02


class EmbeddedServer:
    """A PostgreSQL server in a home folder, run by this process or, with `share`, joined if another runs it.

    `settings` are PostgreSQL settings over DEFAULT_SETTINGS and count only for the owner. Times are in
    seconds: `start_timeout` for starting or joining, `stop_patience` for each of the ways to stop.
    Start it from the main thread: from another one it would outlive a kill -9 of this process.
    """

    def __init__(
        self,
        home: Path | None = None,
        *,
        share: bool = False,
        settings: Mapping[str, str] | None = None,
        start_timeout: float = 120.0,
        stop_patience: float = 30.0,
    ) -> None:
        self.home = (home or default_home(os.environ)).absolute()
        self._share = share
        self._settings = {**DEFAULT_SETTINGS, **(settings or {})}
        self._start_timeout = start_timeout
        self._stop_patience = stop_patience
        self._owner_lock = _Lock(self.home / "owner.lock")
        self._users_lock = _Lock(self.home / "users.lock")
        self._postmaster: Postmaster | None = None
        self._socket_folder: Path | None = None
        self._process = os.getpid()

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self.home / "postgres.log"

    @property
    def is_owner(self) -> bool:
        """Whether the server is this process's own child."""
        return self._postmaster is not None

    @property
    def is_running(self) -> bool:
        """Whether the server that was started or joined still runs."""
        if self._postmaster is not None:
            return self._postmaster.is_running
        return self._socket_folder is not None and _answers(self._socket_folder)

    @property
    def pid(self) -> int | None:
        """The server's process id, None if another process owns it or it is stopped."""
        return self._postmaster.pid if self._postmaster else None

    @property
    def dsn(self) -> str:
        """The libpq connection string of the database `vectuned`, as superuser."""
        if self._socket_folder is None:
            raise DatabaseUnavailableError(
                f"The embedded server in {self.home} is not started; start it first."
            )
        return make_conninfo(
            host=str(self._socket_folder),
            port=PORT,
            user=ROLE,
            dbname=DATABASE,
            # Set, so that PGHOSTADDR and PGGSSENCMODE cannot lead elsewhere.
            hostaddr="",
            gssencmode="disable",
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server, or join the one that runs; called again, do nothing or bring a dead one back.

        Raises DatabaseUnavailableError if it cannot be started or, without `share`, if another process owns
        it.
        """
        if self._socket_folder is not None:
            if self.is_running:
                return
            self._let_go()
        self._process = os.getpid()
        self._make_home()
        deadline = time.monotonic() + self._start_timeout
        while True:
            if self._owner_lock.take(shared=False):
                self._own()
                return
            if not self._share:
                raise DatabaseUnavailableError(
                    f"The embedded server in {self.home} is already run by process "
                    f"{self._owner_lock.holder()}; stop that process or set VECTUNED_HOME to another folder."
                )
            if self._join():
                return
            if time.monotonic() > deadline:
                raise DatabaseUnavailableError(
                    f"The embedded server in {self.home} is owned by process {self._owner_lock.holder()} "
                    f"but was not ready within {self._start_timeout:g} s; look at {self.log}."
                )
            time.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        """Leave the server; its owner waits for the last user and stops it. Harmless if repeated."""
        if self._process != os.getpid():
            return  # a fork's copy: the server belongs to the parent
        try:
            if self._postmaster is not None:
                try:
                    self._wait_for_users(self._postmaster)
                finally:
                    self._postmaster.stop(patience=self._stop_patience)
                    logger.info("Embedded server in %s stopped", self.home, extra={"action": "stop"})
        finally:
            self._let_go()

    def _let_go(self) -> None:
        self._postmaster = None
        self._socket_folder = None
        self._owner_lock.release()
        self._users_lock.release()

    def _make_home(self) -> None:
        # Where root starts the server, the account that runs it must be able to pass.
        mode = 0o755 if os.geteuid() == 0 else 0o700
        try:
            if not self.home.exists():
                self.home.mkdir(parents=True)
                self.home.chmod(mode)
        except OSError as error:
            raise DatabaseUnavailableError(
                f"The folder {self.home} for the embedded server cannot be made ({error.strerror}); "
                f"set VECTUNED_HOME to another one."
            ) from error

    def _own(self) -> None:
        begun = time.monotonic()
        try:
            self._owner_lock.write(str(os.getpid()))
            binaries = find_binaries()
            data = self.home / f"data-{binaries.major}"
            account = server_account(data)
            stop_orphan(data, patience=self._stop_patience)
            if account is not None:
                binaries = readable_binaries(binaries, account, self.home)
            fsync = self._settings.get("fsync") != "off"
            if not data.exists():
                initialise(binaries, data, account, self.home / "initdb.log", fsync=fsync)
            folder = _socket_folder(self.home, account)
            _rotate(self.log)
            postmaster = Postmaster.start(
                binaries.program("postgres"),
                data,
                {
                    **self._settings,
                    "listen_addresses": "",
                    "port": str(PORT),
                    "unix_socket_directories": '"{}"'.format(str(folder).replace('"', '""')),
                    "unix_socket_permissions": "0700",
                },
                account,
                self.log,
                timeout=self._start_timeout,
                patience=self._stop_patience,
            )
        except BaseException:
            self._owner_lock.release()
            raise
        self._postmaster = postmaster
        self._socket_folder = folder
        self._owner_lock.write(f"{os.getpid()}\n{folder}")
        logger.info(
            "Embedded server in %s ready after %.2f s",
            self.home,
            time.monotonic() - begun,
            extra={"action": "start"},
        )

    def _join(self) -> bool:
        # The lock comes first: once we hold it, the owner does not stop the server that answers.
        if not self._users_lock.take(shared=True):
            return False
        # Not splitlines, for which a name may hold the end of a line.
        lines = self._owner_lock.read().rstrip("\n").split("\n")
        if len(lines) == 2 and _answers(Path(lines[1])):
            self._socket_folder = Path(lines[1])
            logger.info("Joined the embedded server in %s", self.home, extra={"action": "join"})
            return True
        self._users_lock.release()
        return False

    def _wait_for_users(self, postmaster: Postmaster) -> None:
        told = False
        while postmaster.is_running and not self._users_lock.take(shared=False):
            if not told:
                logger.info(
                    "Waiting for other commands to leave the embedded server in %s",
                    self.home,
                    extra={"action": "wait"},
                )
                told = True
            time.sleep(_POLL_SECONDS)


def embedded_server(
    home: Path | None = None, *, share: bool = True, settings: Mapping[str, str] | None = None
) -> EmbeddedServer:
    """Give the server a command needs, to be entered with `with`: joined if one runs, else started."""
    return EmbeddedServer(home, share=share, settings=settings)


def default_home(environ: Mapping[str, str]) -> Path:
    """Name the home folder: VECTUNED_HOME, else /var/lib/vectuned for root, else the user's data folder."""
    if environ.get("VECTUNED_HOME"):
        return Path(environ["VECTUNED_HOME"]).expanduser()
    if os.geteuid() == 0:
        return Path("/var/lib/vectuned")
    return platformdirs.user_data_path("vectuned", appauthor=False)


def _socket_folder(home: Path, account: Account | None) -> Path:
    owner = account.uid if account else os.geteuid()
    # The same name at each start, so that users who reconnect find it.
    short = f"vectuned-{owner}-{hashlib.sha256(os.fsencode(home)).hexdigest()[:12]}"
    # The last one because TMPDIR may be too long as well; `make_private` refuses a folder of somebody else.
    for folder in (home / "run", Path(tempfile.gettempdir(), short), Path("/tmp", short)):  # noqa: S108
        # libpq reads a comma as the end of one host and the beginning of another.
        if len(os.fsencode(folder / SOCKET)) < _SOCKET_PATH_BYTES and "," not in str(folder):
            break
    make_private(folder, account)
    # The lock beside a killed server's socket names a pid, too, which may be anybody's by now.
    for name in (SOCKET, f"{SOCKET}.lock"):
        (folder / name).unlink(missing_ok=True)
    return folder


def _answers(folder: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(folder / SOCKET))
        except OSError:
            return False
    return True


def _rotate(log: Path) -> None:
    if log.exists() and log.stat().st_size > _LOG_BYTES:
        log.replace(log.with_name(f"{log.name}.1"))


class _Lock:
    """A file lock that the kernel releases however its holder dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def take(self, *, shared: bool) -> bool:
        """Try to take the lock without waiting."""
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BaseException:
                os.close(file)
                raise
        except BlockingIOError:
            return False
        except OSError as error:
            raise DatabaseUnavailableError(
                f"The lock {self._path} of the embedded server cannot be used ({error.strerror}); "
                f"set VECTUNED_HOME to a folder of your own."
            ) from error
        self._file = file
        return True

    def write(self, text: str) -> None:
        """Say something to those who find the lock taken."""
        assert self._file is not None
        os.pwrite(self._file, f"{text}\n".encode(), 0)
        os.ftruncate(self._file, len(text.encode()) + 1)

    def read(self) -> str:
        """Read what the holder says."""
        return self._path.read_text()

    def holder(self) -> str:
        """Read the holder's process id."""
        return self.read().partition("\n")[0] or "unknown"

    def release(self) -> None:
        """Let go, also in the forks that share the file."""
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)
            os.close(self._file)
            self._file = None
