"""What the nodes read of the entity store, statement by statement, as values."""

from __future__ import annotations

import math
import threading
import time
from collections import ChainMap, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, Final
from weakref import WeakKeyDictionary

from pgvector.psycopg import register_vector
from psycopg import sql

from vectuned.reasoning.embedding.embedder import Embedder
from vectuned.reasoning.errors import ModelMismatchError, StoreEmptyError, StoreMissingError
from vectuned.reasoning.graph.connections import Connection
from vectuned.sql.files import folder, named_statements

from .knowledge import Entity, Word

_FRESH: Final = 600.0  # seconds that counts of words are believed
_COUNTED: Final = 1000
_KNOWN_WORDS: Final = 20_000

# Where pgvector and ltree are in the database of a connection, for as long as that lives.
_SCHEMAS: Final = WeakKeyDictionary[Connection, tuple[str, str]]()


def prepare(conn: Connection) -> Connection:
    """Make a connection ready for the nodes: vectors known, and no compilation of plans that run once.

    Raises StoreMissingError where there is nothing to reason about.
    """
    register_vector(conn)
    conn.execute("SET jit = off")
    row = conn.execute(_statements()["store_state"]).fetchone()
    if row is None or not row[0]:
        raise StoreMissingError()
    return conn


def read(conn: Connection, name: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Return the rows of a statement of reasoning.sql."""
    return conn.execute(_statement(conn, name), values, binary=True).fetchall()


@cache
def _statements() -> dict[str, sql.SQL]:
    return named_statements(folder().joinpath("entities", "reasoning.sql"))


def _statement(conn: Connection, name: str) -> sql.Composed:
    return _composed(name, *_schemas(conn))


@lru_cache(maxsize=256)
def _composed(name: str, vectors: str, ltree: str) -> sql.Composed:
    schemas = {"vectors": sql.Identifier(vectors), "ltree": sql.Identifier(ltree)}
    return _statements()[name].format(**schemas)


def _schemas(conn: Connection) -> tuple[str, str]:
    found = _SCHEMAS.get(conn)
    if found is None:
        rows = dict(conn.execute(_statements()["extension_schemas"]).fetchall())
        found = _SCHEMAS[conn] = str(rows["vector"]), str(rows.get("ltree", "public"))
    return found


def entities(conn: Connection, ids: Iterable[int], hot: HotEntities) -> dict[int, Entity]:
    """Return entities by id, those that are hot without asking; pruned and archived ones are left out."""
    wanted = set(ids)
    found = hot.known(wanted)
    if missing := wanted - found.keys():
        rows = read(conn, "entities_by_id", {"entities": sorted(missing)})
        fresh = [Entity(*row) for row in rows]
        hot.keep(fresh)
        found |= {entity.id: entity for entity in fresh}
    return found


class HotEntities:
    """The entities used last, in this process: at most `most`, none believed longer than `seconds`."""

    def __init__(self, most: int = 10_000, seconds: float = 60.0) -> None:
        self._most, self._seconds = most, seconds
        self._lock = threading.Lock()
        self._entities: OrderedDict[int, tuple[float, Entity]] = OrderedDict()
        self.hits = self.misses = 0

    def known(self, ids: Iterable[int]) -> dict[int, Entity]:
        """Return those that are known and fresh, by id."""
        now = time.monotonic()
        found = {}
        with self._lock:
            for id_ in ids:
                since, entity = self._entities.get(id_, (-math.inf, None))
                if entity is None or now - since > self._seconds:
                    self.misses += 1
                    continue
                self.hits += 1
                self._entities.move_to_end(id_)
                found[id_] = entity
        return found

    def keep(self, entities: Iterable[Entity]) -> None:
        """Remember entities as they are now."""
        now = time.monotonic()
        with self._lock:
            for entity in entities:
                self._entities[entity.id] = (now, entity)
                self._entities.move_to_end(entity.id)
            while len(self._entities) > self._most:
                self._entities.popitem(last=False)

    def __len__(self) -> int:
        return len(self._entities)


class WordWeights:
    """How much each lexeme tells, by how few entities have it: ln((1 + entities) / (1 + having it)).

    Common ones are known from the planner's statistics, others are counted when they are first seen.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since = -math.inf
        self._total = 0
        self._counts: OrderedDict[str, int] = OrderedDict()
        self._common: dict[str, int] = {}

    def weigh(self, conn: Connection, lexemes: Sequence[str]) -> tuple[Word, ...]:
        """Return the lexemes with their weights; StoreEmptyError if there are no entities."""
        with self._lock:
            fresh = time.monotonic() - self._since < _FRESH
        if not fresh:
            self._refresh(conn)
        # Taken at once: another thread may refresh, and forget them, before they are weighed.
        with self._lock:
            total, known = self._total, ChainMap(self._common, self._counts)
            counts = {each: known[each] for each in lexemes if each in known}
        if unknown := [each for each in lexemes if each not in counts]:
            queries = [as_query([each]) for each in unknown]
            rows = read(conn, "count_words", {"lexemes": unknown, "queries": queries, "most": _COUNTED})
            counted = {str(lexeme): int(count) for lexeme, count in rows}
            counts |= counted
            with self._lock:
                self._counts |= counted
                while len(self._counts) > _KNOWN_WORDS:
                    self._counts.popitem(last=False)
        weights = (max(math.log((1 + total) / (1 + min(counts[each], total))), 0.01) for each in lexemes)
        return tuple(Word(lexeme, weight) for lexeme, weight in zip(lexemes, weights, strict=True))

    def _refresh(self, conn: Connection) -> None:
        ((words, shares, total),) = read(conn, "common_words", {})
        if total <= 0:
            # Never analysed: ask the table itself.
            ((total,),) = conn.execute("SELECT count(*) FROM vectuned_entities.entities").fetchall()
        if not total:
            raise StoreEmptyError()
        common = dict(zip(words or (), (round(share * total) for share in shares or ()), strict=False))
        with self._lock:
            self._total, self._common, self._since = int(total), common, time.monotonic()
            self._counts.clear()


def as_query(lexemes: Sequence[str]) -> str:
    """Write a tsquery that any of the lexemes matches."""
    return " | ".join("'" + each.replace("\\", "\\\\").replace("'", "''") + "'" for each in lexemes)


def check_model(embedder: Embedder, name: str | None, version: str | None, dimensions: int | None) -> None:
    """Raise unless an embedder is the model that the store's vectors are of."""
    if name is None:
        raise StoreEmptyError()
    if (name, version, dimensions) != (embedder.name, embedder.version, embedder.dimensions):
        stored = f"{name} {version} ({dimensions} dimensions)"
        given = f"{embedder.name} {embedder.version} ({embedder.dimensions} dimensions)"
        raise ModelMismatchError(stored=stored, given=given)
