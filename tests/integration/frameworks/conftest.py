"""A server that logs what an application sends, and a database of the application's own."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from tests.integration.embedded_helpers import FAST
from tests.integration.framework_helpers import ROLE, Application, Logs
from tests.integration.table_helpers import copied, raw

from vectuned.daemon.server.embedded import EmbeddedServer
from vectuned.sql.install import migrate

SETTINGS = {
    **FAST,
    "logging_collector": "on",
    "log_destination": "jsonlog",
    "log_directory": "log",
    "log_filename": "postgresql.log",
}
TEMPLATE = "template_application"
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def logs() -> Iterator[Logs]:
    """A server of its own with vectuned in a template database, since the log is the server's."""
    home = Path(tempfile.mkdtemp(prefix="vt-"))
    home.chmod(0o755)
    try:
        with EmbeddedServer(home, settings=SETTINGS) as server:
            with psycopg.connect(server.dsn, autocommit=True) as admin:
                admin.execute(raw(f"CREATE DATABASE {TEMPLATE}"))
                admin.execute(raw(f"CREATE ROLE {ROLE} LOGIN"))
                # Its statements alone are logged, with their values.
                admin.execute(raw(f"ALTER ROLE {ROLE} SET log_min_duration_statement = 0"))
            with psycopg.connect(make_conninfo(server.dsn, dbname=TEMPLATE), autocommit=True) as conn:
                conn.execute("CREATE EXTENSION vector")
                migrate(conn)
            (folder,) = home.rglob("log")
            yield Logs(server.dsn, folder)
    finally:
        shutil.rmtree(home)


@pytest.fixture
def application(logs: Logs, capsys: pytest.CaptureFixture[str]) -> Iterator[Application]:
    """A database that belongs to the application's role."""
    name = f"shop_{next(_numbers)}"
    with copied(logs.dsn, TEMPLATE, name) as conn:
        conn.execute(raw(f"ALTER DATABASE {name} OWNER TO {ROLE}"))
        # As for a large table: otherwise the planner sorts what the filter leaves of this small one.
        conn.execute(raw(f"ALTER DATABASE {name} SET seq_page_cost = 1000"))
        yield Application(conn, logs.folder, capsys)
