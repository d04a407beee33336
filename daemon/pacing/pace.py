"""When work may continue: within the CPU budget, and while the server is not busy with other sessions."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg

from vectuned.config.sections import BudgetSettings
from vectuned.learning.replay.work_timer import WorkTimer
from vectuned.sql.rows import fetch_value

from .backlog import Backlog
from .cpu_budget import CpuBudget
from .pass_size import PassSize
from .recording import RecordingLimit

_LOOK_SECONDS: Final = 5.0  # between two looks at pg_stat_activity
_LOOKS: Final = 12  # looks before giving up: about a minute


class Halt(Exception):  # noqa: N818 - not an error: it unwinds a job
    """The work has to end: the service stops, or no longer leads."""


class Pace:
    """Keep work within the budget of the settings, and hold the pass size and backlog of each column by id.

    `idle` waits for a number of seconds and raises Halt to end the work; no transaction is open while it
    waits. `clock` returns seconds and is monotonic.
    """

    def __init__(
        self,
        settings: BudgetSettings,
        idle: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._idle = idle
        self.budget = CpuBudget(settings.core_share, clock=clock)
        self.sizes: defaultdict[int, PassSize] = defaultdict(PassSize)
        self.backlogs: defaultdict[int, Backlog] = defaultdict(lambda: Backlog(clock))
        self.recording: defaultdict[int, RecordingLimit] = defaultdict(lambda: RecordingLimit(clock))
        self.replayed: defaultdict[int, int] = defaultdict(int)
        self.busy = False

    def adapt(self, settings: BudgetSettings) -> None:
        """Use another budget from now on; pass sizes and backlogs stay."""
        self._settings = settings
        self.budget.adapt(settings.core_share)

    def wait_for_budget(self) -> None:
        """Wait until the budget allows work."""
        while (seconds := self.budget.wait_seconds()) > 0:
            self._idle(seconds)

    def wait_for_server(self, conn: psycopg.Connection[Any]) -> bool:
        """Wait for the budget, then for the server of `conn`; return False if it stays busy for a minute."""
        self.wait_for_budget()
        limit = self._settings.pause_above
        self.busy = limit > 0
        for look in range(_LOOKS if self.busy else 0):
            if fetch_value(conn, "count_active_statements") <= limit:
                self.busy = False
                break
            if look < _LOOKS - 1:
                self._idle(_LOOK_SECONDS)
        return not self.busy

    @contextmanager
    def work(self) -> Iterator[WorkTimer]:
        """Charge the block to the budget, also where it fails."""
        timer = WorkTimer()
        try:
            with timer.work():
                yield timer
        finally:
            self.budget.spend(timer.core_seconds)
