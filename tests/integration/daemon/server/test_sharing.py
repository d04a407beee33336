"""One embedded server among several processes: owner, users, rivals and forks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.embedded_helpers import FAST, PACKAGE, Command, ask, copy_home, eventually, open_folder

from vectuned.config.errors import DatabaseUnavailableError
from vectuned.daemon.server.embedded import EmbeddedServer
from vectuned.daemon.server.postmaster import is_alive


@pytest.fixture
def new_home() -> Iterator[Path]:
    """A home that does not exist yet."""
    with open_folder() as folder:
        yield folder / "home"


@pytest.fixture
def home() -> Iterator[Path]:
    """A home whose server was stopped and holds one row."""
    with open_folder() as folder:
        yield copy_home(folder)


def test_start_refuses_a_second_owner(home: Path) -> None:
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


def test_stop_waits_for_the_last_user(home: Path) -> None:
    with Command(home) as owner:
        said = owner.ready()
        with Command(home, share=True) as other:
            assert other.ready()["owner"] is False
            with EmbeddedServer(home, share=True) as server:
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


def test_stop_while_waiting_for_users_can_be_interrupted(home: Path) -> None:
    with Command(home) as owner:
        pid = owner.ready()["pid"]
        with EmbeddedServer(home, share=True) as server:
            owner.leave()
            assert eventually(lambda: "Waiting for other commands" in owner.errors())
            owner.process.send_signal(signal.SIGINT)
            owner.process.wait(30)
            assert not is_alive(pid)
            assert not server.is_running
            # The remaining user may become the owner.
            server.start()
            assert server.is_owner
            assert ask(server.dsn, "SELECT 1") == 1


def test_start_of_several_processes_at_once_shares_one_server(new_home: Path) -> None:
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


def test_stop_in_a_fork_leaves_the_parents_server(home: Path) -> None:
    code = """
import os, sys
from pathlib import Path
import psycopg
from vectuned.daemon.server.embedded import EmbeddedServer
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
