"""Retention: delete what is older than the retention period, and keep partitions for the coming days."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from vectuned.config.settings import Settings
from vectuned.learning.model.tuned_columns import TunedColumn

from . import storage

_LOCK_TIMEOUT_MS: Final = 1000  # while partitioning waits for its lock, feedback of searches waits behind it


def apply_retention(conn: storage.Connection, settings: Settings, columns: Iterable[TunedColumn]) -> None:
    """Create the partitions of the coming days and delete all that is past its retention period.

    Replays beyond the window of their column are deleted only where learning is off, since learning deletes
    them itself. Partitions come last: creating and dropping them blocks the feedback of searches, so it gives
    up if another session holds the tables for long.
    """
    days = settings.schedule.retention_days
    storage.delete_old_records(conn, days)
    for tuned in columns if not settings.learning.enabled else ():
        if tuned.indexes:  # with none left, all replays would be deleted
            storage.trim_replays(conn, tuned)
    storage.maintain_partitions(conn, days, _LOCK_TIMEOUT_MS)
