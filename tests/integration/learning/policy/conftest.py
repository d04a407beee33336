"""The column that tests of policies learn about."""

from __future__ import annotations

import pytest
from tests.integration.table_helpers import Connection, only

from vectuned.learning.model.tuned_columns import TunedColumn


@pytest.fixture
def tuned(conn: Connection) -> TunedColumn:
    """The only tuned column of the database that a module begins with."""
    return only(conn)
