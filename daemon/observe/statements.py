"""The statements that a log tells of, put together from its messages."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from .messages import OTHER, may_be_cut, read_message, read_parameters
from .records import LogRecord, RecordReader

_MOST_OPEN: Final = 1_000  # sessions whose last statement waits for its duration


@dataclass(frozen=True, slots=True)
class LoggedStatement:
    """A statement as it was logged: its text, its values where they were logged, and its circumstances.

    `values` are the texts of $1, $2 ..., None for NULL; None altogether if they were not logged or are not
    readable. `is_cut` if a value ends in three dots, as those that log_parameter_max_length cut do.
    `duration_ms`, `database`, `user` and `time` are None where the log does not say, and so is `search_path`,
    which only vectuned.client records.
    """

    text: str
    values: tuple[str | None, ...] | None = None
    duration_ms: float | None = None
    database: str | None = None
    user: str | None = None
    time: datetime | None = None
    is_cut: bool = False
    search_path: str | None = None


class StatementReader:
    """Reads the statements of a log piece by piece, in the format of `records`.

    With log_duration the duration follows in a message of its own: the last statement of each session waits
    for it, until that session's next statement or `flush`.
    """

    def __init__(self, records: RecordReader) -> None:
        self.records = records
        self._open: OrderedDict[str | None, LoggedStatement] = OrderedDict()

    def feed(self, data: bytes) -> Iterator[LoggedStatement]:
        """Yield the statements that are complete with some more bytes, of any length."""
        for record in self.records.feed(data):
            yield from self._add(record)

    def finish(self) -> Iterator[LoggedStatement]:
        """Yield what is complete if nothing more is there for now; a reader may be fed again afterwards."""
        for record in self.records.finish():
            yield from self._add(record)
        yield from self.flush()

    def flush(self) -> Iterator[LoggedStatement]:
        """Yield the statements that wait for their durations, so that only bytes of the log are held."""
        waiting = list(self._open.values())
        self._open.clear()
        yield from waiting

    def _add(self, record: LogRecord) -> Iterator[LoggedStatement]:
        message = read_message(record.message)
        if message is OTHER:
            return
        waiting = self._open.pop(record.session, None)
        if message.kind == "duration":
            if waiting is not None:
                yield replace(waiting, duration_ms=message.duration_ms)
            return
        if waiting is not None:
            yield waiting
        values = read_parameters(record.detail) if record.detail else None
        statement = LoggedStatement(
            message.text,
            None if values is None else tuple(values),
            message.duration_ms,
            record.database,
            record.user,
            record.time,
            values is not None and may_be_cut(values),
        )
        if statement.duration_ms is not None:
            yield statement
            return
        self._open[record.session] = statement
        if len(self._open) > _MOST_OPEN:
            yield self._open.popitem(last=False)[1]
