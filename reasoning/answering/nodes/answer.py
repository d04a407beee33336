"""The node `answer`: write the answer from the facts, each with its source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vectuned.reasoning.answering.facts import facts_from
from vectuned.reasoning.answering.generators import ExtractiveGenerator, Generator
from vectuned.reasoning.answering.knowledge import Answer, Assessment, Material, Question
from vectuned.reasoning.errors import GeneratorError
from vectuned.reasoning.graph.context import Context
from vectuned.reasoning.graph.graph import Limits, Node
from vectuned.reasoning.store.entities import Resource
from vectuned.reasoning.store.words import Word

_FALLBACK_SECONDS: Final = 5.0  # left for writing without the model after the model has timed out


@dataclass(frozen=True)
class In:
    question: Question
    words: tuple[Word, ...]
    material: Material
    resources: tuple[Resource, ...]
    assessment: Assessment


@dataclass(frozen=True)
class Out:
    answer: Answer


class WriteAnswer(Node[In, Out]):
    """Writes the answer with a generator; without it if it fails or cites nothing, which the trace shows."""

    name = "answer"

    def __init__(self, generator: Generator | None = None, seconds: float = 30.0) -> None:
        self._generator = generator or ExtractiveGenerator()
        self.limits = Limits(seconds=seconds + _FALLBACK_SECONDS)

    def run(self, inputs: In, context: Context) -> Out:
        facts = facts_from(inputs.material, inputs.resources, inputs.words)
        try:
            answer = self._generator.write(inputs.question, facts)
        except GeneratorError as error:
            context.record_decision(
                "fell back", generator=self._generator.name, code=error.code, reason=str(error)
            )
            answer = ExtractiveGenerator().write(inputs.question, facts)
        context.record_decision(
            "answered", generator=answer.generator, facts=len(facts), cited=len(answer.citations)
        )
        return Out(answer)
