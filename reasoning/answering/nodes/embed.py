"""The node `embed`: turn the question into a vector."""

from __future__ import annotations

from dataclasses import dataclass

from vectuned.reasoning.answering.knowledge import Question
from vectuned.reasoning.embedding.embedder import Embedder, Vectors
from vectuned.reasoning.errors import EmptyQuestionError
from vectuned.reasoning.graph.context import Context
from vectuned.reasoning.graph.graph import Limits, Node


@dataclass(frozen=True)
class In:
    question: Question


@dataclass(frozen=True)
class Out:
    vector: Vectors


class EmbedQuestion(Node[In, Out]):
    """Embeds the question with the store's model."""

    name = "embed"

    def __init__(self, embedder: Embedder, seconds: float = 30.0) -> None:
        self._embedder = embedder
        self.limits = Limits(seconds=seconds, attempts=3, backoff=0.2)

    def run(self, inputs: In, context: Context) -> Out:
        if not inputs.question.text.strip():
            raise EmptyQuestionError()
        vector: Vectors = self._embedder.encode([inputs.question.text])[0]
        context.record_decision("embedder", name=self._embedder.name, version=self._embedder.version)
        return Out(vector)
