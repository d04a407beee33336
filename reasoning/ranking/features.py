"""What a ranking of candidates sees of them and of the question, and the weights that it gives to that."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from vectuned.learning.model.arrays import Floats, Ints
from vectuned.reasoning.embedding.embedder import Vectors
from vectuned.reasoning.store.words import Word, write_tsquery

# In the order of vectuned_entities._candidates.
FEATURES: Final = (
    "name_match",  # share of the question's words, by weight, that the name has
    "coverage",  # share of the name's words that the question has
    "similarity",  # cosine of the question and the entity
    "text_match",  # as name_match, of name and description
    "text_coverage",  # as coverage, of name and description
    "name_match x coverage",
    "log of the name's words",
)
# Inputs of learned rankings. The kinds of entity and the log of the likelihood follow them.
LEARNED_FEATURES: Final = (
    *FEATURES,
    "similarity behind the best",
    "similarity x name_match",
    "has a word in the name",
    "log of texts",  # of the number of texts linked to the entity
)
SIGNATURE: Final = ("best similarity", "lead of the best", "best name_match", "best text_match")
SHAPE: Final = ("share of words that do not count", "has a comma", "begins like a description")
WORDING: Final = (
    "log of words",
    "begins with an article",
    "begins with to",
    "largest weight of a word",
    "words that count",
    "begins like an adjective's description",
    "begins with a participle",
    "begins with a preposition",
)
LAYOUT: Final = 1  # version of the inputs of learned rankings; raise it whenever any of these changes
GATE_LENGTH: Final = 1 + len(SIGNATURE) + len(SHAPE)  # with the intercept
LENGTH: Final = GATE_LENGTH + 2 * len(FEATURES)

# How many candidates a search draws if nothing else is asked for; rankings are learned from as many.
NEIGHBOURS: Final = 10  # entities near the question's vector: as many as a run keeps
NAME_MATCHES: Final = 200  # entities by the words of their names: short names tie, and all ties are wanted
TEXT_MATCHES: Final = 80  # entities by their rarest words: more cost milliseconds and find little

_TOKEN: Final = re.compile(r"\w+")
# First words of English descriptions. Questions in another language lack this one sign.
_BEGINNINGS: Final = frozenset(["a", "an", "the", "to", "one", "something", "someone", "what", "who", "that"])
_ARTICLES: Final = frozenset(["a", "an", "the", "one", "something", "someone", "any"])
_ADJECTIVES: Final = frozenset(["of", "pertaining", "having", "not", "being", "relating", "full", "capable"])
_PREPOSITIONS: Final = frozenset(["in", "with", "by"])
_USUAL_WEIGHT: Final = 12.0  # weight of the rarest word, ln of 160,000 entities; scales weights to about 1
_USUAL_WORDS: Final = 8.0  # words that count in a question of one line; scales their number to about 1
_RARE_WORDS: Final = 6  # words looked up in descriptions: more find little, and each costs up to 0.3 ms
_LARGEST_LOGIT: Final = 50.0  # beyond which a likelihood is 0 or 1 in double precision


@dataclass(frozen=True)
class Ranking:
    """Weights by which candidates are scored.

    `gate` (8,): logistic regression, from intercept, signature and shape, of whether a question names its
    answer. `named` and `described` (7,): weights of the features for questions that name their answer and
    for those that describe it. Each list gives every candidate a share of exp(weights . features); the score
    is the mean of both shares, weighted by the gate.
    """

    gate: Floats
    named: Floats
    described: Floats

    def to_array(self) -> Floats:
        """Return all weights in one array, as the database holds them."""
        return np.concatenate([self.gate, self.named, self.described])

    @classmethod
    def from_array(cls, weights: Sequence[float] | Floats) -> Self:
        """Return the ranking of an array of `to_array`; raises ValueError for another length."""
        array = np.asarray(weights, dtype=np.float64)
        if array.shape != (LENGTH,) or not np.isfinite(array).all():
            raise ValueError(f"a ranking has {LENGTH} finite weights, not {array.shape}")
        gate, named, described = np.split(array, [GATE_LENGTH, GATE_LENGTH + len(FEATURES)])
        return cls(gate, named, described)

    def open_gate(self, signatures: Floats) -> Floats:
        """Return how likely each of n questions (n, 7) names its answer, 0 to 1."""
        logits = self.gate[0] + signatures @ self.gate[1:]
        return np.asarray(1 / (1 + np.exp(-np.clip(logits, -_LARGEST_LOGIT, _LARGEST_LOGIT))))

    def score(self, features: Floats, question: Ints, opened: Floats) -> Floats:
        """Score c candidates, of which `features` is (c, 7) and `question` (c,) says to which they belong.

        `opened` (n,): how likely each question names its answer.
        """
        share = opened[question]
        named = softmax(features @ self.named, question)
        described = softmax(features @ self.described, question)
        return np.asarray(share * named + (1 - share) * described)


def softmax(logits: Floats, question: Ints) -> Floats:
    """Return the share of exp(logit) among the candidates of the same question."""
    highest = np.full(question.max(initial=-1) + 1, -np.inf)
    np.maximum.at(highest, question, logits)
    raised = np.exp(logits - highest[question])
    return np.asarray(raised / np.bincount(question, weights=raised, minlength=len(highest))[question])


def shape_of(text: str, words: Sequence[Word]) -> list[float]:
    """Return the shape of a question; see SHAPE."""
    tokens = _TOKEN.findall(text.casefold())
    count = max(len(tokens), 1)
    return [
        1 - min(len(words), count) / count,
        float("," in text or ";" in text),
        float(tokens[:1] != [] and tokens[0] in _BEGINNINGS),
    ]


def wording_of(text: str, words: Sequence[Word]) -> list[float]:
    """Return how a question is worded, as inputs of learned rankings; see WORDING."""
    tokens = _TOKEN.findall(text.casefold())
    first = tokens[0] if tokens else ""
    return [
        float(np.log1p(len(tokens))),
        float(first in _ARTICLES),
        float(first == "to"),
        max((word.weight for word in words), default=0.0) / _USUAL_WEIGHT,
        len(words) / _USUAL_WORDS,
        float(first in _ADJECTIVES),
        float(first.endswith("ing")),
        float(first in _PREPOSITIONS),
    ]


def search_values(words: Sequence[Word], vector: Vectors) -> dict[str, object]:
    """Return the parameters of `_candidates` that describe the question."""
    total = sum(word.weight for word in words) or 1.0
    rare = sorted(words, key=lambda word: -word.weight)[:_RARE_WORDS]
    lexemes = [word.lexeme for word in words]
    return {
        "query": vector,
        "lexemes": lexemes,
        "weights": [word.weight / total for word in words],
        "words": write_tsquery(lexemes),
        "rare": [write_tsquery([word.lexeme]) for word in rare],
        "rare_weights": [word.weight for word in rare],
    }


# The ranking before any feedback. For questions that name their answer it was tuned by hand, for descriptions
# it was fitted on 1,500 definitions of another dictionary than the store's. The gate was fitted on both kinds
# and leans towards questions that name their answer, which lose more by a wrong choice.
PRIOR: Final = Ranking(
    gate=np.array([8.7, -4.33, 1.34, 5.43, -2.84, -2.4, -4.63, -1.68]),
    named=np.array([9.0, 0.72, 2.28, 0.0, 0.0, 0.0, 0.0]),
    described=np.array([3.66, -3.27, 9.59, 8.58, 2.38, -6.01, 0.0]),
)
