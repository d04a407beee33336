"""Answering: from the facts that were found, each with its source, by a model if one is configured."""

from __future__ import annotations

from dataclasses import dataclass

from vectuned.reasoning.answering.facts import facts_from
from vectuned.reasoning.answering.generators import Extractive, Generator
from vectuned.reasoning.answering.knowledge import Answer, Assessment, Material, Question, Resource, Word
from vectuned.reasoning.errors import GeneratorError
from vectuned.reasoning.graph.context import Context
from vectuned.reasoning.graph.graph import Limits, Node


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


class Write(Node[In, Out]):
    """Writes the answer; where a model fails or makes things up, without it, which the trace then says."""

    name = "answer"

    def __init__(self, generator: Generator | None = None, seconds: float = 30.0) -> None:
        self._generator = generator or Extractive()
        # A little more than the generator has itself, so that its failing leaves time for the other way.
        self.limits = Limits(seconds=seconds + 5.0)

    def run(self, inputs: In, context: Context) -> Out:
        facts = facts_from(inputs.material, inputs.resources, inputs.words)
        try:
            answer = self._generator.write(inputs.question, facts)
        except GeneratorError as error:
            context.decide("fell back", generator=self._generator.name, code=error.code, reason=str(error))
            answer = Extractive().write(inputs.question, facts)
        context.decide("answered", generator=answer.generator, facts=len(facts), cited=len(answer.citations))
        return Out(answer)
