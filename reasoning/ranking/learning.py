"""Learn the ranking of an entity store from its feedback, and publish it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
from psycopg.types.json import Jsonb

from vectuned.learning.model.arrays import Floats, Singles
from vectuned.reasoning.embedding.embedder import Embedder, Vectors
from vectuned.reasoning.graph.connections import Connection
from vectuned.reasoning.store.reads import prepare, read, read_lexemes, to_array
from vectuned.reasoning.store.words import Word, WordWeights

from .features import (
    FEATURES,
    LAYOUT,
    NAME_MATCHES,
    NEIGHBOURS,
    PRIOR,
    SHAPE,
    SIGNATURE,
    TEXT_MATCHES,
    search_values,
    shape_of,
    wording_of,
)
from .learner import MIN_QUESTIONS, Learned, learn_ranking
from .network import Samples, log_likelihood

log = logging.getLogger(__name__)

Progress = Callable[[int], None]
Pass = Callable[[], AbstractContextManager[object]]
"""Opens one pass of the work; a budget may delay the pass and is charged for it."""

MAX_QUESTIONS: Final = 4000  # the latest; a minute of searches, and more hardly change a small network
MAX_KINDS: Final = 16  # values of the attribute that tells an entity's kind: each is an input to compute
_KINDS_FROM: Final = 2000  # entities looked at to find that attribute: enough to see a share of 90 %
_NEWS: Final = 0.05  # share of the votes that must be new or gone to learn again: fewer change little
_FEW_NEWS: Final = 20  # votes, the least change to learn from: a small store would learn at each vote
_PASS: Final = 50  # questions in one pass: half a second, so that the budget can pause in between


@dataclass(frozen=True)
class LearnedAnswers:
    """The result of learning: the number of questions, and the ranking published, None if too few."""

    questions: int
    ranking_id: int | None = None
    learned: Learned | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain data."""
        learned = self.learned
        return {
            "questions": self.questions,
            "ranking_id": self.ranking_id,
            "for_named": learned is not None and learned.for_named,
            "for_described": learned is not None and learned.for_described,
            "evidence": learned.evidence if learned is not None else {},
        }


@dataclass(frozen=True)
class Drawn:
    """The candidates of one question; see `Samples`."""

    features: Singles
    is_answer: npt.NDArray[np.bool_]
    details: Floats
    weight: float
    role: str

    @classmethod
    def of(
        cls, found: Sequence[Any], answers: Sequence[int], details: Sequence[float], weight: float, role: str
    ) -> Self:
        """Make one from the rows of `find_features` and the ids of the answers."""
        return cls(
            np.stack([to_array(each.features) for each in found]),
            np.isin([each.id for each in found], answers),
            np.array(details, dtype=np.float64),
            weight,
            role,
        )


def may_learn_answers(conn: Connection) -> bool:
    """Return whether the database has an entity store that the role may learn a ranking for."""
    (row,) = read(conn, "may_learn_answers")
    return bool(row.allowed)


def has_news(conn: Connection) -> bool:
    """Return whether enough votes are new or gone since a ranking was learned, or the model has changed."""
    (state,) = read(conn, "learning_state", layout=LAYOUT)
    if state.model_id is None:
        return False
    if state.learned_votes is None or not state.is_current:
        return bool(state.votes >= MIN_QUESTIONS)
    return bool(abs(state.votes - state.learned_votes) > max(_NEWS * state.learned_votes, _FEW_NEWS))


def learn_answers(
    conn: Connection,
    embedder: Embedder,
    language: str,
    *,
    seed: int = 0,
    progress: Progress = lambda _done: None,
    paced: Pass = nullcontext,
) -> LearnedAnswers:
    """Learn a ranking from the confirmed answers of the store, and serve it where it is proven.

    With fewer than MIN_QUESTIONS questions none is served. Raises ModelMismatchError if the store has vectors
    of another model.
    """
    prepare(conn)
    confirmed = read(conn, "read_confirmed", max_questions=MAX_QUESTIONS)
    (state,) = read(conn, "learning_state", layout=LAYOUT)
    if state.model_id is None:
        return LearnedAnswers(0)
    kinds = [row.value_id for row in read(conn, "find_kinds", max_entities=_KINDS_FROM, max_kinds=MAX_KINDS)]
    draw = _Drawing(conn, embedder, language, kinds)
    drawn: list[Drawn] = []
    for first in range(0, len(confirmed), _PASS):
        with paced():
            drawn += draw(confirmed[first : first + _PASS])
        progress(len(drawn))
    with paced():
        samples = stack_questions(drawn)
        learned = learn_ranking(samples, seed) if len(samples) >= MIN_QUESTIONS else None
    (published,) = read(
        conn,
        "publish_ranking",
        layout=LAYOUT,
        model_id=state.model_id,
        weights=learned.network.to_array().tolist() if learned is not None else [],
        kinds=kinds,
        for_named=learned is not None and learned.for_named,
        for_described=learned is not None and learned.for_described,
        questions=len(samples),
        feedback=state.votes,
        evidence=Jsonb(learned.evidence if learned is not None else {}),
    )
    outcome = LearnedAnswers(len(samples), published.ranking_id, learned)
    log.info("learned a ranking of answers from %d questions", len(samples), extra={"action": "learn"})
    return outcome


class _Drawing:
    """Searches for the candidates of questions as the node `identify` does, but without votes."""

    def __init__(self, conn: Connection, embedder: Embedder, language: str, kinds: list[int]) -> None:
        self._conn, self._embedder, self._language, self._kinds = conn, embedder, language, kinds
        self._weights = WordWeights()

    def __call__(self, confirmed: Sequence[Any]) -> list[Drawn]:
        """Return the candidates of each question that has any."""
        drawn = []
        vectors = self._embedder.encode([row.question for row in confirmed])
        for row, vector in zip(confirmed, vectors, strict=True):
            lexemes = read_lexemes(self._conn, row.question, self._language, self._embedder)
            words = self._weights.weigh(self._conn, lexemes)
            if found := find_features(self._conn, words, vector, self._kinds):
                shape = [*shape_of(row.question, words), *wording_of(row.question, words)]
                details = [*found[0].signature, *shape]
                drawn.append(Drawn.of(found, row.entities, details, row.weight, row.role))
        return drawn


def find_features(conn: Connection, words: Sequence[Word], vector: Vectors, kinds: list[int]) -> list[Any]:
    """Return the candidates for the answer to a question with their features."""
    return read(
        conn,
        "read_features",
        **search_values(words, vector),
        neighbours=NEIGHBOURS,
        name_matches=NAME_MATCHES,
        text_matches=TEXT_MATCHES,
        kinds=kinds,
    )


def stack_questions(drawn: Sequence[Drawn]) -> Samples:
    """Join the candidates of all questions to samples, with their likelihoods by the prior."""
    if not drawn:
        nothing, none = np.zeros(0), np.zeros((0, 0))
        ints = np.zeros(0, dtype=np.int64)
        return Samples(
            none.astype(np.float32), ints, ints > 0, nothing, none, nothing, nothing.astype(np.str_), nothing
        )
    question = np.repeat(np.arange(len(drawn)), [len(each.features) for each in drawn])
    features = np.concatenate([each.features for each in drawn])
    details = np.stack([each.details for each in drawn])
    opened = PRIOR.open_gate(details[:, : len(SIGNATURE) + len(SHAPE)])
    likelihood = PRIOR.score(features[:, : len(FEATURES)].astype(np.float64), question, opened)
    return Samples(
        np.column_stack([features, log_likelihood(likelihood)]).astype(np.float32),
        question,
        np.concatenate([each.is_answer for each in drawn]),
        likelihood,
        details,
        np.array([each.weight for each in drawn]),
        np.array([each.role for each in drawn], dtype=np.str_),
        opened,
    )
