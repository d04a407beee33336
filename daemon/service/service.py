"""The service: an engine for each database, until a signal says stop; what the service manager is told."""

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
from vectuned.daemon.logs import set_up_logging
from vectuned.daemon.reports.metrics import serve_metrics

from .engine import Engine
from .sd_notify import Notifier
from .settings_diff import compare

log = logging.getLogger(__name__)

Databases = Sequence[tuple[str, Settings]]
"""The databases to work on: a name, which may be empty where there is one alone, and its settings."""

_LOOK_SECONDS: Final = 1.0
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_LATE_SECONDS: Final = 10.0


class Service:
    """Work on some databases at a time; trouble with one does not stop the others.

    `reload` reads all settings again, and raises VectunedError where they are wrong. Handlers of signals only
    set a flag.
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
        self._said = ""
        self._stuck: str | None = None
        self._woken, self._waker = os.pipe()
        for end in (self._woken, self._waker):
            os.set_blocking(end, False)

    def run(self) -> None:
        """Work until SIGTERM or SIGINT, then finish cleanly. Call it from the main thread.

        Raises DatabaseUnavailableError or UsageError if none of the databases can be worked on at the start;
        those that cannot while others can are tried again.
        """
        with self._listening(), ExitStack() as servers:
            try:
                self._open(servers)
                self._serve_metrics(servers)
                self._notifier.ready()
                self._tell()
                for engine in self._engines:
                    engine.start()
                self._watch()
            except VectunedError as error:
                self._notifier.status(str(error))
                raise
            finally:
                self._notifier.stopping()
                self._end()

    def stop(self) -> None:
        """Have `run` finish; may be called from any thread and from a handler of signals."""
        self._stopping = True
        self._wake_up()

    @contextmanager
    def _listening(self) -> Iterator[None]:
        previous = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        if self._notifier.watchdog_seconds and not faulthandler.is_enabled():
            # The service manager ends who is stuck by SIGABRT; then the log is to say where that was.
            with suppress(OSError, ValueError):
                faulthandler.enable(sys.__stderr__ or 2)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            os.close(self._waker)
            os.close(self._woken)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._reloading = True
        else:
            self._stopping = True
        self._wake_up()

    def _wake_up(self) -> None:
        # No lock, as that of an Event: a handler may run while the main thread holds it.
        with suppress(OSError):
            os.write(self._waker, b"\0")

    def _open(self, servers: ExitStack) -> None:
        """Connect to every database once. Raises the first error if none can be worked on."""
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
        """Serve what Prometheus scrapes, where the settings say."""

        def source(engine: Engine) -> Callable[[], psycopg.Connection[Any]]:
            database = engine.settings.database
            return lambda: open_session(engine.conninfo, database)

        sources = {
            engine.name or str(conninfo_to_dict(engine.conninfo).get("dbname") or "default"): source(engine)
            for engine in self._engines
        }
        servers.enter_context(serve_metrics(self._engines[0].settings.metrics.listen, sources))

    def _watch(self) -> None:
        """Do what signals ask for, and tell the service manager, until it is time to stop."""
        watchdog = self._notifier.watchdog_seconds
        every = min(_LOOK_SECONDS, watchdog / 2) if watchdog else _LOOK_SECONDS
        while not self._stopping:
            self._tell()
            select.select([self._woken], [], [], every)
            with suppress(BlockingIOError):
                os.read(self._woken, 4096)
            if self._reloading and not self._stopping:
                self._reloading = False
                self._read_again()

    def _tell(self) -> None:
        """Say how things are, and that work goes on if it does."""
        status = "; ".join(
            f"{engine.name}: {engine.describe()}" if engine.name else engine.describe()
            for engine in self._engines
        )
        if status != self._said:
            self._said = status
            self._notifier.status(status)
        if self._notifier.watchdog_seconds is None:
            return
        stuck = next((each for engine in self._engines if (each := engine.pulse.stuck())), None)
        if stuck is None:
            self._stuck = None
            self._notifier.alive()
        elif self._stuck != stuck[0]:
            self._stuck = stuck[0]
            log.error(
                "%s has not moved for %.0f s: the service manager is no longer told that work goes on",
                *stuck,
                extra={"action": "watchdog"},
            )

    def _read_again(self) -> None:
        """Swap the settings for those that are read again; if they are wrong the old ones stay."""
        self._notifier.reloading()
        try:
            fresh = dict(self._reload())
            self._swap(fresh)
        except VectunedError as error:
            log.error("the settings were not read again, the old ones stay: %s", error, extra=_RELOAD)
        except Exception:  # a fault of ours must not end the work
            log.exception("the settings were not read again, the old ones stay", extra=_RELOAD)
        finally:
            self._notifier.ready()

    def _swap(self, fresh: dict[str, Settings]) -> None:
        found = {
            engine.name: compare(engine.settings, fresh[engine.name])
            for engine in self._engines
            if engine.name in fresh
        }
        for engine in self._engines:
            if (changes := found.get(engine.name)) is None:
                log.warning("%s is gone from the settings: that needs a restart", engine.name, extra=_RELOAD)
                continue
            before = f"{engine.name}: " if engine.name else ""
            now = ", ".join(changes.now) or "nothing"
            log.info("%ssettings read again, changed: %s", before, now, extra=_RELOAD)
            if changes.later:
                log.warning(
                    "%snot changed until a restart: %s", before, ", ".join(changes.later), extra=_RELOAD
                )
            engine.adopt(changes.settings)
        for name in fresh.keys() - found.keys():
            log.warning("%s is new in the settings: that needs a restart", name, extra=_RELOAD)
        if found:
            set_up_logging(next(iter(found.values())).settings.logging, verbose=True)

    def _end(self) -> None:
        for engine in self._engines:
            engine.stop()
        began = time.monotonic()
        for engine in self._engines:
            while not engine.join(1.0):
                if time.monotonic() - began > _LATE_SECONDS:
                    began = time.monotonic()
                    log.warning("still waiting for work that cannot be interrupted", extra={"action": "stop"})
        log.info("stopped", extra={"action": "stop"})


_RELOAD: Final = {"action": "reload"}
