"""What happened to a column, or to all of them, written down for people and dashboards."""

from __future__ import annotations

import json
from typing import Any

import psycopg

from vectuned.sql.files import queries


def record_event(
    conn: psycopg.Connection[Any], column_id: int | None, action: str, details: dict[str, Any]
) -> None:
    """Add an event, of no column in particular where `column_id` is None."""
    values = {"column_id": column_id, "action": action, "details": json.dumps(details)}
    conn.execute(queries()["insert_event"], values)


def notify(conn: psycopg.Connection[Any], column_id: int, action: str, **more: Any) -> None:
    """Notify who listens to the channel vectuned, once this is committed."""
    payload = json.dumps({"action": action, "column_id": column_id, **more})
    conn.execute(queries()["notify"], {"payload": payload})
