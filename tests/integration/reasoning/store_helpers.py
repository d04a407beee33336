"""More connections to the database of an entity store."""

from __future__ import annotations

import psycopg
from tests.integration.table_helpers import Connection

from vectuned.reasoning.store.store import EntityStore


def dsn(store: EntityStore) -> str:
    return store.conn.info.dsn + f" password={store.conn.info.password}" * bool(store.conn.info.password)


def connect(store: EntityStore) -> Connection:
    return psycopg.connect(dsn(store), autocommit=True)
