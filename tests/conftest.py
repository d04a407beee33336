"""A real PostgreSQL server per session, template databases, and a new database per test."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow
from tests.database_helpers import connected, database_copy

from vectuned.config.sources import PROGRAMS_VARIABLE
from vectuned.daemon.server.embedded import EmbeddedServer

_numbers = itertools.count(1)
_ROOM: Final = 4 << 30  # bytes of memory that must be free to hold the server's data
_TEMPLATES: Final = ("template_plain", "template_vectuned", "template_entities")


class NamedServer(EmbeddedServer):
    """A server that runs already, named by `--server DSN`: it is neither started nor stopped here.

    The role must be a superuser. Databases and roles of the tests are made on it and dropped again.
    """

    def __init__(self, dsn: str) -> None:
        super().__init__(Path(tempfile.gettempdir(), "vectuned-test-unused"))
        self._dsn = dsn

    @property
    def dsn(self) -> str:
        """The connection string as it was named."""
        return self._dsn

    def __enter__(self) -> Self:
        _drop_templates(self._dsn)
        return self

    def __exit__(self, *_: object) -> None:
        _drop_templates(self._dsn)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that names another server than the wheel's."""
    parser.addoption(
        "--server",
        metavar="DIR|DSN",
        help="run on the PostgreSQL whose programs are in a folder (postgres or bin/postgres), or on a "
        "running server, as a superuser, by its connection string; the default is the installed wheel",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make Ctrl-C reach the tests' child processes, since a script's background jobs ignore SIGINT.

    And have every server that a test starts run the programs of `--server`.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    named = config.getoption("--server")
    if named is None:
        return
    if Path(named).is_dir():
        os.environ[PROGRAMS_VARIABLE] = str(Path(named).absolute())
    elif "=" not in named and "://" not in named:
        raise pytest.UsageError(f"--server {named} is neither a folder nor a connection string")
    elif hasattr(config, "workerinput") or config.getoption("numprocesses", None):
        # Their templates would meet on the one server.
        raise pytest.UsageError("--server with a connection string runs in one process: add -n0")


def _drop_templates(dsn: str) -> None:
    """Drop the template databases, which an interrupted run leaves behind."""
    with psycopg.connect(dsn, autocommit=True) as admin:
        for name in _TEMPLATES:
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="session")
def available_extensions(server: EmbeddedServer) -> frozenset[str]:
    """The names of the extensions that can be created on the server."""
    with psycopg.connect(server.dsn, autocommit=True) as admin:
        return frozenset(name for (name,) in admin.execute("SELECT name FROM pg_available_extensions"))


@pytest.fixture(autouse=True)
def skip_without_extension(request: pytest.FixtureRequest) -> None:
    """Skip a test that is marked `needs_extension` if the server has no such extension."""
    for marker in request.node.iter_markers("needs_extension"):
        missing = sorted(set(marker.args) - request.getfixturevalue("available_extensions"))
        if missing:
            pytest.skip(f"the server has no extension {', '.join(missing)}")


@pytest.fixture(autouse=True)
def logging_as_at_the_start() -> None:
    """Undo changes to logging by the command line when a test or a fixture runs it in this process."""
    for name in ("vectuned", "apscheduler"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def server(pytestconfig: pytest.Config) -> Iterator[EmbeddedServer]:
    """The session's PostgreSQL server, without durability if it is ours."""
    named = pytestconfig.getoption("--server")
    if named is not None and not Path(named).is_dir():
        with NamedServer(named) as running:
            yield running
        return
    # Not pytest's own folder: that is closed to the account that runs the server where we are root. In
    # memory, where there is room, a database for each test takes a quarter of the time.
    home = Path(tempfile.mkdtemp(prefix="vectuned-test-", dir=_in_memory()))
    home.chmod(0o755)
    settings = {
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
        "autovacuum": "off",
        "shared_buffers": "256MB",
        "maintenance_work_mem": "256MB",
    }
    # The tests choose their database themselves, independent of the shell's environment.
    preferred = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("PG")}
    try:
        with EmbeddedServer(home, settings=settings) as server:
            yield server
    finally:
        os.environ.update(preferred)
        shutil.rmtree(home)


@pytest.fixture(scope="session")
def template_plain(server: EmbeddedServer) -> str:
    """The name of a template database with the extension alone."""
    with psycopg.connect(server.dsn, autocommit=True) as admin:
        admin.execute("CREATE DATABASE template_plain")
    with psycopg.connect(make_conninfo(server.dsn, dbname="template_plain"), autocommit=True) as conn:
        conn.execute("CREATE EXTENSION vector")
    return "template_plain"


@pytest.fixture(scope="session")
def template(server: EmbeddedServer, template_plain: str) -> str:
    """The name of a template database with the extension and the schema `vectuned`."""
    from vectuned.sql.install import migrate

    with psycopg.connect(server.dsn, autocommit=True) as admin:
        admin.execute(
            sql.SQL("CREATE DATABASE template_vectuned TEMPLATE {}").format(sql.Identifier(template_plain))
        )
    with psycopg.connect(make_conninfo(server.dsn, dbname="template_vectuned"), autocommit=True) as conn:
        migrate(conn)
    return "template_vectuned"


@pytest.fixture
def initial_database(template: str) -> str:
    """The template of `database`; a module overrides this if all its tests start from something learned."""
    return template


@pytest.fixture
def database(server: EmbeddedServer, initial_database: str) -> Iterator[str]:
    """The connection string of a fresh database with the schema `vectuned`."""
    with database_copy(server.dsn, initial_database, f"test_{next(_numbers)}") as conninfo:
        yield conninfo


@pytest.fixture
def conn(database: str) -> Iterator[psycopg.Connection[TupleRow]]:
    """An autocommit connection to the fresh database, knowing the vector types."""
    with connected(database) as connection:
        yield connection


@pytest.fixture
def plain_database(server: EmbeddedServer, template_plain: str) -> Iterator[str]:
    """The connection string of a fresh database with the extension alone."""
    with database_copy(server.dsn, template_plain, f"test_{next(_numbers)}") as conninfo:
        yield conninfo


@pytest.fixture
def plain_conn(plain_database: str) -> Iterator[psycopg.Connection[TupleRow]]:
    """An autocommit connection to the plain database, knowing the vector types."""
    with connected(plain_database) as connection:
        yield connection


def _in_memory() -> Path | None:
    """Return an in-memory folder with enough space, or None."""
    folder = Path("/dev/shm")
    if not os.access(folder, os.W_OK) or shutil.disk_usage(folder).free < _ROOM:
        return None
    return folder
