"""The lines of a log in the format stderr: log_line_prefix, a tag such as LOG, and the message."""

from __future__ import annotations

import re
from typing import Final

# What each escape of log_line_prefix writes. Names may be anything, so they end where the text after does.
_TIME: Final = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
_ESCAPES: Final = {
    "a": r"(?P<application>.*?)",
    "u": r"(?P<user>.*?)",
    "d": r"(?P<database>.*?)",
    "r": r".*?",
    "h": r".*?",
    "L": r".*?",
    "b": r".*?",
    "p": r"(?P<process>\d+)",
    "P": r"\d*",
    "t": rf"(?P<time>{_TIME} \S+)",
    "m": rf"(?P<milliseconds>{_TIME}\.\d+ \S+)",
    "n": r"(?P<epoch>\d+\.\d+)",
    "i": r".*?",
    "e": r"[0-9A-Z]{5}",
    "c": r"(?P<session>[0-9a-f]+\.[0-9a-f]+)",
    "l": r"\d+",
    "s": rf"{_TIME}(?:\.\d+)? \S+",
    "v": r"(?:[0-9-]+/[0-9]+)?",
    "x": r"\d*",
    "Q": r"-?\d*",
    "%": "%",
}
_ESCAPE: Final = re.compile(r"%(-?\d+)?(.)", re.DOTALL)
# A tag is a word or two; some languages have a space before the colon.
_TAG: Final = r"(?P<tag>[^\W\d_][^\d:\n]{0,30}?) ?: {1,3}(?P<message>.*)"
# Without a prefix: any, up to a tag in capitals or in a script without them.
_ANY_PREFIX: Final = re.compile(
    r"(?P<prefix>(?:.*?[\s\]>):|,;-])?)(?P<tag>[^\W\d_a-zà-öø-ÿ]+(?: [^\W\d_a-z]+)?) ?: {1,3}(?P<message>.*)",
    re.DOTALL,
)


def compile_prefix(prefix: str | None) -> re.Pattern[str]:
    """Compile a log_line_prefix to a pattern of lines; None where it is not known."""
    if prefix is None:
        return _ANY_PREFIX
    pieces, copied, optional, seen = [], 0, 0, set()
    for match in _ESCAPE.finditer(prefix):
        pieces.append(re.escape(prefix[copied : match.start()]))
        copied = match.end()
        padding, letter = match.groups()
        if letter == "q":  # what follows is written by sessions only, not by other processes
            pieces.append("(?:")
            optional += 1
            continue
        pattern = _ESCAPES.get(letter, "")  # the server leaves unknown escapes out
        if letter in seen:
            pattern = re.sub(r"\?P<\w+>", "?:", pattern)
        seen.add(letter)
        # Padding is on the left, or on the right if negative.
        pieces.append(f" *{pattern} *" if padding else pattern)
    pieces.append(re.escape(prefix[copied:]))
    return re.compile("".join(pieces) + ")?" * optional + _TAG, re.DOTALL)
