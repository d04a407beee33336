"""Which tuned columns a refresh has to look at: those whose table or catalog entries have changed since."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

# Of a table's rows. A fifth makes what was learned outdated (learning.drift_share): noticed in time.
_NOTABLE_SHARE: Final = 0.01
# Between two refreshes of a table without changes: for what the catalogs do not show, such as settings.
_LONGEST_SECONDS: Final = 3600.0


@dataclass(frozen=True)
class TableState:
    """What one statement reads of a tuned column's table.

    `digest` of the catalog entries of the table, its columns, indexes and statistics; `rows`, by the
    statistics; `changes`, rows inserted, updated and deleted since these were reset, as after a crash.
    """

    digest: str
    rows: float
    changes: int


class RefreshPlan:
    """Remember the state in which each column was refreshed. `clock` returns seconds and is monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._refreshed: dict[int, tuple[float, TableState]] = {}

    def is_due(self, column_id: int, state: TableState) -> bool:
        """Return whether a column has changed since its last refresh, or that was long ago."""
        at, before = self._refreshed.get(column_id, (0.0, None))
        return (
            before is None
            or self._clock() - at >= _LONGEST_SECONDS
            or state.digest != before.digest
            or abs(state.changes - before.changes) > _NOTABLE_SHARE * max(before.rows, 1.0)
        )

    def choose_due(self, states: dict[int, TableState]) -> dict[int, TableState]:
        """Return the present states, by column, of those that are due."""
        return {column: state for column, state in states.items() if self.is_due(column, state)}

    def record(self, column_id: int, state: TableState) -> None:
        """Remember that a column was refreshed when its table was in a state."""
        self._refreshed[column_id] = (self._clock(), state)
