"""The node `gather`: read external resources if something is missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vectuned.reasoning.answering.knowledge import Assessment, Material
from vectuned.reasoning.embedding.embedder import Vectors
from vectuned.reasoning.graph.context import Context
from vectuned.reasoning.graph.graph import Limits, Node
from vectuned.reasoning.store.entities import Resource
from vectuned.reasoning.store.reads import read_linked_texts, read_similar_texts

_MAX_CHARACTERS: Final = 4000  # of each resource: some pages, from which an answer takes single sentences


@dataclass(frozen=True)
class In:
    vector: Vectors
    material: Material
    assessment: Assessment


@dataclass(frozen=True)
class Out:
    resources: tuple[Resource, ...]


class GatherResources(Node[In, Out]):
    """Reads resources if the assessment names gaps: those linked to the candidates, else similar ones.

    At most `max_results` are read, similar ones with a cosine of at least `similarity`. With `always`, linked
    resources are read even if nothing is missing.
    """

    name = "gather"
    limits = Limits(seconds=10.0, attempts=3)

    def __init__(self, *, max_results: int = 5, similarity: float = 0.55, always: bool = False) -> None:
        self._max_results, self._similarity, self._always = max_results, similarity, always

    def run(self, inputs: In, context: Context) -> Out:
        gaps = inputs.assessment.gaps or (() if inputs.assessment.is_enough else ("the evidence is thin",))
        if not gaps and not self._always:
            context.record_decision("not needed")
            return Out(())
        ids = [candidate.entity.id for candidate in inputs.material.candidates]
        linked: list[Resource] = []
        similar: list[Resource] = []
        with context.connection() as conn:
            if ids:
                linked = read_linked_texts(conn, ids, inputs.vector, self._max_results, _MAX_CHARACTERS)
            if not linked and gaps:
                similar = read_similar_texts(
                    conn, inputs.vector, self._similarity, self._max_results, _MAX_CHARACTERS
                )
        context.record_decision("gathered", gaps=gaps, linked=len(linked), similar=len(similar))
        return Out((*linked, *similar))
