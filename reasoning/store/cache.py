"""The entities used last, in memory."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from cachetools import TTLCache

from .entities import Entity


class EntityCache:
    """Holds up to `max_entities` entities, each for `seconds`; the least recently used go first. Thread-safe.

    The defaults: 10,000 entities take some megabytes, and a change is seen within a minute.
    """

    def __init__(self, max_entities: int = 10_000, seconds: float = 60.0) -> None:
        self._lock = threading.Lock()
        self._entities: TTLCache[int, Entity] = TTLCache(max_entities, seconds)

    def get(self, ids: Iterable[int]) -> dict[int, Entity]:
        """Return the cached entities among these ids, by id."""
        with self._lock:
            cached = ((id_, self._entities.get(id_)) for id_ in ids)
            return {id_: entity for id_, entity in cached if entity is not None}

    def put(self, entities: Iterable[Entity]) -> None:
        """Cache entities as they are now."""
        with self._lock:
            self._entities.update((entity.id, entity) for entity in entities)

    def __len__(self) -> int:
        with self._lock:
            return len(self._entities)
