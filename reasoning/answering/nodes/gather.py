"""Gathering resources: texts from elsewhere, where what the store says by itself is not enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vectuned.reasoning.answering.knowledge import Assessment, Material, Resource
from vectuned.reasoning.answering.reads import read
from vectuned.reasoning.embedding.embedder import Vectors
from vectuned.reasoning.graph.context import Context
from vectuned.reasoning.graph.graph import Limits, Node

_CHARACTERS: Final = 4000


@dataclass(frozen=True)
class In:
    vector: Vectors
    material: Material
    assessment: Assessment


@dataclass(frozen=True)
class Out:
    resources: tuple[Resource, ...]


class Gather(Node[In, Out]):
    """Adds resources if there are gaps: those of the entities that were kept, else those near the question.

    With `always` it looks at the entities' resources even where nothing is missing.
    """

    name = "gather"
    limits = Limits(seconds=10.0, attempts=3)

    def __init__(self, *, most: int = 5, similarity: float = 0.4, always: bool = False) -> None:
        self._most, self._similarity, self._always = most, similarity, always

    def run(self, inputs: In, context: Context) -> Out:
        gaps = inputs.assessment.gaps or (() if inputs.assessment.enough else ("the evidence is thin",))
        if not gaps and not self._always:
            context.decide("not needed")
            return Out(())
        ids = [candidate.entity.id for candidate in inputs.material.candidates]
        values = {"query": inputs.vector, "most": self._most, "characters": _CHARACTERS}
        found = []
        with context.connection() as conn:
            if ids:
                found = read(conn, "resources_of", {**values, "entities": ids})
            linked = len(found)
            if not found and gaps:
                found = read(conn, "nearest_resources", {**values, "least": self._similarity})
        resources = tuple(Resource(*row) for row in found)
        context.decide("gathered", gaps=gaps, linked=linked, near=len(resources) - linked)
        return Out(resources)
