"""Reporting back: what became of the run is told of the searches that it began with."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import psycopg

from vectuned.reasoning.answering.knowledge import Answer, FeedbackReport, Material, Search
from vectuned.reasoning.answering.reads import read
from vectuned.reasoning.graph.context import Context
from vectuned.reasoning.graph.graph import Limits, Node

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class In:
    searches: tuple[Search, ...]
    material: Material
    answer: Answer


@dataclass(frozen=True)
class Out:
    told: FeedbackReport


class Report(Node[In, Out]):
    """Tells vectuned which entities were of use: cited ones are relevant, rejected ones irrelevant.

    Searches that were not recorded, as most are not, cost nothing. The uses of the entities cited are counted
    if `count_uses`. Whatever goes wrong here is logged, and does no harm to the answer.
    """

    name = "report"
    limits = Limits(seconds=10.0)

    def __init__(self, *, count_uses: bool = False) -> None:
        self._count_uses = count_uses

    def run(self, inputs: In, context: Context) -> Out:
        cited = {
            id_
            for citation in inputs.answer.citations
            for id_ in citation.ids[:1]
            if citation.kind != "resource"
        }
        rejected = set(inputs.material.rejected) - cited
        told: dict[str, str] = {}
        recorded = [search for search in inputs.searches if search.is_recorded]
        if not recorded and not (self._count_uses and cited):
            context.decide("nothing to tell", searches=len(inputs.searches))
            return Out(FeedbackReport(told))
        try:
            with context.connection() as conn:
                for search in recorded:
                    returned = set(search.entities)
                    values = {
                        "query_id": search.query_id,
                        "relevant": [str(id_) for id_ in sorted(cited & returned)],
                        "irrelevant": [str(id_) for id_ in sorted(rejected & returned)],
                    }
                    told[str(search.query_id)] = read(conn, "tell", values)[0][0]
                if self._count_uses and cited:
                    read(conn, "use_entities", {"entities": sorted(cited)})
        except psycopg.Error as error:
            extra = {"action": "report", "correlation_id": context.correlation_id}
            logger.warning("the run's outcome could not be told: SQLSTATE %s", error.sqlstate, extra=extra)
        context.decide("told", answers=told, relevant=len(cited), irrelevant=len(rejected))
        return Out(FeedbackReport(told))
