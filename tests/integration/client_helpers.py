"""A tuned table with statements that have settings, and the statements as applications write them."""

from __future__ import annotations

import json
from collections.abc import Mapping

from tests.integration.table_helpers import Connection, build, clustered, enable, make, text

from vectuned.sql.client.fingerprint import fingerprint, normalize

DIMENSIONS = 8
QUERY = text(clustered(1, DIMENSIONS, seed=7)[0])
# The output says what was in force while the statement ran.
SEARCH = (
    "SELECT id, current_setting('hnsw.ef_search') AS ef, current_setting('enable_indexscan') AS indexscan "
    "FROM items WHERE 1 / (kind + {divisor}) >= 0 ORDER BY embedding <=> {query}::vector LIMIT {k}"
)
FOREIGN = "SELECT current_setting('hnsw.ef_search', true)"
TUNED = {"hnsw.ef_search": "80", "hnsw.iterative_scan": "relaxed_order"}
EXACT = {"enable_indexscan": "off", "plan_cache_mode": "force_custom_plan"}
DEFAULT = "40"  # pgvector's ef_search
ROWS = 300


def search(style: str = "%s") -> str:
    """Return the statement with parameters of a style: %s, $ or values."""
    if style == "$":
        return SEARCH.format(divisor="$1::int", query="$2", k="$3")
    if style == "values":
        return SEARCH.format(divisor="1", query=f"'{QUERY}'", k="5")
    return SEARCH.format(divisor="%s", query="%s", k="%s")


def prepare(conn: Connection, settings: Mapping[str, str] = TUNED) -> int:
    """Create and enable the table, and publish settings for the statement; return the column's id."""
    make(conn, clustered(ROWS, DIMENSIONS, seed=1), index=False)
    conn.execute("ALTER TABLE items ADD COLUMN kind int; UPDATE items SET kind = id % 3; ANALYZE items")
    build(conn)
    column = enable(conn)
    publish(conn, column, search(), settings)
    return column


def publish(
    conn: Connection, column: int, statement: str, settings: Mapping[str, str], *, k_class: int = 10
) -> None:
    """Publish settings for a statement by hand, and announce it as the daemon does."""
    conn.execute(
        "INSERT INTO vectuned.statement (fingerprint, column_id, k_class, shape, text, settings, "
        "published_at) VALUES (%s, %s, %s, '', %s, %s, now()) "
        "ON CONFLICT (fingerprint, column_id, k_class, shape) DO UPDATE SET settings = excluded.settings",
        (fingerprint(statement), column, k_class, normalize(statement), json.dumps(dict(settings))),
    )
    conn.execute("""SELECT pg_notify('vectuned', '{"action": "publish"}')""")
