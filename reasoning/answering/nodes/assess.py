"""The controller: is what was found coherent and complete, or is the run to look more widely, once?"""

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
    Word,
)
from vectuned.reasoning.graph.context import Context
from vectuned.reasoning.graph.graph import Node

_CHAIN: Final = 5


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


class Assess(Node[In, Out]):
    """Scores the chain of reasoning from 0 to 1 twice, and sends the run back if either is too low.

    coherence = sum of s_i s_j l_ij / sum of s_i s_j over the pairs of the five best candidates, where s is a
    candidate's score and l_ij the surest link between two: the confidence of a link that was found, or the
    cosine of their vectors. One candidate alone is coherent, none is not.

    completeness = (slots + answered) / 2, where slots is the mean over the leads, weighted by score, of the
    share of slots that are filled (required ones count twice), and answered the largest share of the
    question's words, by weight, that a name of a candidate has (1 if the question has no words that count).
    """

    name = "assess"

    def __init__(self, min_coherence: float = 0.15, min_completeness: float = 0.55) -> None:
        self._min_coherence = min_coherence
        self._min_completeness = min_completeness

    def run(self, inputs: In, context: Context) -> Out:
        coherence = _coherence(inputs.candidates[:_CHAIN], inputs.relations.links)
        completeness = _completeness(inputs.candidates, inputs.slots, bool(inputs.words))
        gaps = tuple(_gaps(inputs))
        enough = (
            bool(inputs.candidates)
            and coherence >= self._min_coherence
            and completeness >= self._min_completeness
        )
        context.decide("assessed", coherence=coherence, completeness=completeness, enough=enough, gaps=gaps)
        if not enough and context.may_send_back:
            wider = inputs.breadth.wider()
            context.decide("sent back", breadth=wider)
            context.send_back(breadth=wider)
        return Out(Assessment(coherence, completeness, enough, gaps))


def _coherence(chain: Sequence[Candidate], links: Sequence[Link]) -> float:
    if len(chain) < 2:
        return float(len(chain))
    place = {candidate.entity.id: at for at, candidate in enumerate(chain)}
    linked = np.zeros((len(chain), len(chain)))
    if all(candidate.embedding is not None for candidate in chain):
        vectors = np.stack([np.asarray(candidate.embedding, dtype=np.float64) for candidate in chain])
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        linked = np.clip(vectors @ vectors.T, 0.0, 1.0)
    for link in links:
        if link.source in place and link.target in place:
            i, j = place[link.source], place[link.target]
            linked[i, j] = linked[j, i] = max(linked[i, j], min(link.confidence, 1.0))
    scores = np.array([max(candidate.score, 1e-6) for candidate in chain])
    weights = np.triu(np.outer(scores, scores), 1)
    return float((weights * linked).sum() / weights.sum())


def _completeness(candidates: Sequence[Candidate], slots: Mapping[int, Slots], has_words: bool) -> float:
    leads = [candidate for candidate in candidates if candidate.entity.id in slots]
    if not leads:
        return 0.0
    scores = np.array([max(lead.score, 1e-6) for lead in leads])
    filled = np.array([slots[lead.entity.id].completeness for lead in leads])
    answered = min(max(candidate.names for candidate in candidates), 1.0) if has_words else 1.0
    return float(((scores * filled).sum() / scores.sum() + answered) / 2)


def _gaps(inputs: In) -> list[str]:
    if not inputs.candidates:
        return ["no entity was found"]
    lead = inputs.candidates[0]
    gaps = [f"{slot.name} of {lead.entity.name}" for slot in _missing(inputs.slots, lead) if slot.required]
    if inputs.words and not any(candidate.names > 0 for candidate in inputs.candidates):
        gaps.append("no entity has a name that the question mentions")
    if not any(lead.entity.id in (link.source, link.target) for link in inputs.relations.links):
        gaps.append(f"nothing is related to {lead.entity.name}")
    return gaps


def _missing(slots: Mapping[int, Slots], lead: Candidate) -> Sequence[Slot]:
    return slots[lead.entity.id].missing if lead.entity.id in slots else ()
