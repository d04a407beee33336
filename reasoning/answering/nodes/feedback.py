"""The node `feedback`: report to vectuned whether the results of the run's searches were relevant."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import psycopg

from vectuned.reasoning.answering.knowledge import Answer, FeedbackReport, Material, Search
from vectuned.reasoning.graph.context import Context
from vectuned.reasoning.graph.graph import Limits, Node
from vectuned.reasoning.store.reads import read, record_feedback

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class In:
    searches: tuple[Search, ...]
    material: Material
    answer: Answer


@dataclass(frozen=True)
class Out:
    feedback: FeedbackReport


class RecordFeedback(Node[In, Out]):
    """Records feedback on the searches: cited entities are relevant, rejected ones are not.

    A search that vectuned did not record, as is usual, costs nothing here. With `count_uses` the uses of the
    cited entities are counted as well. Database errors are logged and do not affect the answer.
    """

    name = "feedback"
    limits = Limits(seconds=10.0)

    def __init__(self, *, count_uses: bool = False) -> None:
        self._count_uses = count_uses

    def run(self, inputs: In, context: Context) -> Out:
        cited = _cited_entities(inputs.answer)
        rejected = set(inputs.material.rejected) - cited
        answers: dict[str, str] = {}
        recorded = [(search.query_id, search) for search in inputs.searches if search.is_recorded]
        if not recorded and not (self._count_uses and cited):
            context.record_decision("no feedback", searches=len(inputs.searches))
            return Out(FeedbackReport(answers))
        try:
            with context.connection() as conn:
                for query_id, search in recorded:
                    assert query_id is not None
                    returned = set(search.entities)
                    answers[str(query_id)] = record_feedback(
                        conn, query_id, cited & returned, rejected & returned
                    )
                if self._count_uses and cited:
                    read(conn, "touch_entities", entity_ids=sorted(cited))
        except psycopg.Error as error:
            extra = {"action": "feedback", "correlation_id": context.correlation_id}
            log.warning("feedback could not be recorded: SQLSTATE %s", error.sqlstate, extra=extra)
        context.record_decision("feedback", answers=answers, relevant=len(cited), irrelevant=len(rejected))
        return Out(FeedbackReport(answers))


def _cited_entities(answer: Answer) -> set[int]:
    """Return the entities that the answer cites: of a relation the first, which the sentence is about."""
    return {id_ for citation in answer.citations for id_ in citation.ids[:1] if citation.kind != "resource"}
