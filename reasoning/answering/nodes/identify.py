"""Identifying entities: by meaning, with the effort vectuned has learned, and by the words of their names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vectuned.reasoning.answering.knowledge import Breadth, Candidate, Entity, Search, Word
from vectuned.reasoning.answering.reads import as_query, read
from vectuned.reasoning.embedding.embedder import Vectors
from vectuned.reasoning.graph.context import Context
from vectuned.reasoning.graph.graph import Limits, Node


@dataclass(frozen=True)
class Fusion:
    """The weights of a candidate's score, which add up to 1.

    `similarity` of the cosine, `names` of the share of the question's words by their weight that the name
    has, `coverage` of the share of the name's words that the question has. Tuned on 1,500 WordNet usage
    examples; flat around the best: names may weigh 3 to 10 times as much as the similarity, whose values
    lie close together.
    """

    similarity: float = 0.19
    names: float = 0.75
    coverage: float = 0.06


@dataclass(frozen=True)
class In:
    words: tuple[Word, ...]
    vector: Vectors
    breadth: Breadth


@dataclass(frozen=True)
class Out:
    candidates: tuple[Candidate, ...]
    searches: tuple[Search, ...]


class Identify(Node[In, Out]):
    """Finds the entities that the question may be about, best first.

    How hard the vector search works is decided by vectuned, which also names the search, so that what
    becomes of the run can be told of it; with `ef_search` the effort is fixed, and nothing can be told. One
    statement, one round trip.
    """

    name = "identify"
    limits = Limits(seconds=10.0, attempts=3)

    def __init__(self, fusion: Fusion | None = None, ef_search: int | None = None) -> None:
        self._fusion = fusion or Fusion()
        self._ef_search = ef_search

    def run(self, inputs: In, context: Context) -> Out:
        total = sum(word.weight for word in inputs.words) or 1.0
        lexemes = [word.lexeme for word in inputs.words]
        values = {
            "query": inputs.vector,
            "neighbours": inputs.breadth.neighbours,
            "named": inputs.breadth.named,
            "most": inputs.breadth.most,
            "lexemes": lexemes,
            "words": as_query(lexemes),
            "weights": [word.weight / total for word in inputs.words],
            "similarity_weight": self._fusion.similarity,
            "names_weight": self._fusion.names,
            "coverage_weight": self._fusion.coverage,
            "ef_search": self._ef_search,
        }
        with context.connection() as conn:
            rows = read(conn, "identify", values)
        candidates = tuple(
            Candidate(Entity(*row[:4]), row[4], row[5], row[6], row[7] or 0.0, _array(row[8])) for row in rows
        )
        searches = tuple(Search(query_id, tuple(ids or ())) for *_, query_id, ids in rows[:1])
        for search in searches:
            by = (
                "vectuned"
                if search.query_id
                else "a fixed effort"
                if self._ef_search
                else "the default effort"
            )
            context.decide("search", by=by, query_id=search.query_id, recorded=search.is_recorded)
        if candidates:
            best = candidates[0]
            context.decide("best", entity=best.entity.name, score=best.score, similarity=best.similarity)
        return Out(candidates, searches)


def _array(vector: Any) -> Vectors | None:
    """Return a vector as pgvector's package gives it, by its version an array or a thing that makes one."""
    return None if vector is None else np.asarray(getattr(vector, "to_numpy", lambda: vector)(), np.float32)
