"""The light client, `vectuned.sql.client`, under a short name; see there."""

from .sql.client.search import (
    Filter,
    Hit,
    Vector,
    record_feedback,
    record_feedback_async,
    search,
    search_async,
    search_rows,
    search_rows_async,
    search_statement,
    select_nearest,
)

__all__ = [
    "Filter",
    "Hit",
    "Vector",
    "record_feedback",
    "record_feedback_async",
    "search",
    "search_async",
    "search_rows",
    "search_rows_async",
    "search_statement",
    "select_nearest",
]
