"""A connection whose database has the tables of these tests."""

from __future__ import annotations

import pytest
from tests.integration.recognition_helpers import TABLES, Connection


@pytest.fixture
def conn(plain_conn: Connection) -> Connection:
    plain_conn.execute(TABLES)
    plain_conn.execute("SET search_path = app, public")
    return plain_conn
