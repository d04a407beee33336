"""Entities and their attributes: insert, change, find, count their uses, archive and prune them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta

from .entities import EntityRecord, HotEntity, NamedEntity, Sharer
from .models import ModelStatements, Query, to_vector


class EntityStatements(ModelStatements):
    """Statements about entities, their attributes and their life."""

    def insert_entity(
        self,
        name: str,
        description: str = "",
        *,
        label: str | None = None,
        attributes: Mapping[str, str | Sequence[str]] | None = None,
        embedding: Query | None = None,
        language: str = "english",
    ) -> int:
        """Insert an entity and return its id; without an embedding, `embed_pending` makes one later."""
        return int(
            self.value(
                "insert_entity",
                name=name,
                description=description,
                label=label,
                language=language,
                attributes=json.dumps(attributes or {}, default=list),
                embedding=to_vector(embedding),
                **self._model_values(),
            )
        )

    def update_entity(
        self,
        entity_id: int,
        *,
        name: str | None = None,
        description: str | None = None,
        language: str | None = None,
    ) -> None:
        """Change the text of an entity; its embedding is out of date until `embed_pending` renews it."""
        values = {"name": name, "description": description, "language": language}
        self.value("update_entity", entity_id=entity_id, **values)

    def get_entities(self, entity_ids: Sequence[int]) -> list[EntityRecord]:
        """Return entities in the order of the ids; unknown ids are left out."""
        return self.fetch(EntityRecord, "get_entities", entity_ids=list(entity_ids))

    def find_ids(self, labels: Sequence[str]) -> dict[str, int]:
        """Return the ids of entities by label; unknown labels are left out."""
        return {row.label: row.entity_id for row in self.rows("find_ids", labels=list(labels))}

    def set_attribute(self, entity_id: int, attribute: str, value: str) -> None:
        """Add a value of an attribute to an entity; it keeps its other values."""
        self.value("set_attribute", entity_id=entity_id, attribute=attribute, value=value)

    def get_attributes(
        self, entity_ids: Sequence[int], names: Sequence[str] | None = None
    ) -> dict[int, dict[str, list[str]]]:
        """Return attribute values by entity and attribute: of all attributes, or of those in `names`."""
        attributes: dict[int, dict[str, list[str]]] = {}
        for row in self.rows("get_attributes", entity_ids=list(entity_ids), names=to_list(names)):
            attributes.setdefault(row.entity_id, {}).setdefault(row.attribute, []).append(row.value)
        return attributes

    def find_by_attribute(self, attribute: str, value: str, max_results: int = 100) -> list[NamedEntity]:
        """Return the entities with a value of an attribute."""
        values = {"attribute": attribute, "value": value, "max_results": max_results}
        return self.fetch(NamedEntity, "find_by_attribute", **values)

    def find_sharing_attributes(
        self, entity_id: int, names: Sequence[str] | None = None, max_results: int = 20
    ) -> list[Sharer]:
        """Return the entities that share attribute values with one, those that share most first."""
        values = {"entity_id": entity_id, "names": to_list(names), "max_results": max_results}
        return [
            Sharer(row.id, row.name, row.shared, tuple(row.shared_values))
            for row in self.rows("find_sharing_attributes", **values)
        ]

    def touch(self, entity_ids: Sequence[int]) -> int:
        """Count one use of each entity and return their number; a read-only transaction counts nothing."""
        return int(self.value("touch_entities", entity_ids=list(entity_ids))) if entity_ids else 0

    def find_hot(self, max_results: int = 100) -> list[HotEntity]:
        """Return the entities used most within the last day, which are worth caching."""
        return self.fetch(HotEntity, "find_hot", max_results=max_results)

    def archive(self, entity_id: int) -> bool:
        """Archive an entity: searches no longer return it until `restore`. False if it was archived."""
        return bool(self.value("archive", entity_id=entity_id))

    def restore(self, entity_id: int) -> bool:
        """Make an archived entity active again; False if it was active."""
        return bool(self.value("restore", entity_id=entity_id))

    def prune(self, entity_id: int) -> bool:
        """Delete everything of an entity but its id, label and name; False if it was pruned."""
        return bool(self.value("prune", entity_id=entity_id))

    def archive_inactive(self, unused_for: timedelta, batch_size: int = 1000) -> int:
        """Archive a batch of entities neither used nor changed for that long; call it until it returns 0."""
        return int(self.value("archive_inactive", unused_for=unused_for, batch_size=batch_size))

    def prune_archived(self, archived_for: timedelta, batch_size: int = 1000) -> int:
        """Prune a batch of entities that have been archived for that long; call it until it returns 0."""
        return int(self.value("prune_archived", archived_for=archived_for, batch_size=batch_size))


def to_list(names: Sequence[str] | None) -> list[str] | None:
    """Return names as a list, which psycopg passes as an array."""
    return None if names is None else list(names)
