"""How much each word of a question distinguishes entities."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cachetools import LRUCache

from vectuned.reasoning.errors import StoreEmptyError
from vectuned.reasoning.graph.connections import Connection

from .reads import read

_FRESH: Final = 600.0  # seconds until counts are read again: they change with the size of the store, slowly
_MAX_COUNT: Final = 1000  # entities counted for a lexeme; a more common one is in the planner's statistics
_MAX_WORDS: Final = 20_000  # lexemes whose counts are kept: some megabytes
_MIN_WEIGHT: Final = 0.01  # of a lexeme that every entity has: a name that consists of it still counts


@dataclass(frozen=True)
class Word:
    """A lexeme of the question and its weight, ln((1 + entities) / (1 + entities that have it))."""

    lexeme: str
    weight: float


class WordWeights:
    """Weighs lexemes by the number of entities that have them. Thread-safe.

    The planner's statistics have the counts of common lexemes; those of others are counted on first use.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read_at = -math.inf
        self._total = 0
        self._common: dict[str, int] = {}
        self._counts: LRUCache[str, int] = LRUCache(_MAX_WORDS)

    def weigh(self, conn: Connection, lexemes: Sequence[str]) -> tuple[Word, ...]:
        """Return the lexemes with their weights; raises StoreEmptyError if there are no entities."""
        with self._lock:
            is_fresh = time.monotonic() - self._read_at < _FRESH
        if not is_fresh:
            self._refresh(conn)
        # All under one lock: another thread may refresh, and clear the counts, before they are used.
        with self._lock:
            total = self._total
            counts = {each: self._counts[each] for each in lexemes if each in self._counts}
            counts |= {each: self._common[each] for each in lexemes if each in self._common}
        if unknown := [each for each in lexemes if each not in counts]:
            counts |= self._count(conn, unknown)
        return tuple(Word(each, _weight(min(counts[each], total), total)) for each in lexemes)

    def _count(self, conn: Connection, lexemes: list[str]) -> dict[str, int]:
        queries = [write_tsquery([each]) for each in lexemes]
        rows = read(conn, "count_words", lexemes=lexemes, queries=queries, max_count=_MAX_COUNT)
        counts: dict[str, int] = {row.lexeme: row.entities for row in rows}
        with self._lock:
            self._counts.update(counts)
        return counts

    def _refresh(self, conn: Connection) -> None:
        (statistics,) = read(conn, "common_words")
        total = statistics.total
        if total <= 0:
            # The table has not been analyzed yet.
            (counted,) = read(conn, "count_entities")
            total = counted.total
        if not total:
            raise StoreEmptyError()
        lexemes, shares = statistics.lexemes or (), statistics.shares or ()
        # The array of shares ends with their minimum, maximum and share of NULLs.
        common = {lexeme: round(share * total) for lexeme, share in zip(lexemes, shares, strict=False)}
        with self._lock:
            self._total, self._common, self._read_at = int(total), common, time.monotonic()
            self._counts.clear()


def write_tsquery(lexemes: Sequence[str]) -> str:
    """Return a tsquery that matches a document with any of the lexemes."""
    return " | ".join("'" + each.replace("\\", "\\\\").replace("'", "''") + "'" for each in lexemes)


def _weight(count: int, total: int) -> float:
    return max(math.log((1 + total) / (1 + count)), _MIN_WEIGHT)
