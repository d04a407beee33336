"""Events of a column or of all columns: rows for people and dashboards, notifications for listeners."""

from __future__ import annotations

import json
from typing import Any

import psycopg

from vectuned.sql.rows import execute


def record_event(
    conn: psycopg.Connection[Any], column_id: int | None, action: str, details: dict[str, Any]
) -> None:
    """Insert an event; `column_id` is None for one that concerns no single column."""
    values = {"column_id": column_id, "action": action, "details": json.dumps(details)}
    execute(conn, "insert_event", values)


def notify(conn: psycopg.Connection[Any], column_id: int, action: str, **details: Any) -> None:
    """Notify the listeners of the channel vectuned when the transaction commits."""
    payload = json.dumps({"action": action, "column_id": column_id, **details})
    execute(conn, "notify", {"payload": payload})
