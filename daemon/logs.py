"""Logging to stderr: lines for a terminal or journald, or JSON; each record may carry an `action`."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from vectuned.config.settings import LoggingSettings


class _Text(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(action)s: %(message)s", "%Y-%m-%d %H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        if not hasattr(record, "action"):
            record.action = record.name
        text = super().format(record)
        if not hasattr(record, "correlation_id"):
            return text
        # Behind the message, before the stack.
        first, *rest = text.split("\n")
        return "\n".join((f"{first} [correlation id {record.correlation_id}]", *rest))


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "action": getattr(record, "action", None),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if hasattr(record, "correlation_id"):
            entry["correlation_id"] = record.correlation_id
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def set_up_logging(settings: LoggingSettings, *, verbose: bool) -> None:
    """Log to stderr as the settings say; commands other than the service log only warnings unless verbose."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if settings.format == "json" else _Text())
    logger = logging.getLogger("vectuned")
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(settings.level if verbose else logging.WARNING)
    # A job that is still waiting for its turn when its next time comes is no news.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
