"""Reading the question: its words, each with what it tells."""

from __future__ import annotations

from dataclasses import dataclass

from vectuned.reasoning.answering.knowledge import Question, Word
from vectuned.reasoning.answering.reads import WordWeights, check_model, read
from vectuned.reasoning.embedding.embedder import Embedder
from vectuned.reasoning.errors import EmptyQuestionError, QuestionTooLongError
from vectuned.reasoning.graph.context import Context
from vectuned.reasoning.graph.graph import Limits, Node

LONGEST = 4000  # characters


@dataclass(frozen=True)
class In:
    question: Question


@dataclass(frozen=True)
class Out:
    words: tuple[Word, ...]


class Read(Node[In, Out]):
    """Takes the question apart as the store takes entities apart, and checks that both embed alike."""

    name = "read"
    limits = Limits(seconds=5.0, attempts=3)

    def __init__(self, embedder: Embedder, weights: WordWeights) -> None:
        self._embedder = embedder
        self._weights = weights

    def run(self, inputs: In, context: Context) -> Out:
        text = inputs.question.text.strip()
        if not text:
            raise EmptyQuestionError()
        if len(text) > LONGEST:
            raise QuestionTooLongError(count=len(text), limit=LONGEST)
        with context.connection() as conn:
            values = {"question": text.replace("\0", " "), "language": inputs.question.language}
            ((lexemes, name, version, dimensions),) = read(conn, "read_question", values)
            check_model(self._embedder, name, version, dimensions)
            words = self._weights.weigh(conn, lexemes)
        context.decide("words", weights={word.lexeme: word.weight for word in words})
        return Out(words)
