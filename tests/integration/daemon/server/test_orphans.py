"""Servers and pid files left by dead processes, and servers that die or hang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from tests.integration.embedded_helpers import (
    FAST,
    Command,
    ask,
    copy_home,
    eventually,
    open_folder,
    root_only,
)

from vectuned.daemon.database.connect import connect
from vectuned.daemon.server.embedded import EmbeddedServer
from vectuned.daemon.server.postmaster import is_alive, read_pid_file

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /proc and prctl")

WITHOUT_PTRACE = """
import ctypes, os, sys
PR_CAPBSET_DROP, CAP_SYS_PTRACE = 24, 19
if ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_SYS_PTRACE, 0, 0, 0) != 0:
    raise SystemExit("the capability cannot be dropped")
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """A home whose server was stopped and holds one row."""
    with open_folder() as folder:
        yield copy_home(folder)


@linux_only
def test_server_ends_with_its_killed_owner(home: Path) -> None:
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


def test_start_stops_an_orphaned_server_first(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    pid = leave_orphan(home)
    with EmbeddedServer(home, settings=FAST) as server:
        assert not is_alive(pid)
        assert server.pid != pid
        assert ask(server.dsn, "SELECT answer FROM kept") == 42
    assert f"Stopping the server {pid}" in caplog.text


@root_only
@linux_only
def test_start_recognises_an_orphan_without_the_right_to_trace(home: Path) -> None:
    """Containers deny root CAP_SYS_PTRACE, so that it cannot see where another account's process is."""
    pid = leave_orphan(home)
    with Command(home, before=["-c", WITHOUT_PTRACE]) as owner:
        assert owner.ready()["pid"] != pid, owner.errors()
        assert not is_alive(pid)
        assert f"Stopping the server {pid}" in owner.errors()
        owner.leave()
        assert owner.process.wait(30) == 0


def test_start_recovers_after_owner_and_server_were_killed(home: Path) -> None:
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


def test_start_again_restarts_a_server_that_died(home: Path) -> None:
    with EmbeddedServer(home, settings=FAST) as server:
        first = server.pid
        assert first is not None
        with connect(server.dsn) as conn:
            os.kill(first, signal.SIGKILL)
            assert eventually(lambda: not server.is_running)
            with pytest.raises(psycopg.OperationalError):
                eventually(lambda: conn.execute("SELECT 1").closed)
        server.start()
        assert server.pid != first
        assert ask(server.dsn, "SELECT 1") == 1
        second = server.pid
        server.start()
        assert server.pid == second


def test_stop_kills_a_hanging_server(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    server = EmbeddedServer(home, settings=FAST, stop_patience=0.3)
    with server:
        assert server.pid is not None
        pid = server.pid
        os.kill(pid, signal.SIGSTOP)
    assert not is_alive(pid)
    assert "sending SIGQUIT" in caplog.text
    assert "sending SIGKILL" in caplog.text


def write_pid_file(data: Path, pid: int, started: float) -> None:
    lines = [pid, data, int(started), 5432, data.parent / "run", "", "  5432001         0", "ready   "]
    (data / "postmaster.pid").write_text("".join(f"{line}\n" for line in lines))


def test_start_with_its_own_pid_in_a_stale_pid_file(home: Path) -> None:
    data = home / "data-18"
    write_pid_file(data, os.getpid(), time.time())
    with EmbeddedServer(home, settings=FAST) as server:
        assert ask(server.dsn, "SELECT answer FROM kept") == 42


@pytest.mark.parametrize("place", ["elsewhere", "data folder"])
def test_start_leaves_another_process_with_the_reused_pid_alone(home: Path, place: str) -> None:
    data = home / "data-18"
    with subprocess.Popen(["sleep", "600"], cwd=data if place == "data folder" else "/") as stranger:
        try:
            # In the data folder, its start time tells it apart from the server.
            write_pid_file(data, stranger.pid, time.time() - (3600 if place == "data folder" else 0))
            with EmbeddedServer(home, settings=FAST) as server:
                assert ask(server.dsn, "SELECT answer FROM kept") == 42
                assert stranger.poll() is None
        finally:
            stranger.kill()


def test_start_does_not_take_a_zombie_for_a_server(home: Path) -> None:
    data = home / "data-18"
    with subprocess.Popen(["sleep", "600"], cwd=data) as zombie:
        zombie.kill()
        os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
        os.kill(zombie.pid, 0)
        assert not is_alive(zombie.pid)
        write_pid_file(data, zombie.pid, time.time())
        with EmbeddedServer(home, settings=FAST) as server:
            assert ask(server.dsn, "SELECT answer FROM kept") == 42


def test_start_tolerates_a_broken_pid_file(home: Path) -> None:
    for text in ("", "garbage\n", "123\n"):
        (home / "data-18" / "postmaster.pid").write_text(text)
        with EmbeddedServer(home, settings=FAST) as server:
            assert ask(server.dsn, "SELECT answer FROM kept") == 42
