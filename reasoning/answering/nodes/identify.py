"""The node `identify`: find the entities that the question may be about, by vector, by name and by text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from vectuned.reasoning.answering.knowledge import Breadth, Candidate, Question, Search
from vectuned.reasoning.embedding.embedder import Vectors
from vectuned.reasoning.graph.context import Context
from vectuned.reasoning.graph.graph import Limits, Node
from vectuned.reasoning.ranking.features import (
    LAYOUT,
    LEARNED_FEATURES,
    PRIOR,
    Ranking,
    search_values,
    shape_of,
    wording_of,
)
from vectuned.reasoning.store.entities import Entity
from vectuned.reasoning.store.reads import read, to_array
from vectuned.reasoning.store.words import Word

# The vote of a single person decides; that of a single run does not where another entity fits well.
_DOUBT: Final = 0.25  # votes at which a score is half of the way to 1, or to 0
_NO_LAYOUT: Final = 0  # a layout that no learned ranking has, so that none is found


@dataclass(frozen=True)
class In:
    question: Question
    words: tuple[Word, ...]
    vector: Vectors
    breadth: Breadth


@dataclass(frozen=True)
class Out:
    candidates: tuple[Candidate, ...]
    searches: tuple[Search, ...]


class IdentifyEntities(Node[In, Out]):
    """Finds the entities that the question may be about, best first, with one statement.

    The ranking scores them by how well they match, differently for questions that name their answer and for
    those that describe it. If a ranking learned from feedback is in service, it corrects the scores, unless
    `learned` is false. What users said of the same question comes first.

    vectuned chooses the effort of the vector search and returns a query id, so that feedback can refer to the
    search. With `ef_search` the effort is fixed, and there is no feedback.
    """

    name = "identify"
    limits = Limits(seconds=10.0, attempts=3)

    def __init__(
        self, ranking: Ranking | None = None, ef_search: int | None = None, *, learned: bool = True
    ) -> None:
        self._ranking = ranking or PRIOR
        self._ef_search = ef_search
        self._learned = learned

    def run(self, inputs: In, context: Context) -> Out:
        ranking = self._ranking
        with context.connection() as conn:
            rows = read(
                conn,
                "find_candidates",
                **search_values(inputs.words, inputs.vector),
                question=inputs.question.text.replace("\0", " "),  # PostgreSQL's type text cannot hold NUL
                doubt=_DOUBT,
                shape=shape_of(inputs.question.text, inputs.words),
                wording=wording_of(inputs.question.text, inputs.words),
                layout=LAYOUT if self._learned else _NO_LAYOUT,
                features=len(LEARNED_FEATURES) + 1,  # and the log of the likelihood
                gate=ranking.gate.tolist(),
                named=ranking.named.tolist(),
                described=ranking.described.tolist(),
                neighbours=inputs.breadth.neighbours,
                name_matches=inputs.breadth.name_matches,
                text_matches=inputs.breadth.text_matches,
                max_candidates=inputs.breadth.max_candidates,
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
                "ranking", names_answer=rows[0].names_answer, learned=rows[0].ranking_id or "none"
            )
            if votes := {row.name: row.votes for row in rows if row.votes}:
                context.record_decision("votes", **{"of": votes})
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
        None if row.embedding is None else to_array(row.embedding),
        row.votes or 0.0,
        row.text_match,
    )
