"""The node `read`: split the question into words and weigh each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vectuned.reasoning.answering.knowledge import Question
from vectuned.reasoning.embedding.embedder import Embedder
from vectuned.reasoning.errors import EmptyQuestionError, QuestionTooLongError
from vectuned.reasoning.graph.context import Context
from vectuned.reasoning.graph.graph import Limits, Node
from vectuned.reasoning.store.reads import read_lexemes
from vectuned.reasoning.store.words import Word, WordWeights

MAX_CHARACTERS: Final = 4000  # of a question: some pages; each word of it costs a lookup


@dataclass(frozen=True)
class In:
    question: Question


@dataclass(frozen=True)
class Out:
    words: tuple[Word, ...]


class ReadQuestion(Node[In, Out]):
    """Parses the question as the store parses its entities, and checks that both have the same model."""

    name = "read"
    limits = Limits(seconds=5.0, attempts=3)

    def __init__(self, embedder: Embedder, weights: WordWeights) -> None:
        self._embedder = embedder
        self._weights = weights

    def run(self, inputs: In, context: Context) -> Out:
        text = inputs.question.text.strip()
        if not text:
            raise EmptyQuestionError()
        if len(text) > MAX_CHARACTERS:
            raise QuestionTooLongError(count=len(text), limit=MAX_CHARACTERS)
        # PostgreSQL's type text cannot hold NUL.
        text = text.replace("\0", " ")
        with context.connection() as conn:
            lexemes = read_lexemes(conn, text, inputs.question.language, self._embedder)
            words = self._weights.weigh(conn, lexemes)
        context.record_decision("words", weights={word.lexeme: word.weight for word in words})
        return Out(words)
