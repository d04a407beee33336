"""A database with vectuned's roles, and sessions of people who have nothing but one of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from pgvector.psycopg import register_vector
from psycopg import sql
from psycopg.conninfo import make_conninfo

from vectuned.sql.loader import install_roles

from .tables import Connection

GROUPS = ("vectuned_user", "vectuned_admin", "vectuned_daemon")


@contextmanager
def database_with_roles(dsn: str, template: str, name: str) -> Iterator[Connection]:
    """Yield the owner's connection to a fresh database with the roles, in which PUBLIC has nothing.

    Roles belong to the server: they are dropped again, for tests that know nothing of them.
    """
    database = sql.Identifier(name)
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(database, sql.Identifier(template)))
        try:
            with psycopg.connect(make_conninfo(dsn, dbname=name), autocommit=True) as conn:
                register_vector(conn)
                install_roles(conn, public=False)
                yield conn
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(database))
            for role in GROUPS:
                admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))


@contextmanager
def member(conn: Connection, *groups: str, name: str = "somebody") -> Iterator[Connection]:
    """Yield a connection of a fresh LOGIN role that has what the groups have, and no more."""
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
