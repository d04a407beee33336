"""A sample of the application's own statements, kept in memory until a thread sends it to the database.

Imports only the standard library. The application's thread copies references; everything that takes time, the
values as texts and the round trip, is done by the thread.
"""

from __future__ import annotations

import datetime
import decimal
import json
import random
import re
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from .fingerprint import PLACEHOLDER_NAME

SEND: Final = "SELECT vectuned.record_statements($1::jsonb, pg_catalog.current_setting('search_path'))"
_MOST_WAITING: Final = 500  # statements in memory; a thread that cannot send forgets the oldest
_MOST_BYTES: Final = 1_000_000  # of one message; 1,000 dimensions take 10,000
_LONGEST: Final = 500_000  # characters of a statement: what the daemon looks at
_DISTANCES: Final = ("<=>", "<->", "<#>")  # the operators that vectuned tunes
_PLACEHOLDER: Final = re.compile(rf"%(?:\((?P<name>{PLACEHOLDER_NAME})\))?[sbt]|%%")
_PLAIN: Final = (int, float, decimal.Decimal, uuid.UUID, datetime.date, datetime.time, datetime.timedelta)


class Recorder:
    """Draws a share of the statements and keeps those that order by a distance. Safe for several threads.

    `counts` holds how many were kept, forgotten because nothing could be sent, of values that have no known
    text (unknown), sent, and taken by the database.
    """

    def __init__(
        self,
        share: float,
        *,
        draw: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"record is a share of the statements, from 0 to 1, not {share!r}")
        self.share = share
        self.counts: dict[str, int] = dict.fromkeys(("kept", "forgotten", "unknown", "sent", "taken"), 0)
        self._draw, self._clock = draw, clock
        self._waiting: deque[tuple[str, Any, float, float]] = deque(maxlen=_MOST_WAITING)

    def __len__(self) -> int:
        return len(self._waiting)

    def draws(self) -> bool:
        """Say whether the next statement is in the sample."""
        return self._draw() < self.share

    def add(self, text: str, parameters: Any, seconds: float) -> None:
        """Keep a statement that was executed, if it orders by a distance; never raises for its values."""
        if len(text) > _LONGEST or "vectuned" in text or not any(sign in text for sign in _DISTANCES):
            return
        self.counts["kept"] += 1
        if len(self._waiting) == _MOST_WAITING:
            self.counts["forgotten"] += 1
        self._waiting.append((text, _copy(parameters), seconds, self._clock()))

    @property
    def is_waiting(self) -> bool:
        """Say whether statements wait to be sent."""
        return bool(self._waiting)

    def take(self) -> str | None:
        """Take statements as the JSON that vectuned.record_statements takes; None if there are none."""
        taken: list[str] = []
        size = 0
        while self._waiting and size < _MOST_BYTES:
            try:
                text, parameters, seconds, at = self._waiting.popleft()
            except IndexError:  # another thread was quicker
                break
            try:
                numbered, values = number(text, parameters)
            except (TypeError, ValueError, LookupError):
                self.counts["unknown"] += 1
                continue
            document = {
                "text": numbered,
                "parameters": values,
                "latency_ms": 1000 * seconds,
                "age": self._clock() - at,
            }
            taken.append(json.dumps(document))
            size += len(taken[-1])
        self.counts["sent"] += len(taken)
        return f"[{', '.join(taken)}]" if taken else None


def number(text: str, parameters: Any) -> tuple[str, list[str | None] | None]:
    """Return a statement with $1, $2 ... in place of its driver's placeholders, and the values as texts.

    Raises TypeError, ValueError or LookupError for values that have no known text, or are too few.
    """
    if parameters is None:
        return text, None
    if isinstance(parameters, Mapping):
        names: dict[str, int] = {}

        def by_name(match: re.Match[str]) -> str:
            name = match["name"]
            return "%" if name is None else f"${names.setdefault(name, len(names) + 1)}"

        numbered = _PLACEHOLDER.sub(by_name, text)
        return numbered, [as_text(parameters[name]) for name in names]
    count = 0

    def by_place(match: re.Match[str]) -> str:
        nonlocal count
        if match[0] == "%%":
            return "%"
        count += 1
        return f"${count}"

    values = [as_text(value) for value in parameters]
    if "$1" in text:  # the placeholders of asyncpg and of raw cursors
        return text, values
    numbered = _PLACEHOLDER.sub(by_place, text)
    if count != len(values):
        raise ValueError("another number of placeholders than of values")
    return numbered, values


def as_text(value: Any) -> str | None:
    """Return a value as the text that PostgreSQL reads it from. Raises TypeError if that is not known."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, _PLAIN):
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return "\\x" + bytes(value).hex()
    if hasattr(value, "to_text"):  # a vector of pgvector
        return str(value.to_text())
    if hasattr(value, "tolist"):  # of numpy: an array is a vector, as pgvector's adapters have it
        plain = value.tolist()
        return f"[{','.join(map(str, plain))}]" if isinstance(plain, list) else as_text(plain)
    if isinstance(value, Mapping):
        return json.dumps(value)
    if isinstance(value, Sequence):
        return "{" + ",".join(_element(each) for each in value) + "}"
    if type(value).__name__ in ("Json", "Jsonb") and hasattr(value, "obj"):  # of psycopg
        return json.dumps(value.obj)
    raise TypeError(f"no text is known of a {type(value).__qualname__}")


def _element(value: Any) -> str:
    if isinstance(value, list | tuple):
        return str(as_text(value))
    text = as_text(value)
    if text is None:
        return "NULL"
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _copy(parameters: Any) -> Any:
    """Copy parameters as far as the application may change them after the statement."""
    if isinstance(parameters, Mapping):
        return {name: _copy_value(value) for name, value in parameters.items()}
    return None if parameters is None else tuple(_copy_value(value) for value in parameters)


def _copy_value(value: Any) -> Any:
    return value.copy() if hasattr(value, "copy") else value
