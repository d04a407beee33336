"""Logging to stderr as text, for journald, or as JSON; every record has an `action` and a `run`.

The action is the record's own (`extra={"action": ...}`), else the name of the running job, else that of the
module. The run is an id shared by all records of one run of a job.
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

# Syslog's numbers; journald reads the priority of a line from the <N> in front of it.
_PRIORITIES: Final = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}
_MAX_LINE: Final = 16_384  # characters; longer lines are cut, since journald splits lines above 48 KB


@contextmanager
def log_context(job: str = "") -> Iterator[str]:
    """Give this thread's records within the block a new run id, which is yielded, and the job's name."""
    run = secrets.token_hex(4)
    token = _run.set((run, job))
    try:
        yield run
    finally:
        _run.reset(token)


def set_up_logging(settings: LoggingSettings, *, verbose: bool) -> None:
    """Log to stderr as the settings say; without `verbose`, as for most commands, log only warnings."""
    handler = logging.StreamHandler(sys.stderr)
    form = settings.format
    if form == "auto":
        form = "journald" if goes_to_journal(sys.stderr, os.environ) else "text"
    handler.setFormatter({"text": _Text, "journald": _Journald, "json": _Json}[form]())
    handler.addFilter(_identify)
    for name, level in (
        ("vectuned", settings.level if verbose else "WARNING"),
        # APScheduler warns when a job is due while it still waits for its turn; that is normal here.
        ("apscheduler", "ERROR"),
    ):
        log = logging.getLogger(name)
        log.handlers[:] = [handler]
        log.propagate = False
        log.setLevel(level)


def goes_to_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Return whether a stream is the one that systemd connected to the journal, by device and inode."""
    try:
        info = os.fstat(stream.fileno())
    except (OSError, ValueError):  # closed, or not a file
        return False
    return environ.get("JOURNAL_STREAM") == f"{info.st_dev}:{info.st_ino}"


def _identify(record: logging.LogRecord) -> bool:
    """Set the `run` (None outside of a run) and `action` of a record; a filter that passes every record."""
    run, job = _run.get() or (None, "")
    # A request from outside brings the id that its answer carries, too.
    record.run = getattr(record, "correlation_id", None) or run
    if getattr(record, "action", None) is None:
        record.action = job or record.name.rpartition(".")[2]
    return True


class _Lines(logging.Formatter):
    """One line per record; further lines of a message or traceback begin with a tab."""

    def format(self, record: logging.LogRecord) -> str:
        record.run = vars(record)["run"] or "-"
        first, *rest = super().format(record).split("\n")
        # Text from outside, such as a table's name, must neither forge a line nor control a terminal.
        return "\n".join([printable(first, _MAX_LINE), *(f"\t{printable(line, _MAX_LINE)}" for line in rest)])


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
