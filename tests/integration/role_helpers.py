"""A database with vectuned's roles, and sessions that have only one of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from pgvector.psycopg import register_vector
from psycopg import sql
from psycopg.conninfo import make_conninfo
from tests.integration.table_helpers import Connection, clustered, copied, enable, make

from vectuned.sql.roles import install_roles

GROUPS = ("vectuned_user", "vectuned_admin", "vectuned_daemon")
VECTORS = clustered(400, 8, seed=1)
QUERY = VECTORS[0] + 0.1


@contextmanager
def database_with_roles(dsn: str, template: str, name: str) -> Iterator[Connection]:
    """Yield the owner's connection to a fresh database with the roles, in which PUBLIC has nothing.

    Roles belong to the server: they are dropped again, for tests that know nothing of them.
    """
    try:
        with copied(dsn, template, name) as conn:
            install_roles(conn, public=False)
            yield conn
    finally:
        with psycopg.connect(dsn, autocommit=True) as admin:
            for role in GROUPS:
                admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))


@contextmanager
def tuned_with_roles(dsn: str, template: str, name: str) -> Iterator[Connection]:
    """Yield the owner's connection to a fresh database with the roles and a tuned table, closed to PUBLIC."""
    with database_with_roles(dsn, template, name) as conn:
        make(conn, VECTORS)
        conn.execute("ALTER TABLE items ADD COLUMN kind int")
        conn.execute("UPDATE items SET kind = id % 4")
        conn.execute("ANALYZE items")
        assert enable(conn, sample_rate=1.0, min_samples=20) == 1
        yield conn


@contextmanager
def member(conn: Connection, *groups: str, name: str = "somebody") -> Iterator[Connection]:
    """Yield a connection of a new LOGIN role with the privileges of the groups only."""
    role = sql.Identifier(f"{conn.info.dbname}_{name}")
    conn.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
    try:
        for group in groups:
            conn.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(group), role))
        dsn = make_conninfo(conn.info.dsn, user=f"{conn.info.dbname}_{name}")
        with psycopg.connect(dsn, autocommit=True) as session:
            register_vector(session)
            yield session
    finally:
        conn.execute(sql.SQL("REASSIGN OWNED BY {} TO CURRENT_USER").format(role))
        conn.execute(sql.SQL("DROP OWNED BY {}").format(role))
        conn.execute(sql.SQL("DROP ROLE {}").format(role))
