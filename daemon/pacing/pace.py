"""When work may continue: within the budgets, and while the server is not busy with other sessions."""

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
from .budget import Budget
from .pass_size import PassSize
from .recording import RecordingLimit

_LOOK_SECONDS: Final = 5.0  # between two looks at pg_stat_activity
_CORE_BURST: Final = 10.0  # seconds whose share of a core may be saved up
_READ_BURST: Final = 600.0  # seconds whose bytes may be saved up: passes of a small table need not wait
_MB: Final = 1024 * 1024  # bytes
_HOUR: Final = 3600.0  # seconds
_UNLIMITED: Final = 2.0**60  # bytes a second; infinity times no time is not a number
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
        self.budget = Budget(settings.core_share, _CORE_BURST, clock=clock)
        self.reading = Budget(_read_rate(settings), _READ_BURST, clock=clock)
        self.sizes: defaultdict[int, PassSize] = defaultdict(PassSize)
        self.backlogs: defaultdict[int, Backlog] = defaultdict(lambda: Backlog(clock))
        self.recording: defaultdict[int, RecordingLimit] = defaultdict(lambda: RecordingLimit(clock))
        self.replayed: defaultdict[int, int] = defaultdict(int)
        self.busy = False

    @property
    def read_bound(self) -> bool:
        """Whether replaying waits for bytes rather than for processor time."""
        return self.reading.wait_seconds() > self.budget.wait_seconds()

    def adapt(self, settings: BudgetSettings) -> None:
        """Use another budget from now on; pass sizes and backlogs stay."""
        self._settings = settings
        self.budget.adapt(settings.core_share)
        self.reading.adapt(_read_rate(settings))

    def wait_for_budget(self) -> None:
        """Wait until the budget of processor time allows work."""
        while (seconds := self.budget.wait_seconds()) > 0:
            self._idle(seconds)

    def wait_for_server(self, conn: psycopg.Connection[Any]) -> bool:
        """Wait for the budgets, then for the server of `conn`.

        Returns False if it stays busy for a minute, or if no bytes may be read for longer: other work goes on
        meanwhile.
        """
        self.wait_for_budget()
        if not self._may_read():
            return False
        limit = self._settings.pause_above
        self.busy = limit > 0
        for look in range(_LOOKS if self.busy else 0):
            if fetch_value(conn, "count_active_statements") <= limit:
                self.busy = False
                break
            if look < _LOOKS - 1:
                self._idle(_LOOK_SECONDS)
        return not self.busy

    def _may_read(self) -> bool:
        """Wait until the budget of bytes allows to read a table, at most a minute; return whether it does."""
        seconds = self.reading.wait_seconds()
        if 0 < seconds <= _LOOKS * _LOOK_SECONDS:
            self._idle(seconds)
        return self.reading.wait_seconds() == 0

    @contextmanager
    def work(self) -> Iterator[WorkTimer]:
        """Charge the block to the budgets, also where it fails."""
        timer = WorkTimer()
        try:
            with timer.work():
                yield timer
        finally:
            self.budget.spend(timer.core_seconds)
            self.reading.spend(timer.bytes_read)


def _read_rate(settings: BudgetSettings) -> float:
    """Return the bytes that may be read in a second."""
    return settings.mb_per_hour * _MB / _HOUR if settings.mb_per_hour else _UNLIMITED
