"""Passes over a table that give way to other sessions, again and again before anything was replayed."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Final

from vectuned.config.errors import VectunedError
from vectuned.learning.model.column import VectorColumn

log = logging.getLogger(__name__)

# Passes in a row. The last one counts as a failure of the column: it is shown, and the pause after it grows
# with its time, so that passes that begin again take a tenth of the time at most.
_MOST: Final = 3


class GivingWay:
    """Count, for each column, the passes in a row that replayed nothing because they gave way."""

    def __init__(self) -> None:
        self._passes: Counter[int] = Counter()

    def record(self, column: VectorColumn, replayed: int, searches: int) -> None:
        """Note that a pass over `searches` replayed so many; fewer mean that it gave way.

        Raises VectunedError at the third pass in a row that gave way before anything was replayed.
        """
        if replayed < searches:
            log.info(
                "replaying %s gave way after %d of %d searches to a session that waits for a lock",
                column,
                replayed,
                searches,
                extra={"action": "gave_way"},
            )
        self._passes[column.id] = 0 if replayed or not searches else self._passes[column.id] + 1
        if self._passes[column.id] >= _MOST:
            raise VectunedError(
                f"Replaying gave way {self._passes[column.id]} times in a row to sessions that wait for a "
                "lock on the table, each time before anything was replayed: lock the table less often, or "
                "replay on a standby (database.replay_dsn)."
            )
