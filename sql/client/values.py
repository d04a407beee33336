"""The values of a call as a short key, the same in the application and in the server's log.

The share of rows that a statement's condition matches depends on its values. The daemon learns it by this
key, and the client looks it up, so that neither the condition nor the values have to be understood.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Final

from .fingerprint import PLACEHOLDER_NAME
from .recording import as_text

_DIGEST_BYTES: Final = 8  # as of fingerprints
_MOST_BYTES: Final = 10_000  # of all values: longer ones, such as lists of ids, do not come again
_TOKEN: Final = re.compile(
    rf"""
    --[^\n\r]*
  | (?P<string>'[^']*(?:''[^']*)*')
  | "[^"]*"
  | %(?:\((?P<name>{PLACEHOLDER_NAME})\))?[sbt]\b | (?P<literal>%%)
  | \$(?P<number>\d+)
  | (?P<word>[^\W\d]\w*)
  | (?P<value>\d[\d_]*(?:\.\d*)?(?:[eE][+-]?\d+)?)
    """,
    re.VERBOSE,
)
_COUNTS: Final = ("limit", "offset")  # numbers behind these choose the class of k

Slot = tuple[str | None, int | str | None]
"""A value of a text: the literal itself, or the key of its parameter."""


def value_slots(text: str) -> tuple[Slot, ...]:
    """Return the values that a text holds, in their order, without its LIMIT and OFFSET."""
    slots: list[Slot] = []
    word, position = "", 0
    for match in _TOKEN.finditer(text):
        if match["word"] is not None:
            word = match["word"].lower()
            continue
        slot: Slot | None = None
        if match["string"] is not None:
            slot = (match["string"][1:-1].replace("''", "'"), None)
        elif match["value"] is not None:
            slot = (match["value"], None)
        elif match["number"] is not None:
            slot = (None, int(match["number"]) - 1)
        elif match["name"] is not None:
            slot = (None, match["name"])
        elif match[0].startswith("%") and match["literal"] is None:
            slot = (None, position)
            position += 1
        if slot is not None and word not in _COUNTS:
            slots.append(slot)
        word = ""
    return tuple(slots)


def value_key(name: str, slots: Sequence[Slot], parameters: Any) -> str | None:
    """Return the key of the values of a call of the statement with a fingerprint; None if they have none.

    Vectors are left out: what starts with a bracket, and arrays of numpy and lists of numbers.
    """
    texts = [name]
    try:
        for literal, key in slots:
            text = literal if key is None else _text(parameters[key])
            if text is not None and not text.startswith("["):
                texts.append(text)
    except (TypeError, ValueError, LookupError):
        return None
    joined = "\0".join(texts).encode(errors="replace")
    return None if len(joined) > _MOST_BYTES else blake2b(joined, digest_size=_DIGEST_BYTES).hexdigest()


def _text(value: Any) -> str | None:
    """Return the text of a value, None for a vector; NULL is a text that no value has."""
    if value is None:
        return "\1"
    if isinstance(value, str):
        return value
    if hasattr(value, "to_text") or hasattr(value, "ndim"):
        return None
    if isinstance(value, list | tuple) and value and isinstance(value[0], float):
        return None
    return as_text(value)
