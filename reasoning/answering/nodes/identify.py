"""The node `identify`: find the entities that the question may be about, by vector and by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vectuned.reasoning.answering.knowledge import Breadth, Candidate, Search
from vectuned.reasoning.embedding.embedder import Vectors
from vectuned.reasoning.graph.context import Context
from vectuned.reasoning.graph.graph import Limits, Node
from vectuned.reasoning.store.entities import Entity
from vectuned.reasoning.store.reads import read
from vectuned.reasoning.store.words import Word, write_tsquery


@dataclass(frozen=True)
class ScoreWeights:
    """The weights of the three parts of a candidate's score; see `Candidate`. They add up to 1.

    Tuned on 1,500 usage examples of WordNet. The optimum is flat: `name_match` may weigh 3 to 10 times as
    much as `similarity`, whose values lie close together.
    """

    similarity: float = 0.19
    name_match: float = 0.75
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


class IdentifyEntities(Node[In, Out]):
    """Finds the entities that the question may be about, best first, with one statement.

    vectuned chooses the effort of the vector search and returns a query id, so that feedback can refer to the
    search. With `ef_search` the effort is fixed, and there is no feedback.
    """

    name = "identify"
    limits = Limits(seconds=10.0, attempts=3)

    def __init__(self, weights: ScoreWeights | None = None, ef_search: int | None = None) -> None:
        self._weights = weights or ScoreWeights()
        self._ef_search = ef_search

    def run(self, inputs: In, context: Context) -> Out:
        total = sum(word.weight for word in inputs.words) or 1.0
        lexemes = [word.lexeme for word in inputs.words]
        with context.connection() as conn:
            rows = read(
                conn,
                "find_candidates",
                query=inputs.vector,
                neighbours=inputs.breadth.neighbours,
                name_matches=inputs.breadth.name_matches,
                max_candidates=inputs.breadth.max_candidates,
                lexemes=lexemes,
                words=write_tsquery(lexemes),
                weights=[word.weight / total for word in inputs.words],
                similarity_weight=self._weights.similarity,
                name_match_weight=self._weights.name_match,
                coverage_weight=self._weights.coverage,
                ef_search=self._ef_search,
            )
        candidates = tuple(map(_candidate, rows))
        # Every row names the same search.
        searches = tuple(Search(row.query_id, tuple(row.near_ids or ())) for row in rows[:1])
        for search in searches:
            context.record_decision(
                "search",
                by=self._effort_source(search),
                query_id=search.query_id,
                recorded=search.is_recorded,
            )
        if candidates:
            best = candidates[0]
            context.record_decision(
                "best", entity=best.entity.name, score=best.score, similarity=best.similarity
            )
        return Out(candidates, searches)

    def _effort_source(self, search: Search) -> str:
        if search.query_id:
            return "vectuned"
        return "a fixed effort" if self._ef_search else "the default effort"


def _candidate(row: Any) -> Candidate:
    return Candidate(
        Entity(row.id, row.label, row.name, row.description),
        row.score,
        row.similarity,
        row.name_match,
        row.coverage or 0.0,
        _array(row.embedding),
    )


def _array(vector: Any) -> Vectors | None:
    """Return a vector as float32: some versions of pgvector's package return arrays, others a Vector."""
    return None if vector is None else np.asarray(getattr(vector, "to_numpy", lambda: vector)(), np.float32)
