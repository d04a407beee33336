"""External resources: texts linked to entities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .entities import Resource
from .models import ModelStatements, Query, to_vector


class ResourceStatements(ModelStatements):
    """Statements about external resources."""

    def insert_resource(self, uri: str, type_: str, content: str = "", embedding: Query | None = None) -> int:
        """Insert a resource, or replace the content of the one with this URI; return its id."""
        values = {"uri": uri, "resource_type": type_, "content": content, "embedding": to_vector(embedding)}
        return int(self.value("insert_resource", **values, **self._model_values()))

    def link_resource(self, entity_id: int, resource_id: int, confidence: float = 1) -> None:
        """Link a resource to an entity, or change the confidence of the link."""
        self.value("link_resource", entity_id=entity_id, resource_id=resource_id, confidence=confidence)

    def get_entity_resources(
        self, entity_ids: Sequence[int], max_results: int = 20, query: Query | None = None
    ) -> list[Resource]:
        """Return the resources linked to entities, one for each link.

        Those nearest to the query come first, without a query those of highest confidence.
        """
        values = {"entity_ids": list(entity_ids), "max_results": max_results, "query": to_vector(query)}
        return self.fetch(make_resource, "get_entity_resources", **values)

    def find_similar_resources(
        self, query: Query, max_results: int = 10, *, threshold: float = 0
    ) -> list[Resource]:
        """Return the resources nearest to a query with the entities they are linked to, nearest first."""
        values = {"query": to_vector(query), "max_results": max_results, "threshold": threshold}
        return self.fetch(make_resource, "find_similar_resources", **values)


def make_resource(*, entity_ids: Sequence[int] | None, **columns: Any) -> Resource:
    """Make a resource from the columns of a row, where arrays are lists."""
    return Resource(entity_ids=tuple(entity_ids or ()), **columns)
