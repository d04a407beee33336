"""Connections that Django opens, with either driver."""

from __future__ import annotations

from typing import Any

from django.db.backends.postgresql.psycopg_any import is_psycopg3
from django.db.backends.signals import connection_created

from .snapshot import Snapshot


def attach(connection: Any, snapshot: Snapshot) -> None:
    """Let a connection of the driver, opened by Django, send learned settings."""
    if is_psycopg3:
        from . import for_psycopg

        for_psycopg.tune_connection(connection, snapshot)
    else:
        from . import for_psycopg2

        for_psycopg2.tune_connection(connection, snapshot)


def tune_wrapper(wrapper: Any, snapshot: Snapshot) -> None:
    """Tune the connection that a database wrapper has open, and those that Django opens later."""

    def on_connect(sender: Any, connection: Any, **_: Any) -> None:
        if connection.alias == wrapper.alias:
            attach(connection.connection, snapshot)

    connection_created.connect(on_connect, weak=False, dispatch_uid=f"vectuned.{wrapper.alias}")
    if wrapper.connection is not None:
        attach(wrapper.connection, snapshot)
