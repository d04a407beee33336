"""How many rows a statement asks for: its LIMIT, OFFSET or FETCH FIRST, found among its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .tokens import Token, literal_end

_LONGEST_NUMBER: Final = 20  # tokens of a number with brackets and casts
_LARGEST: Final = 100_000  # rows: a search for more is a scan of the table


@dataclass(frozen=True)
class RowCount:
    """A number of rows: written in the text, or the value of a parameter, $1 being number 1."""

    number: int | None
    parameter: int | None = None

    def read(self, values: Sequence[str | None]) -> int | None:
        """Return the number of rows with these values; None for no limit and for no number."""
        if self.parameter is None:
            return self.number
        value = values[self.parameter - 1] if self.parameter <= len(values) else None
        try:
            return None if value is None else int(value)
        except ValueError:
            return None


@dataclass(frozen=True)
class Limits:
    """The only LIMIT of a text and its OFFSET, if any."""

    limit: RowCount
    offset: RowCount | None

    def rows(self, values: Sequence[str | None]) -> int | None:
        """Return LIMIT + OFFSET, None if there is no limit or it is out of range."""
        limit = self.limit.read(values)
        # OFFSET NULL is OFFSET 0.
        offset = 0 if self.offset is None else self.offset.read(values) or 0
        if limit is None or limit < 1 or offset < 0 or limit + offset > _LARGEST:
            return None
        return limit + offset


def find_limits(tokens: Sequence[Token]) -> Limits | str:
    """Find the only LIMIT or FETCH FIRST of a text; return the reason if that is not possible."""
    limits: list[RowCount | None] = []
    offsets: list[RowCount | None] = []
    for at, token in enumerate(tokens):
        word = token.keyword
        if at and tokens[at - 1].keyword in (".", "as"):
            continue  # the name of a column
        if word == "limit":
            limits.append(_row_count(tokens, at + 1))
        elif word == "offset":
            offsets.append(_row_count(tokens, at + 1))
        elif word == "fetch" and at + 1 < len(tokens) and tokens[at + 1].keyword in ("first", "next"):
            without = at + 2 < len(tokens) and tokens[at + 2].keyword in ("row", "rows")
            limits.append(RowCount(1) if without else _row_count(tokens, at + 2))
    if not limits:
        return "it has no LIMIT"
    if len(limits) > 1 or len(offsets) > 1:
        return "it has more than one LIMIT"
    limit, offset = limits[0], offsets[0] if offsets else None
    if limit is None or (offsets and offset is None):
        return "its LIMIT is an expression"
    return Limits(limit, offset)


def last_limit(tokens: Sequence[Token], values: Sequence[str | None]) -> int | None:
    """Return the last LIMIT of a text with these values, as the client finds it; None if that is none."""
    at = max((at for at, token in enumerate(tokens) if token.keyword in ("limit", "fetch")), default=None)
    if at is None:
        return None
    count = _row_count(tokens, at + 1 if tokens[at].keyword == "limit" else at + 2)
    return None if count is None else count.read(values)


def _row_count(tokens: Sequence[Token], at: int) -> RowCount | None:
    """Read a number or parameter with its casts and brackets; None if it is anything else."""
    if at < len(tokens) and tokens[at].keyword in ("all", "null"):
        return RowCount(None)
    # Without the word before, as if behind a name a bracket opened the arguments of a call.
    expression = tokens[at : at + _LONGEST_NUMBER]
    end = literal_end(expression, 0)
    if end is None or _goes_on(expression, end):
        return None
    literals = [token for token in expression[:end] if token.kind in ("number", "parameter", "string")]
    # More numbers belong to a type, as in numeric(3).
    if not literals or any(token.kind != "number" for token in literals[1:]):
        return None
    value = literals[0]
    if value.kind == "parameter":
        return RowCount(None, int(value.text[1:]))
    try:
        return RowCount(int(value.text.strip("'")))
    except ValueError:
        return None


def _goes_on(tokens: Sequence[Token], at: int) -> bool:
    """Say whether an expression goes on after a literal."""
    return at < len(tokens) and (tokens[at].kind == "operator" or tokens[at].text in ("[", "."))
