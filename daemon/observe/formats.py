"""Which format a log has, by its first line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, tzinfo
from typing import Final, Literal

from .csv_log import CsvReader
from .json_log import JsonReader
from .records import RecordReader
from .stderr_log import StderrReader

Format = Literal["stderr", "csvlog", "jsonlog"]

_CSV: Final = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} [^,\"]{1,10},")


@dataclass(frozen=True)
class LogSettings:
    """What the server says of its logs: log_line_prefix, None if unknown, and the zone of its times."""

    prefix: str | None = None
    zone: tzinfo = UTC


def find_format(start: bytes) -> Format:
    """Return the format of a log that starts with these bytes."""
    line = start.lstrip()
    if line.startswith(b"{"):
        return "jsonlog"
    return "csvlog" if any(_CSV.match(part) for part in start.split(b"\n")[:3]) else "stderr"


def open_reader(log_format: Format, settings: LogSettings) -> RecordReader:
    """Return a reader of records in a format."""
    if log_format == "jsonlog":
        return JsonReader(settings.zone)
    return (
        CsvReader(settings.zone) if log_format == "csvlog" else StderrReader(settings.prefix, settings.zone)
    )
