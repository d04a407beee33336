"""The service process: an engine for each database, signals, and notifications of the service manager."""

from __future__ import annotations

import faulthandler
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from vectuned.config.errors import VectunedError
from vectuned.config.settings import Settings
from vectuned.daemon.database.choice import choose_database, open_database
from vectuned.daemon.database.session import open_session
from vectuned.daemon.reports.web import serve_metrics

from .engine import Engine
from .reload import apply_settings
from .systemd import Notifier

log = logging.getLogger(__name__)

Databases = Sequence[tuple[str, Settings]]
"""The databases to work on: a name, which may be empty if there is only one, and its settings."""

_LOOK_SECONDS: Final = 1.0  # between two looks at the engines
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_LATE_SECONDS: Final = 10.0  # between two log lines while work does not end
_JOIN_SECONDS: Final = 1.0  # to wait for an engine before looking at the time again
_PIPE_BYTES: Final = 4096  # read at once; each signal writes one byte


class Service:
    """Work on several databases at a time; a problem with one does not stop the others.

    `reload` reads all settings again, and raises VectunedError if they are invalid. Signal handlers only set
    flags, on which the main loop acts.
    """

    def __init__(
        self, databases: Databases, reload: Callable[[], Databases], notifier: Notifier | None = None
    ) -> None:
        self._databases = databases
        self._reload = reload
        self._notifier = notifier or Notifier()
        self._engines: list[Engine] = []
        self._stopping = False
        self._reloading = False
        self._last_status = ""
        self._stuck_work: str | None = None
        self._wake_reader, self._wake_writer = os.pipe()
        for end in (self._wake_reader, self._wake_writer):
            os.set_blocking(end, False)

    def run(self) -> None:
        """Work until SIGTERM or SIGINT, then finish cleanly. Call it from the main thread.

        Raises DatabaseUnavailableError or UsageError if no database is usable at the start; if only some are
        not, these are retried.
        """
        with self._handling_signals(), ExitStack() as servers:
            try:
                self._open(servers)
                self._serve_metrics(servers)
                self._notifier.ready()
                self._report()
                for engine in self._engines:
                    engine.start()
                self._loop()
            except VectunedError as error:
                self._notifier.status(str(error))
                raise
            finally:
                self._notifier.stopping()
                self._end()

    def stop(self) -> None:
        """Make `run` finish; may be called from any thread and from a signal handler."""
        self._stopping = True
        self._wake_up()

    @contextmanager
    def _handling_signals(self) -> Iterator[None]:
        previous = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        if self._notifier.watchdog_seconds and not faulthandler.is_enabled():
            # The service manager ends a stuck service by SIGABRT; the log then shows where it was stuck.
            with suppress(OSError, ValueError):
                faulthandler.enable(sys.__stderr__ or 2)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            os.close(self._wake_writer)
            os.close(self._wake_reader)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._reloading = True
        else:
            self._stopping = True
        self._wake_up()

    def _wake_up(self) -> None:
        # Not an Event: its lock may be held by the main thread while a signal handler runs there.
        with suppress(OSError):
            os.write(self._wake_writer, b"\0")

    def _open(self, servers: ExitStack) -> None:
        """Connect to every database once. Raises the first error if none is usable."""
        errors = []
        for name, settings in self._databases:
            choice = choose_database(settings.database.dsn, os.environ)
            home = Path(settings.embedded.home).expanduser() if settings.embedded.home else None
            conninfo = servers.enter_context(open_database(choice, home))
            engine = Engine(name, conninfo, settings)
            self._engines.append(engine)
            try:
                engine.connect()
            except VectunedError as error:
                errors.append(error)
                if len(self._databases) > 1:
                    log.warning("%s: %s", name, error, extra={"action": "connect"})
        if len(errors) == len(self._engines):
            raise errors[0]

    def _serve_metrics(self, servers: ExitStack) -> None:
        """Serve metrics for Prometheus, and the report, if the settings give an address."""

        def source(engine: Engine) -> Callable[[], psycopg.Connection[Any]]:
            database = engine.settings.database
            return lambda: open_session(engine.conninfo, database)

        sources = {
            engine.name or str(conninfo_to_dict(engine.conninfo).get("dbname") or "default"): source(engine)
            for engine in self._engines
        }
        metrics = self._engines[0].settings.metrics
        servers.enter_context(serve_metrics(metrics.listen, sources, report=metrics.report))

    def _loop(self) -> None:
        """Act on signals and report to the service manager, until it is time to stop."""
        watchdog = self._notifier.watchdog_seconds
        every = min(_LOOK_SECONDS, watchdog / 2) if watchdog else _LOOK_SECONDS
        while not self._stopping:
            self._report()
            select.select([self._wake_reader], [], [], every)
            with suppress(BlockingIOError):
                os.read(self._wake_reader, _PIPE_BYTES)
            if self._reloading and not self._stopping:
                self._reloading = False
                self._reload_settings()

    def _report(self) -> None:
        """Report the status, and to the watchdog that no work is stuck."""
        status = "; ".join(
            f"{engine.name}: {engine.describe()}" if engine.name else engine.describe()
            for engine in self._engines
        )
        if status != self._last_status:
            self._last_status = status
            self._notifier.status(status)
        if self._notifier.watchdog_seconds is None:
            return
        stuck = next((each for engine in self._engines if (each := engine.watchdog.find_stuck())), None)
        if stuck is None:
            self._stuck_work = None
            self._notifier.alive()
        elif self._stuck_work != stuck[0]:
            self._stuck_work = stuck[0]
            log.error(
                "%s has made no progress for %.0f s: the service manager gets no watchdog notifications",
                *stuck,
                extra={"action": "watchdog"},
            )

    def _reload_settings(self) -> None:
        """Read the settings again and apply them; if they are invalid, the old ones stay in force."""
        self._notifier.reloading()
        try:
            apply_settings(self._engines, dict(self._reload()))
        except VectunedError as error:
            log.error(
                "the new settings are invalid, the old ones stay in force: %s",
                error,
                extra={"action": "reload"},
            )
        except Exception:  # a bug must not end the service
            log.exception(
                "reading the settings failed, the old ones stay in force", extra={"action": "reload"}
            )
        finally:
            self._notifier.ready()

    def _end(self) -> None:
        for engine in self._engines:
            engine.stop()
        reported_at = time.monotonic()
        for engine in self._engines:
            while not engine.join(_JOIN_SECONDS):
                if time.monotonic() - reported_at > _LATE_SECONDS:
                    reported_at = time.monotonic()
                    log.warning("still waiting for work that cannot be cancelled", extra={"action": "stop"})
        log.info("stopped", extra={"action": "stop"})
