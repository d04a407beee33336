"""The node `assess`: score the evidence, and start the run again with a wider search if it is thin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from vectuned.reasoning.answering.knowledge import (
    Assessment,
    Breadth,
    Candidate,
    Link,
    Question,
    Relations,
    Slot,
    Slots,
)
from vectuned.reasoning.graph.context import Context
from vectuned.reasoning.graph.graph import Node
from vectuned.reasoning.store.words import Word

_COHERENT: Final = 5  # candidates whose coherence is measured: an answer is made from no more
_MIN_SCORE: Final = 1e-6  # keeps weights above 0 where every score is 0 or less


@dataclass(frozen=True)
class In:
    question: Question
    words: tuple[Word, ...]
    candidates: tuple[Candidate, ...]
    slots: Mapping[int, Slots]
    relations: Relations
    breadth: Breadth


@dataclass(frozen=True)
class Out:
    assessment: Assessment


class AssessEvidence(Node[In, Out]):
    """Scores coherence and completeness from 0 to 1, and sends the run back if either is too low.

    coherence = sum of s_i s_j l_ij / sum of s_i s_j over the pairs of the five best candidates, where s is
    the score of a candidate and l_ij the strongest link between two: the confidence of a link that was found,
    or the cosine of their vectors. It is 1 for a single candidate and 0 for none.

    completeness = (slots + answered) / 2, where `slots` is the mean over the leads, weighted by score, of the
    share of slots that are filled (required slots count twice), and `answered` is the largest share of the
    question's words, by weight, that the name of a candidate has (1 if the question has no words that count).
    """

    name = "assess"

    def __init__(self, min_coherence: float = 0.15, min_completeness: float = 0.55) -> None:
        self._min_coherence = min_coherence
        self._min_completeness = min_completeness

    def run(self, inputs: In, context: Context) -> Out:
        coherence = _coherence(inputs.candidates[:_COHERENT], inputs.relations.links)
        completeness = _completeness(inputs.candidates, inputs.slots, bool(inputs.words))
        gaps = tuple(_gaps(inputs))
        is_enough = (
            bool(inputs.candidates)
            and coherence >= self._min_coherence
            and completeness >= self._min_completeness
        )
        context.record_decision(
            "assessed", coherence=coherence, completeness=completeness, enough=is_enough, gaps=gaps
        )
        if not is_enough and context.may_send_back:
            wider = inputs.breadth.widen()
            context.record_decision("sent back", breadth=wider)
            context.send_back(breadth=wider)
        return Out(Assessment(coherence, completeness, is_enough, gaps))


def _coherence(candidates: Sequence[Candidate], links: Sequence[Link]) -> float:
    if len(candidates) < 2:
        return float(len(candidates))
    position = {candidate.entity.id: at for at, candidate in enumerate(candidates)}
    strength = np.zeros((len(candidates), len(candidates)))
    if all(candidate.embedding is not None for candidate in candidates):
        vectors = np.stack([np.asarray(candidate.embedding, dtype=np.float64) for candidate in candidates])
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        strength = np.clip(vectors @ vectors.T, 0.0, 1.0)
    for link in links:
        if link.source in position and link.target in position:
            i, j = position[link.source], position[link.target]
            strength[i, j] = strength[j, i] = max(strength[i, j], min(link.confidence, 1.0))
    scores = np.array([max(candidate.score, _MIN_SCORE) for candidate in candidates])
    weights = np.triu(np.outer(scores, scores), 1)
    return float((weights * strength).sum() / weights.sum())


def _completeness(candidates: Sequence[Candidate], slots: Mapping[int, Slots], has_words: bool) -> float:
    leads = [candidate for candidate in candidates if candidate.entity.id in slots]
    if not leads:
        return 0.0
    scores = np.array([max(lead.score, _MIN_SCORE) for lead in leads])
    filled = np.array([slots[lead.entity.id].completeness for lead in leads])
    answered = min(max(candidate.name_match for candidate in candidates), 1.0) if has_words else 1.0
    return float(((scores * filled).sum() / scores.sum() + answered) / 2)


def _gaps(inputs: In) -> list[str]:
    if not inputs.candidates:
        return ["no entity was found"]
    lead = inputs.candidates[0]
    gaps = [f"{slot.name} of {lead.entity.name}" for slot in _missing(inputs.slots, lead) if slot.required]
    if inputs.words and not any(candidate.name_match > 0 for candidate in inputs.candidates):
        gaps.append("no entity has a name that the question mentions")
    if not any(lead.entity.id in (link.source, link.target) for link in inputs.relations.links):
        gaps.append(f"nothing is related to {lead.entity.name}")
    return gaps


def _missing(slots: Mapping[int, Slots], lead: Candidate) -> Sequence[Slot]:
    return slots[lead.entity.id].missing if lead.entity.id in slots else ()
