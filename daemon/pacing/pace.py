"""When work may go on: within the budget, and not while the server is busy with others."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg

from vectuned.config.sections import BudgetSettings
from vectuned.learning.replay.work_timer import WorkTimer
from vectuned.sql.files import queries

from .backlog import Backlog
from .budget import Budget, PassSize

_LOOK_SECONDS: Final = 5.0
_LOOKS: Final = 12


class Stopped(Exception):  # noqa: N818 - not an error: the way out of a job when the service stops
    """The service is stopping."""


class Pace:
    """Keep work within the budget of the settings, and know how each column's work goes, by its id.

    `idle` waits for that many seconds, and raises Stopped to end the work instead; no transaction is open
    then. `clock` gives seconds and never goes back.
    """

    def __init__(
        self,
        settings: BudgetSettings,
        idle: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._idle = idle
        self.budget = Budget(settings.core_share, clock=clock)
        self.sizes: defaultdict[int, PassSize] = defaultdict(PassSize)
        self.backlogs: defaultdict[int, Backlog] = defaultdict(lambda: Backlog(clock))
        self.replayed: defaultdict[int, int] = defaultdict(int)
        self.busy = False

    def adapt(self, settings: BudgetSettings) -> None:
        """Go on with another budget; what was learned of the work stays."""
        self._settings = settings
        self.budget.adapt(settings.core_share)

    def wait(self) -> None:
        """Wait until the budget has something left."""
        while (seconds := self.budget.wait_seconds()) > 0:
            self._idle(seconds)

    def wait_for(self, conn: psycopg.Connection[Any]) -> bool:
        """Wait for the budget and for the server of `conn`; False if that is busy for a minute on end."""
        self.wait()
        self.busy = self._settings.pause_above > 0
        for look in range(_LOOKS if self.busy else 0):
            row = conn.execute(queries()["others_active"]).fetchone()
            if row is None or row[0] <= self._settings.pause_above:
                self.busy = False
                break
            if look < _LOOKS - 1:
                self._idle(_LOOK_SECONDS)
        return not self.busy

    @contextmanager
    def work(self) -> Iterator[WorkTimer]:
        """Take what the block does from the budget, also where it fails."""
        spent = WorkTimer()
        try:
            with spent.work():
                yield spent
        finally:
            self.budget.spend(spent.core_seconds)
