"""A database backend for Django that sends learned settings along with statements.

In the settings, instead of "django.db.backends.postgresql":
`DATABASES = {"default": {"ENGINE": "vectuned.sql.client.django", ...}}`. Works with psycopg and psycopg2.
"""

from __future__ import annotations

from typing import Any

from django.db.backends.postgresql import base

from ..for_django import attach
from ..snapshot import Snapshot

_snapshots: dict[str, Snapshot] = {}


class DatabaseWrapper(base.DatabaseWrapper):  # type: ignore[misc]  # Django has no types
    """Django's own wrapper, whose connections have tuned cursors."""

    @property
    def vectuned(self) -> Snapshot:
        """Return the copy of the learned settings, one for each alias in DATABASES, with its counters."""
        return _snapshots.setdefault(self.alias, Snapshot())

    def get_new_connection(self, conn_params: Any) -> Any:
        """Connect, and let the connection send learned settings."""
        connection = super().get_new_connection(conn_params)
        attach(connection, self.vectuned)
        return connection
