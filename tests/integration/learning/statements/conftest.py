"""A connection whose database has the tables of these tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.integration.recognition_helpers import TABLES, Connection
from tests.integration.table_helpers import copied, prepared

from vectuned.daemon.server.embedded import EmbeddedServer


@pytest.fixture(scope="session")
def template_tables(server: EmbeddedServer, template_plain: str) -> str:
    """A database with the tables, and without the schema of vectuned."""
    name = "template_tables"
    with prepared(server.dsn, template_plain, name) as conn:
        conn.execute(TABLES)
    return name


@pytest.fixture
def conn(server: EmbeddedServer, template_tables: str) -> Iterator[Connection]:
    """A connection to a copy of the database with the tables."""
    with copied(server.dsn, template_tables, "statements") as conn:
        conn.execute("SET search_path = app, public")
        yield conn
