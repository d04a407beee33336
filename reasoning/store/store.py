"""The entity store over one connection: all its parts, and the searches over them."""

from __future__ import annotations

from .entities import Fusion, HybridMatch, Match
from .models import Query, to_vector
from .records import EntityStatements
from .relationships import RelationshipStatements
from .resources import ResourceStatements


class EntityStore(EntityStatements, RelationshipStatements, ResourceStatements):
    """Read and write the entity store.

    Each method calls the function of the schema `vectuned_entities` of nearly the same name, whose source in
    sql/entities/functions/ describes it in full. The functions check their arguments and their errors are
    raised as UsageError. Methods that find, get or count also work in a read-only transaction.

    With `embedder`, the model of every vector that is stored is checked against that of the store. Raises
    UsageError if the database has no entity store.
    """

    def find_similar(
        self,
        query: Query,
        max_results: int = 10,
        *,
        threshold: float = -1,
        ef_search: int | None = None,
    ) -> list[Match]:
        """Return the entities nearest to a query, nearest first; vectuned chooses the effort if it may."""
        values = {"max_results": max_results, "threshold": threshold, "ef_search": ef_search}
        return self.fetch(Match, "find_similar", query=to_vector(query), **values)

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
        """Return entities by words and by meaning, best first; `text` has the syntax of web searches."""
        values = {
            "text": text,
            "max_results": max_results,
            "text_weight": text_weight,
            "vector_weight": vector_weight,
            "language": language,
            "fusion": fusion,
            "candidates": candidates,
        }
        return self.fetch(HybridMatch, "hybrid_search", query=to_vector(query), **values)
