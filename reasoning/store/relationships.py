"""Relationships between entities, and the hierarchies made of them."""

from __future__ import annotations

from collections.abc import Sequence

from .entities import ConnectionPath, Direction, Edge, NamedEntity, PatternMatch, Relationship, Relative
from .records import to_list
from .statements import Statements

IS_A = "is_a"  # the name of the hierarchy unless another is given


class RelationshipStatements(Statements):
    """Statements about relationships, paths over them, and hierarchies."""

    def insert_relationship(
        self, source_id: int, target_id: int, type_: str, confidence: float = 1, path: str | None = None
    ) -> int:
        """Relate one entity to another, or change the confidence and path; return the relationship's id."""
        values = {"source_id": source_id, "target_id": target_id, "type": type_, "confidence": confidence}
        return int(self.value("insert_relationship", path=path, **values))

    def get_relationships(
        self,
        entity_id: int,
        types: Sequence[str] | None = None,
        *,
        direction: Direction = "out",
        max_results: int = 100,
    ) -> list[Relationship]:
        """Return the relationships of an entity, highest confidence first."""
        values = {
            "entity_id": entity_id,
            "types": to_list(types),
            "direction": direction,
            "max_results": max_results,
        }
        return self.fetch(Relationship, "get_relationships", **values)

    def find_relationships(self, prefix: str, max_results: int = 100) -> list[Edge]:
        """Return the relationships at an ltree path and below it."""
        return self.fetch(Edge, "find_relationships", prefix=prefix, max_results=max_results)

    def find_connection_paths(
        self,
        start_id: int,
        end_id: int,
        *,
        max_hops: int = 3,
        max_results: int = 10,
        types: Sequence[str] | None = None,
        min_confidence: float = 0,
    ) -> list[ConnectionPath]:
        """Return paths between two entities, highest confidence first, then shortest first."""
        values = {
            "start_id": start_id,
            "end_id": end_id,
            "max_hops": max_hops,
            "max_results": max_results,
            "types": to_list(types),
            "min_confidence": min_confidence,
        }
        return [
            ConnectionPath(tuple(row.entity_ids), tuple(row.names), tuple(row.types), row.confidence)
            for row in self.rows("find_connection_paths", **values)
        ]

    def find_relationship_patterns(
        self, types: Sequence[str], start_id: int | None = None, max_results: int = 100
    ) -> list[PatternMatch]:
        """Return paths along relationships of these types, one after the other."""
        values = {"types": list(types), "start_id": start_id, "max_results": max_results}
        return [
            PatternMatch(tuple(row.entity_ids), row.start_name, row.end_name, row.confidence)
            for row in self.rows("find_relationship_patterns", **values)
        ]

    def rebuild_paths(self, types: Sequence[str], hierarchy: str = IS_A) -> int:
        """Compute the paths of a hierarchy from the relationships of these types; return their number."""
        return int(self.value("rebuild_paths", types=list(types), hierarchy=hierarchy))

    def get_paths(self, entity_id: int, hierarchy: str = IS_A) -> list[str]:
        """Return the ltree paths from a root to an entity, shortest first."""
        return [str(row.path) for row in self.rows("get_paths", entity_id=entity_id, hierarchy=hierarchy)]

    def find_ancestors(self, entity_id: int, max_results: int = 100, hierarchy: str = IS_A) -> list[Relative]:
        """Return the entities above one in a hierarchy, nearest first."""
        values = {"entity_id": entity_id, "hierarchy": hierarchy, "max_results": max_results}
        return self.fetch(Relative, "find_ancestors", **values)

    def find_descendants(
        self, entity_id: int, max_results: int = 100, *, max_depth: int = 64, hierarchy: str = IS_A
    ) -> list[Relative]:
        """Return the entities below one in a hierarchy, nearest first."""
        values = {"entity_id": entity_id, "hierarchy": hierarchy, "max_results": max_results}
        return self.fetch(Relative, "find_descendants", max_depth=max_depth, **values)

    def find_siblings(self, entity_id: int, max_results: int = 100, hierarchy: str = IS_A) -> list[Relative]:
        """Return the entities that share a parent with one."""
        values = {"entity_id": entity_id, "hierarchy": hierarchy, "max_results": max_results}
        return self.fetch(Relative, "find_siblings", **values)

    def find_by_path(
        self, pattern: str, max_results: int = 100, hierarchy: str = IS_A
    ) -> list[tuple[NamedEntity, str]]:
        """Return entities and their paths that match an lquery over labels, such as `*.n02084071.*{1}`."""
        values = {"pattern": pattern, "hierarchy": hierarchy, "max_results": max_results}
        return [(NamedEntity(row.id, row.name), str(row.path)) for row in self.rows("find_by_path", **values)]
