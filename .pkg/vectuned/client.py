"""The light client under a short name: searches, and `tune` for an application's own statements.

See `vectuned.sql.client.search` and `vectuned.sql.client.tuning`.
"""

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
from .sql.client.snapshot import Snapshot
from .sql.client.tuning import tune, tune_async

__all__ = [
    "Filter",
    "Hit",
    "Snapshot",
    "Vector",
    "record_feedback",
    "record_feedback_async",
    "search",
    "search_async",
    "search_rows",
    "search_rows_async",
    "search_statement",
    "select_nearest",
    "tune",
    "tune_async",
]
