"""Jobs on every column: each column by itself, with its failures on record in vectuned.column_failure."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

import psycopg

from vectuned.daemon.database.isolation import Failure, attempt
from vectuned.learning.model.tuned_columns import TunedColumn

from . import storage

log = logging.getLogger(__name__)

T = TypeVar("T")

# Times the duration of a failed attempt until the next one: a column that fails after a long wait, for
# example for a lock, leaves most of the time to the others, and one that fails at once is tried each time.
_PAUSE_FACTOR: Final = 10.0
_LONGEST_PAUSE: Final = 300.0  # seconds; also the longest until a repaired fault is noticed


class ColumnJobs:
    """Run jobs on columns through one connection; an error concerns the column alone and is recorded.

    `check_halt` raises Halt when all work has to end. `clock` returns seconds and is monotonic.
    """

    def __init__(
        self,
        conn: storage.Connection,
        check_halt: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._conn = conn
        self._check_halt = check_halt
        self._clock = clock
        self._due_at: dict[tuple[str, int], float] = {}

    def run_each(
        self, job: str, columns: Iterable[TunedColumn], work: Callable[[TunedColumn], T]
    ) -> Iterator[tuple[TunedColumn, T]]:
        """Run a job on each column that is due; yield the columns on which it succeeded, and its results."""
        failing = storage.read_column_failures(self._conn, job)
        for tuned in columns:
            if self._clock() < self._due_at.get((job, tuned.column.id), 0.0):
                continue
            result = self._run(job, tuned, work, failing.get(tuned.column.id))
            if not isinstance(result, Failure):
                yield tuned, result

    def run(self, job: str, tuned: TunedColumn, work: Callable[[TunedColumn], T]) -> T | Failure:
        """Run a job on one column, whether it is due or not; return its result or its failure."""
        return self._run(job, tuned, work, storage.read_column_failures(self._conn, job).get(tuned.column.id))

    def _run(
        self, job: str, tuned: TunedColumn, work: Callable[[TunedColumn], T], former: str | None
    ) -> T | Failure:
        """Run a job on one column; `former` is the error of the last run, None if that succeeded."""
        self._check_halt()
        started = self._clock()
        result = attempt(self._conn, lambda: work(tuned))
        if isinstance(result, Failure):
            self._check_halt()  # the end of all work cancels statements
            if not result.is_passing:
                pause = min(_PAUSE_FACTOR * (self._clock() - started), _LONGEST_PAUSE)
                self._due_at[job, tuned.column.id] = self._clock() + pause
            self._record(job, tuned, result, former)
        else:
            self._due_at.pop((job, tuned.column.id), None)
            if former is not None:
                log.info("%s of %s works again", job, tuned.column, extra={"action": job})
                storage.delete_column_failure(self._conn, tuned, job)
        return result

    def _record(self, job: str, tuned: TunedColumn, failure: Failure, former: str | None) -> None:
        """Log a failure that is new, and record it in any case."""
        log.log(
            logging.DEBUG if failure.reason == former else logging.WARNING,
            "%s is skipped: %s",
            tuned.column,
            failure.reason,
            exc_info=failure.error if failure.is_bug else None,
            extra={"action": "skip"},
        )
        try:
            storage.write_column_failure(self._conn, tuned, job, failure.reason)
        except psycopg.Error as error:  # for example because the column is being forgotten
            if self._conn.closed:
                raise
            log.debug("the failure of %s was not recorded: %s", tuned.column, error, extra={"action": "skip"})
