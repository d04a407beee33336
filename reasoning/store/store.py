"""The entity store over one connection: entities, attributes, relationships, resources, embeddings.

Each method runs one function of the schema `vectuned_entities`; what it does in full is said there
(sql/entities/functions). What its arguments are limited to is checked there too, and arrives as UsageError.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg
from pgvector import Vector

from vectuned.config.errors import UsageError
from vectuned.reasoning.embedding.embedder import Embedder, Vectors

from .entities import (
    Connection,
    Direction,
    Edge,
    Entity,
    Fusion,
    HotEntity,
    HybridMatch,
    Kind,
    Match,
    Model,
    NamedEntity,
    PatternMatch,
    PendingTexts,
    Relationship,
    Relative,
    Resource,
    Sharer,
)
from .statements import Statements

Query = npt.NDArray[np.float32] | Sequence[float]

BATCH = 512
IS_A = "is_a"


class EntityStore(Statements):
    """Speak to the entity store; `conn` may be in a read-only transaction for all that finds and gets.

    With `embedder` every query vector and every vector stored is said to be its own, and refused if the store
    is of another model. Raises UsageError where there is no store.
    """

    def __init__(self, conn: psycopg.Connection[Any], embedder: Embedder | None = None) -> None:
        super().__init__(conn)
        self.embedder = embedder
        if embedder is not None:
            self.check_model(embedder)

    # Models

    def model(self) -> Model | None:
        """Return the model of the store's vectors; None before the first was registered."""
        row = self.rows("current_model")[0]
        return None if row[0] is None else Model(*row)

    def register_model(self, embedder: Embedder) -> int:
        """Make a model known; the first one of the store's dimensions becomes its model. Return its id."""
        values = {"name": embedder.name, "version": embedder.version, "dimensions": embedder.dimensions}
        return int(self.value("register_model", **values))

    def check_model(self, embedder: Embedder) -> None:
        """Raise UsageError if the store is of another model than the embedder; without any it is well."""
        model = self.model()
        if model is not None and (model.name, model.version) != (embedder.name, embedder.version):
            raise UsageError(
                f"The entity store is of model {model.name} {model.version}, not {embedder.name} "
                f"{embedder.version}: embed with that one, or move it by `vectuned entities rebase --model`."
            )

    def use_model(self, embedder: Embedder) -> Model:
        """Return the store's model, which the embedder's becomes if there was none.

        Raises UsageError if it is another, or if the embedder's vectors have another length.
        """
        self.register_model(embedder)
        self.check_model(embedder)
        model = self.model()
        if model is None:
            raise UsageError(
                f"The entity store's vectors have another length than the {embedder.dimensions} of "
                f"{embedder.name}: create it for this model, or embed with one that fits."
            )
        return model

    # Entities and attributes

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
        """Store an entity and return its id; without an embedding it waits for `embed_waiting`."""
        return int(
            self.value(
                "insert_entity",
                name=name,
                description=description,
                label=label,
                language=language,
                attributes=json.dumps(attributes or {}, default=list),
                embedding=_vector(embedding),
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
        """Change what an entity says; its embedding is then out of date and waits for `embed_waiting`."""
        values = {"name": name, "description": description, "language": language}
        self.value("update_entity", entity_id=entity_id, **values)

    def entities(self, entity_ids: Sequence[int]) -> list[Entity]:
        """Return entities in the order asked for, without those that are not there."""
        return [Entity(*row) for row in self.rows("get_entities", entity_ids=list(entity_ids))]

    def by_label(self, labels: Sequence[str]) -> dict[str, int]:
        """Return the ids of entities by their labels, of those that are there."""
        return dict(self.rows("by_label", labels=list(labels)))

    def set_attribute(self, entity_id: int, attribute: str, value: str) -> None:
        """Give an entity a value of an attribute, besides those it has."""
        self.value("set_attribute", entity_id=entity_id, attribute=attribute, value=value)

    def attributes(
        self, entity_ids: Sequence[int], names: Sequence[str] | None = None
    ) -> dict[int, dict[str, list[str]]]:
        """Return the values of attributes, of all or of those named, by entity and attribute."""
        found: dict[int, dict[str, list[str]]] = {}
        values = {"entity_ids": list(entity_ids), "names": _list(names)}
        for entity_id, attribute, value in self.rows("get_attributes", **values):
            found.setdefault(entity_id, {}).setdefault(attribute, []).append(value)
        return found

    def by_attribute(self, attribute: str, value: str, max_results: int = 100) -> list[NamedEntity]:
        """Return the entities that have a value."""
        values = {"attribute": attribute, "value": value, "max_results": max_results}
        return [NamedEntity(*row) for row in self.rows("by_attribute", **values)]

    def sharing_attributes(
        self, entity_id: int, names: Sequence[str] | None = None, max_results: int = 20
    ) -> list[Sharer]:
        """Return entities that have values in common with one, those that share most first."""
        values = {"entity_id": entity_id, "names": _list(names), "max_results": max_results}
        rows = self.rows("sharing_attributes", **values)
        return [Sharer(row[0], row[1], row[2], tuple(row[3])) for row in rows]

    # Searches

    def find_similar(
        self,
        query: Query,
        max_results: int = 10,
        *,
        threshold: float = -1,
        ef_search: int | None = None,
    ) -> list[Match]:
        """Return the entities nearest to a query, through vectuned where it tunes them, nearest first."""
        values = {"max_results": max_results, "threshold": threshold, "ef_search": ef_search}
        return [Match(*row) for row in self.rows("find_similar", query=_vector(query), **values)]

    def hybrid_search(
        self,
        text: str,
        query: Query,
        max_results: int = 20,
        *,
        text_weight: float = 0.3,
        vector_weight: float = 0.7,
        language: str = "english",
        fusion: Fusion = "weighted",
        candidates: int | None = None,
    ) -> list[HybridMatch]:
        """Return entities by words and by meaning, the best first; `text` as one types into a search box."""
        values = {
            "text": text,
            "max_results": max_results,
            "text_weight": text_weight,
            "vector_weight": vector_weight,
            "language": language,
            "fusion": fusion,
            "candidates": candidates,
        }
        return [HybridMatch(*row) for row in self.rows("hybrid_search", query=_vector(query), **values)]

    # Relationships

    def insert_relationship(
        self, source_id: int, target_id: int, type_: str, confidence: float = 1, path: str | None = None
    ) -> int:
        """Relate one entity to another, or change how sure that is; return the relationship's id."""
        values = {"source_id": source_id, "target_id": target_id, "type": type_, "confidence": confidence}
        return int(self.value("insert_relationship", path=path, **values))

    def relationships(
        self,
        entity_id: int,
        types: Sequence[str] | None = None,
        *,
        direction: Direction = "out",
        max_results: int = 100,
    ) -> list[Relationship]:
        """Return the relationships of an entity, the surest first."""
        values = {
            "entity_id": entity_id,
            "types": _list(types),
            "direction": direction,
            "max_results": max_results,
        }
        return [Relationship(*row) for row in self.rows("relationships", **values)]

    def find_relationships(self, prefix: str, max_results: int = 100) -> list[Edge]:
        """Return the relationships at an ltree path and below it."""
        values = {"prefix": prefix, "max_results": max_results}
        return [Edge(*row) for row in self.rows("find_relationships", **values)]

    def connection_paths(
        self,
        start_id: int,
        end_id: int,
        *,
        max_hops: int = 3,
        max_results: int = 10,
        types: Sequence[str] | None = None,
        min_confidence: float = 0,
    ) -> list[Connection]:
        """Return ways from one entity to another, the surest first and of those the shortest."""
        values = {
            "start_id": start_id,
            "end_id": end_id,
            "max_hops": max_hops,
            "max_results": max_results,
            "types": _list(types),
            "min_confidence": min_confidence,
        }
        rows = self.rows("connection_paths", **values)
        return [Connection(tuple(row[0]), tuple(row[1]), tuple(row[2]), row[3]) for row in rows]

    def relationship_pattern(
        self, types: Sequence[str], start_id: int | None = None, max_results: int = 100
    ) -> list[PatternMatch]:
        """Return ways along relationships of these types, one after the other."""
        values = {"types": list(types), "start_id": start_id, "max_results": max_results}
        return [PatternMatch(tuple(row[0]), *row[1:]) for row in self.rows("relationship_pattern", **values)]

    # Hierarchies

    def rebuild_paths(self, types: Sequence[str], hierarchy: str = IS_A) -> int:
        """Work out the paths of a hierarchy anew; return how many there are."""
        return int(self.value("rebuild_paths", types=list(types), hierarchy=hierarchy))

    def paths(self, entity_id: int, hierarchy: str = IS_A) -> list[str]:
        """Return the ltree paths from a root to an entity, the shortest first."""
        return [str(row[0]) for row in self.rows("paths", entity_id=entity_id, hierarchy=hierarchy)]

    def ancestors(self, entity_id: int, max_results: int = 100, hierarchy: str = IS_A) -> list[Relative]:
        """Return all that an entity is a kind of, the nearest first."""
        values = {"entity_id": entity_id, "hierarchy": hierarchy, "max_results": max_results}
        return [Relative(*row) for row in self.rows("ancestors", **values)]

    def descendants(
        self, entity_id: int, max_results: int = 100, *, max_depth: int = 64, hierarchy: str = IS_A
    ) -> list[Relative]:
        """Return all that is a kind of an entity, the nearest first."""
        values = {"entity_id": entity_id, "hierarchy": hierarchy, "max_results": max_results}
        return [Relative(*row) for row in self.rows("descendants", max_depth=max_depth, **values)]

    def siblings(self, entity_id: int, max_results: int = 100, hierarchy: str = IS_A) -> list[Relative]:
        """Return what is beside an entity under any of its parents."""
        values = {"entity_id": entity_id, "hierarchy": hierarchy, "max_results": max_results}
        return [Relative(*row) for row in self.rows("siblings", **values)]

    def by_path(
        self, pattern: str, max_results: int = 100, hierarchy: str = IS_A
    ) -> list[tuple[NamedEntity, str]]:
        """Return entities and their paths that match an lquery over labels, such as `*.n02084071.*{1}`."""
        values = {"pattern": pattern, "hierarchy": hierarchy, "max_results": max_results}
        return [(NamedEntity(*row[:2]), str(row[2])) for row in self.rows("by_path", **values)]

    # External resources

    def insert_resource(self, uri: str, type_: str, content: str = "", embedding: Query | None = None) -> int:
        """Store a text from elsewhere, or its new content; return its id."""
        values = {"uri": uri, "resource_type": type_, "content": content, "embedding": _vector(embedding)}
        return int(self.value("insert_resource", **values, **self._model_values()))

    def link_resource(self, entity_id: int, resource_id: int, confidence: float = 1) -> None:
        """Say that a resource says something about an entity."""
        self.value("link_resource", entity_id=entity_id, resource_id=resource_id, confidence=confidence)

    def entity_resources(
        self, entity_ids: Sequence[int], max_results: int = 20, query: Query | None = None
    ) -> list[Resource]:
        """Return what is linked to entities, one row a link: nearest to the query, or surest, first."""
        values = {"entity_ids": list(entity_ids), "max_results": max_results, "query": _vector(query)}
        return [_resource(row) for row in self.rows("entity_resources", **values)]

    def similar_resources(
        self, query: Query, max_results: int = 10, *, threshold: float = 0
    ) -> list[Resource]:
        """Return the resources nearest to a query, with the entities they are linked to."""
        values = {"query": _vector(query), "max_results": max_results, "threshold": threshold}
        return [_resource(row) for row in self.rows("similar_resources", **values)]

    # Life

    def touch(self, entity_ids: Sequence[int]) -> int:
        """Count a use of entities; in a read-only transaction nothing is counted."""
        return int(self.value("touch", entity_ids=list(entity_ids))) if entity_ids else 0

    def hot(self, max_results: int = 100) -> list[HotEntity]:
        """Return the entities used most within a day, worth keeping in a cache."""
        return [HotEntity(*row) for row in self.rows("hot", max_results=max_results)]

    def archive(self, entity_id: int) -> bool:
        """Put an entity aside: it is found no more, and `restore` brings it back."""
        return bool(self.value("archive", entity_id=entity_id))

    def restore(self, entity_id: int) -> bool:
        """Make an archived entity active again."""
        return bool(self.value("restore", entity_id=entity_id))

    def prune(self, entity_id: int) -> bool:
        """Forget an entity for good, all but its id, label and name."""
        return bool(self.value("prune", entity_id=entity_id))

    def archive_inactive(self, unused_for: timedelta, batch_size: int = 1000) -> int:
        """Archive a batch of what was neither used nor changed for so long; repeat it until 0."""
        return int(self.value("archive_inactive", unused_for=unused_for, batch_size=batch_size))

    def prune_archived(self, archived_for: timedelta, batch_size: int = 1000) -> int:
        """Prune a batch of what has been archived for so long; repeat it until 0."""
        return int(self.value("prune_archived", archived_for=archived_for, batch_size=batch_size))

    # Embeddings

    def update_embedding(self, entity_id: int, embedding: Query) -> None:
        """Give an entity another embedding; the one before is kept in the history."""
        values = {"entity_id": entity_id, "embedding": _vector(embedding)}
        self.value("update_embedding", **values, **self._model_values())

    def waiting_count(self) -> int:
        """Count the texts that have no embedding or another text since."""
        return int(self.value("waiting"))

    def waiting(
        self,
        kind: Kind,
        batch_size: int = BATCH,
        after_id: int = 0,
        job_id: int | None = None,
        stripe: int | None = None,
    ) -> PendingTexts:
        """Return the next texts to embed, by id: those of a rebase job, or those out of date.

        With `stripe` (0 to 15) every sixteenth id: what changes side by side should not change at once.
        """
        values = {
            "kind": kind,
            "batch_size": batch_size,
            "after_id": after_id,
            "job_id": job_id,
            "stripe": stripe,
        }
        rows = self.rows("next_batch", **values)
        return PendingTexts(
            kind, [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]
        )

    def put(self, waiting: PendingTexts, vectors: Vectors, model_id: int, job_id: int | None = None) -> int:
        """Store the vectors (n, dimensions) of texts; return how many, but for those that changed."""
        values = {
            "kind": waiting.kind,
            "ids": waiting.ids,
            "hashes": waiting.hashes,
            "model_id": model_id,
            "embeddings": [Vector(vector) for vector in vectors],
            "job_id": job_id,
        }
        return int(self.value("put_batch", **values)) if len(waiting) else 0

    def _model_values(self) -> dict[str, str | None]:
        known = self.embedder
        return {
            "model_name": known.name if known else None,
            "model_version": known.version if known else None,
        }


def _vector(values: Query | None) -> Vector | None:
    return None if values is None else Vector(np.asarray(values, np.float32))


def _list(names: Sequence[str] | None) -> list[str] | None:
    return None if names is None else list(names)


def _resource(row: tuple[Any, ...]) -> Resource:
    return Resource(row[0], tuple(row[1]), *row[2:])
