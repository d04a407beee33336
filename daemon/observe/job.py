"""The daemon's job that observes applications: their statements in a log, and those of vectuned.client."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import psycopg

from vectuned.config.errors import VectunedError
from vectuned.config.sections import ObserveSettings

from .formats import LogSettings
from .observer import Observer
from .server_settings import ServerLogging
from .sources import LogFile, server_files
from .storage import read_database, read_positions, take_statements
from .watching import LogWatch, open_files

log = logging.getLogger(__name__)

SERVER: Final = "server"  # as observe.log: the server's own log, read through the connection
_BATCH: Final = 200  # statements of the client taken in one transaction
_LONGEST_RUN: Final = 20.0  # seconds of one run, so that a log of years does not keep the job from ending


class ObserveJob:
    """Observes over one autocommit connection of its own. `check_halt` raises when all work has to end.

    What a run stores, and how far it has read, is one transaction: no call is stored twice, and none is lost
    while its file is there, however a run ends.
    """

    def __init__(
        self,
        conn: psycopg.Connection[Any],
        settings: ObserveSettings,
        check_halt: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.conn, self.settings = conn, settings
        self._check_halt, self._clock = check_halt, clock
        self._of_client = Observer(conn, read_database(conn), source="client")
        self._watch: LogWatch | None = None
        self._of_log: Observer | None = None
        self._warned = ""

    def run(self) -> int:
        """Observe what is new; return how many statements that were.

        Raises VectunedError where the log cannot be read; the statements of the client are taken even then.
        """
        return self.take_statements() + (self.read_log() if self.settings.log else 0)

    def take_statements(self) -> int:
        """Take the statements that vectuned.client recorded; return how many."""
        total = 0
        self._of_client.refresh()
        while True:
            self._check_halt()
            with self.conn.transaction():
                statements, redacted = take_statements(self.conn, _BATCH)
                self._of_client.add(statements)
            self._of_client.count_redacted(redacted)
            taken = len(statements) + redacted
            total += taken
            if taken < _BATCH:
                self._of_client.save_counts()
                return total

    def read_log(self) -> int:
        """Read what the log holds beyond what was read before; return the number of statements."""
        deadline = self._clock() + _LONGEST_RUN

        def may_go_on() -> bool:
            self._check_halt()
            return self._clock() < deadline

        try:
            observer, watch = self._open()
            observer.refresh()
            count = watch.read(is_final=False, may_go_on=may_go_on)
            observer.save_counts(watch.damaged)
        except BaseException as error:
            # What was read may not be stored: go on from the stored position.
            self.close()
            if isinstance(error, psycopg.errors.InsufficientPrivilege | OSError):
                raise VectunedError(_explain(error)) from error
            raise
        return count

    def close(self) -> None:
        """Close the files."""
        if self._watch is not None:
            self._watch.close()
        self._watch = self._of_log = None

    def _open(self) -> tuple[Observer, LogWatch]:
        if self._of_log is not None and self._watch is not None:
            return self._of_log, self._watch
        logging_settings = ServerLogging.read(self.conn)
        self._warn(logging_settings)
        self._of_log = Observer(self.conn, read_database(self.conn))
        settings = logging_settings.format
        if self.settings.prefix:
            settings = LogSettings(self.settings.prefix, settings.zone)
        self._watch = LogWatch(self._of_log, self._files, settings, read_positions(self.conn))
        return self._of_log, self._watch

    def _files(self) -> list[LogFile]:
        if self.settings.log == SERVER:
            return list(server_files(self.conn))
        path = Path(self.settings.log).expanduser()
        if not path.exists():
            raise VectunedError(f"The log {path} to observe does not exist: see the setting observe.log.")
        return open_files([path])

    def _warn(self, logging_settings: ServerLogging) -> None:
        """Say once which settings of the server are missing."""
        missing = ", ".join(f"{name} = {value}" for name, value in logging_settings.missing().items())
        if missing and missing != self._warned:
            log.warning(
                "the server's log lacks what is to be observed: it takes %s",
                missing,
                extra={"action": "observe"},
            )
        self._warned = missing


def _explain(error: psycopg.errors.InsufficientPrivilege | OSError) -> str:
    if isinstance(error, OSError):
        return f"The log {error.filename} cannot be read: {error.strerror}; see the setting observe.log."
    return (
        f"The server's log cannot be read through the connection ({error.diag.message_primary}): GRANT "
        "pg_monitor to this role, and EXECUTE on pg_read_binary_file(text, bigint, bigint, boolean) and "
        "pg_stat_file(text, boolean)."
    )
