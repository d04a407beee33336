"""The connection pool lends a bounded number of connections that are in order."""

from __future__ import annotations

import pytest
from tests.integration.reasoning.store_helpers import connect

from vectuned.reasoning import errors
from vectuned.reasoning.graph.connections import ConnectionPool
from vectuned.reasoning.store.store import EntityStore


def test_lend_is_bounded_and_closes_connections_in_a_transaction(shared: EntityStore) -> None:
    with ConnectionPool(lambda: connect(shared), max_connections=1) as connections:
        with connections.lend(), pytest.raises(errors.StoreBusyError), connections.lend(0.01):
            pass
        with connections.lend() as conn:
            conn.execute("BEGIN")
        assert conn.closed  # returned in the middle of a transaction
