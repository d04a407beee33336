"""Logging to stderr: lines for people or for journald, or JSON; every record has an `action` and a `run`.

The action is the record's own (`extra={"action": ...}`), else the job's that runs, else the module's name.
The run is the same for all that one run of a job says.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Final, TextIO

from vectuned.config.errors import printable
from vectuned.config.sections import LoggingSettings

_run: ContextVar[tuple[str, str] | None] = ContextVar("run", default=None)

# As syslog numbers them; journald takes a line's number from the <N> before it.
_PRIORITIES: Final = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}
_LONGEST: Final = 16_384


@contextmanager
def correlated(job: str = "") -> Iterator[str]:
    """Give all that is logged within, in this thread, one new id, which is yielded, and the job's name."""
    run = secrets.token_hex(4)
    token = _run.set((run, job))
    try:
        yield run
    finally:
        _run.reset(token)


def set_up_logging(settings: LoggingSettings, *, verbose: bool) -> None:
    """Log to stderr as the settings say; commands other than the service log only warnings unless verbose."""
    handler = logging.StreamHandler(sys.stderr)
    chosen = settings.format
    if chosen == "auto":
        chosen = "journald" if goes_to_journal(sys.stderr, os.environ) else "text"
    handler.setFormatter({"text": _Text, "journald": _Journald, "json": _Json}[chosen]())
    handler.addFilter(_identify)
    for name, level in (
        ("vectuned", settings.level if verbose else "WARNING"),
        # A job that is still waiting for its turn when its next time comes is no news.
        ("apscheduler", "ERROR"),
    ):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
        logger.setLevel(level)


def goes_to_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Say whether a stream is the one that systemd connected to the journal, by device and inode."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):  # closed, or no file at all
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def _identify(record: logging.LogRecord) -> bool:
    """Give a record the `run` (None without) and the `action` that each format shows."""
    run, job = _run.get() or (None, "")
    # What was asked for from outside has an id that its answer tells, too.
    record.run = getattr(record, "correlation_id", None) or run
    if getattr(record, "action", None) is None:
        record.action = job or record.name.rpartition(".")[2]
    return True


class _Lines(logging.Formatter):
    """A line for each record, and for each line more that a message or a traceback has, after a tab."""

    def format(self, record: logging.LogRecord) -> str:
        record.run = vars(record)["run"] or "-"
        first, *more = super().format(record).split("\n")
        # What others wrote, say a table's name, must not pass for a line of ours or steer a terminal.
        return "\n".join([printable(first, _LONGEST), *(f"\t{printable(line, _LONGEST)}" for line in more)])


class _Text(_Lines):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(run)s %(action)s: %(message)s", "%Y-%m-%d %H:%M:%S")


class _Journald(_Lines):
    def __init__(self) -> None:
        super().__init__("%(run)s %(action)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_PRIORITIES.get(record.levelname, 6)}>"
        return "\n".join(prefix + line for line in super().format(record).split("\n"))


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "run": vars(record)["run"],
            "action": vars(record)["action"],
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)
