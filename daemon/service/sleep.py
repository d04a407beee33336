"""Sleep: while nothing happens, the daemon makes no statement, so that a serverless database may suspend."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final, Protocol

from vectuned.config.settings import Settings

from . import storage
from .leader import Leader

log = logging.getLogger(__name__)

LONGEST_SLEEP: Final = 86_400.0  # seconds; retention periods are kept to the day
LONGEST_DEAF_SLEEP: Final = 300.0  # seconds, where searches cannot wake the daemon
CHECK_SECONDS: Final = 60.0  # of quiet after a wake-up by the clock alone: every job was due and has run
_FIRST_ABSENCE: Final = 10.0  # seconds until a sleeping daemon whose session ended connects again
_LONGEST_ABSENCE: Final = 900.0  # seconds; a database that suspends ends sessions and is not woken more often


class Jobs(Protocol):
    """The jobs, which can be paused."""

    def quiet_seconds(self) -> float:
        """Return the seconds since a job last found work or failed; 0 while one is running."""

    def note_work(self) -> None:
        """Count from now on, as if a job had found work."""

    def pause(self) -> None:
        """Start no job any more."""

    def resume(self) -> None:
        """Start jobs again, those that are due at once."""


class Sleep:
    """Decide when the daemon sleeps: after `schedule.idle_seconds` in which no job found anything to do.

    From half of that time on, recorded searches notify the daemon (armed), so that none is missed when it
    sleeps. `step` is to be called every few seconds. `clock` returns seconds and is monotonic.
    """

    def __init__(
        self, leader: Leader, jobs: Jobs, prefix: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.asleep = False
        self._leader = leader
        self._jobs = jobs
        self._prefix = prefix
        self._clock = clock
        self._armed = False
        self._can_be_woken = False
        self._wake_at = 0.0
        self._checking = False
        self._absences = 0

    def begin(self) -> None:
        """Start in a new lock session, awake."""
        session = self._leader.lock_session
        storage.listen_for_wakes(session)
        self._can_be_woken = storage.can_be_woken(session)
        # A daemon that was killed may have left searches notifying.
        storage.set_wake_wanted(session, wanted=False)
        self._armed = self.asleep = False

    def step(self, settings: Settings) -> None:
        """Fall asleep, wake, or do neither. Raises psycopg.OperationalError if the lock session is lost."""
        notified = self._leader.poll()
        if self.asleep:
            if notified or not settings.schedule.idle_seconds or self._clock() >= self._wake_at:
                self.wake(because=notified)
            return
        if notified:
            self._count_work()
        # A log, or a folder of documents, does not notify: it has to be looked at.
        watches_files = settings.observe.log or settings.export.import_folder
        idle = 0.0 if watches_files else settings.schedule.idle_seconds
        quiet = self._jobs.quiet_seconds()
        if self._checking:
            idle = min(idle, CHECK_SECONDS)
        if idle == 0 or quiet < idle / 2:
            if quiet == 0:
                self._absences = 0
            self._arm(False)
        else:
            self._arm(True)
            if quiet >= idle and not storage.has_pending_work(self._leader.lock_session):
                self._fall_asleep()

    def wake(self, *, because: bool = True) -> None:
        """Wake and let the jobs run; `because` is false where only the clock asks for it."""
        if not self.asleep:
            return
        self.asleep = False
        if because:
            self._count_work()
        else:
            self._checking = True
            self._jobs.note_work()
        self._arm(False)
        self._jobs.resume()
        log.info("%sawake%s", self._prefix, "" if because else ": a look at everything", extra=_ACTION)

    def absence(self) -> float:
        """Return the seconds to stay away from the database after its session ended during sleep, else 0.

        A database that suspends ends all sessions, and a new one would wake it. The time grows with each such
        end, until something happens.
        """
        if not self.asleep:
            return 0.0
        self._checking = True
        self._absences += 1
        return float(min(_FIRST_ABSENCE * 4 ** (self._absences - 1), _LONGEST_ABSENCE))

    def _count_work(self) -> None:
        self._checking, self._absences = False, 0
        self._jobs.note_work()

    def _arm(self, wanted: bool) -> None:
        if self._armed != wanted:
            storage.set_wake_wanted(self._leader.lock_session, wanted=wanted)
            self._armed = wanted

    def _fall_asleep(self) -> None:
        self._jobs.pause()
        if self._jobs.quiet_seconds() == 0:  # one has started meanwhile
            self._jobs.resume()
            return
        longest = LONGEST_SLEEP if self._can_be_woken else LONGEST_DEAF_SLEEP
        self.asleep, self._checking = True, False
        self._wake_at = self._clock() + longest
        log.info("%sasleep: nothing to do", self._prefix, extra=_ACTION)


_ACTION: Final = {"action": "sleep"}
