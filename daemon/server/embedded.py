"""The embedded server: PostgreSQL from a wheel, running for as long as some process uses it.

One home folder holds everything: `data-18` (named by major version), `run` (the socket), `postgres.log`, and
two locks. The process whose child the server is holds `owner.lock`; all others that use it share
`users.lock`.
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
from typing import Final, Self

import platformdirs
from psycopg.conninfo import make_conninfo

from vectuned.config.errors import DatabaseUnavailableError

from .installation import (
    DATABASE,
    ROLE,
    choose_account,
    create_data_folder,
    find_binaries,
    make_private_folder,
    prepare_binaries,
)
from .postmaster import PORT, Account, Postmaster, stop_orphan

log = logging.getLogger(__name__)

DEFAULT_SETTINGS: Final[Mapping[str, str]] = {
    "shared_buffers": "512MB",
    "maintenance_work_mem": "512MB",
    "max_parallel_maintenance_workers": "2",
    "max_connections": "50",
    "max_wal_size": "2GB",
    # Nothing replicates from this server, and without replication bulk loads write half as much.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    # A container's 64 MB of /dev/shm are too small for a parallel index build.
    "dynamic_shared_memory_type": "mmap",
    "log_line_prefix": "%m [%p] ",
}

SOCKET: Final = f".s.PGSQL.{PORT}"

_SOCKET_PATH_BYTES: Final = 107  # sun_path in Linux's unix(7), without its final zero byte
_LOG_BYTES: Final = 10_000_000  # size from which the log is rotated at a start
_POLL_SECONDS: Final = 0.02  # between two tries of a lock
_SOCKET_NAME_DIGITS: Final = (
    12  # hexadecimal, of the home's hash: enough to tell the homes of a machine apart
)


class EmbeddedServer:
    """A PostgreSQL server in a home folder, run by this process or, with `share`, joined if another runs it.

    `settings` are PostgreSQL settings that override DEFAULT_SETTINGS; only the owner's apply. Times are in
    seconds: `start_timeout` for starting or joining, `stop_patience` for each of the signals that stop it.
    Start it from the main thread: started from another one, it would outlive a kill -9 of this process.
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
        self._pid = os.getpid()

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self.home / "postgres.log"

    @property
    def is_owner(self) -> bool:
        """Whether the server is a child of this process."""
        return self._postmaster is not None

    @property
    def is_running(self) -> bool:
        """Whether the server that this object started or joined still runs."""
        if self._postmaster is not None:
            return self._postmaster.is_running
        return self._socket_folder is not None and _accepts_connections(self._socket_folder)

    @property
    def pid(self) -> int | None:
        """The server's process id; None if another process owns it or it is stopped."""
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
            # Set, so that PGHOSTADDR and PGGSSENCMODE of the environment have no effect.
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
        """Start the server or join the running one; called again, restart it if it died.

        Raises DatabaseUnavailableError if it cannot be started or, without `share`, if another process owns
        it.
        """
        if self._socket_folder is not None:
            if self.is_running:
                return
            self._release()
        self._pid = os.getpid()
        self._make_home()
        deadline = time.monotonic() + self._start_timeout
        while True:
            if self._owner_lock.take(shared=False):
                self._start_owned()
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
        """Leave the server; its owner waits for the last user, then stops it. May be called repeatedly."""
        if self._pid != os.getpid():
            return  # in a forked child: the server belongs to the parent
        try:
            if self._postmaster is not None:
                try:
                    self._wait_for_users(self._postmaster)
                finally:
                    self._postmaster.stop(patience=self._stop_patience)
                    log.info("Embedded server in %s stopped", self.home, extra={"action": "stop"})
        finally:
            self._release()

    def _release(self) -> None:
        self._postmaster = None
        self._socket_folder = None
        self._owner_lock.release()
        self._users_lock.release()

    def _make_home(self) -> None:
        # If root starts the server, the account that runs it must be able to enter the folder.
        mode = 0o755 if os.geteuid() == 0 else 0o700
        try:
            if not self.home.exists():
                self.home.mkdir(parents=True)
                self.home.chmod(mode)
        except OSError as error:
            raise DatabaseUnavailableError(
                f"The folder {self.home} for the embedded server cannot be created ({error.strerror}); "
                f"set VECTUNED_HOME to another one."
            ) from error

    def _start_owned(self) -> None:
        started = time.monotonic()
        try:
            self._owner_lock.write(str(os.getpid()))
            binaries = find_binaries()
            data = self.home / f"data-{binaries.major}"
            account = choose_account(data)
            stop_orphan(data, patience=self._stop_patience)
            if account is not None:
                binaries = prepare_binaries(binaries, account, self.home)
            fsync = self._settings.get("fsync") != "off"
            if not data.exists():
                create_data_folder(binaries, data, account, self.home / "initdb.log", fsync=fsync)
            folder = _make_socket_folder(self.home, account)
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
        log.info(
            "Embedded server in %s ready after %.2f s",
            self.home,
            time.monotonic() - started,
            extra={"action": "start"},
        )

    def _join(self) -> bool:
        # Take the lock before trying the socket: while it is held, the owner does not stop the server.
        if not self._users_lock.take(shared=True):
            return False
        # Not splitlines(): the folder's name may hold characters that it takes for line ends.
        lines = self._owner_lock.read().rstrip("\n").split("\n")
        if len(lines) == 2 and _accepts_connections(Path(lines[1])):
            self._socket_folder = Path(lines[1])
            log.info("Joined the embedded server in %s", self.home, extra={"action": "join"})
            return True
        self._users_lock.release()
        return False

    def _wait_for_users(self, postmaster: Postmaster) -> None:
        logged = False
        while postmaster.is_running and not self._users_lock.take(shared=False):
            if not logged:
                log.info(
                    "Waiting for other commands to leave the embedded server in %s",
                    self.home,
                    extra={"action": "wait"},
                )
                logged = True
            time.sleep(_POLL_SECONDS)


def default_home(environ: Mapping[str, str]) -> Path:
    """Return the home folder: VECTUNED_HOME, else /var/lib/vectuned for root, else the user's data folder."""
    if environ.get("VECTUNED_HOME"):
        return Path(environ["VECTUNED_HOME"]).expanduser()
    if os.geteuid() == 0:
        return Path("/var/lib/vectuned")
    return platformdirs.user_data_path("vectuned", appauthor=False)


def _make_socket_folder(home: Path, account: Account | None) -> Path:
    owner = account.uid if account else os.geteuid()
    # The name is the same at each start, so that clients which reconnect find the socket.
    short = f"vectuned-{owner}-{hashlib.sha256(os.fsencode(home)).hexdigest()[:_SOCKET_NAME_DIGITS]}"
    # /tmp is the last resort because TMPDIR may be too long as well; make_private_folder refuses a folder of
    # another user.
    for folder in (home / "run", Path(tempfile.gettempdir(), short), Path("/tmp", short)):  # noqa: S108
        # libpq takes a comma as the separator of two hosts.
        if len(os.fsencode(folder / SOCKET)) < _SOCKET_PATH_BYTES and "," not in str(folder):
            break
    make_private_folder(folder, account)
    # A killed server leaves its socket and a lock file, whose pid another process may have by now.
    for name in (SOCKET, f"{SOCKET}.lock"):
        (folder / name).unlink(missing_ok=True)
    return folder


def _accepts_connections(folder: Path) -> bool:
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
    """A file lock, which the kernel releases when its holder dies."""

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
        """Write a text for the processes that find the lock taken."""
        assert self._file is not None
        os.pwrite(self._file, f"{text}\n".encode(), 0)
        os.ftruncate(self._file, len(text.encode()) + 1)

    def read(self) -> str:
        """Read the text that the holder wrote."""
        return self._path.read_text()

    def holder(self) -> str:
        """Read the holder's process id."""
        return self.read().partition("\n")[0] or "unknown"

    def release(self) -> None:
        """Release the lock, also for forked children that share the file."""
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)
            os.close(self._file)
            self._file = None
