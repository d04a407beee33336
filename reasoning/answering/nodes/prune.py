"""Pruning: leave out what is hardly relevant or out of date, the more so the busier it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from vectuned.reasoning.answering.knowledge import (
    Assessment,
    Candidate,
    Link,
    Material,
    Relations,
    Search,
    Slots,
)
from vectuned.reasoning.answering.reads import HotEntities
from vectuned.reasoning.graph.concurrency import Load
from vectuned.reasoning.graph.context import Context
from vectuned.reasoning.graph.graph import Node

_STRICTER: Final = 0.5


@dataclass(frozen=True)
class In:
    candidates: tuple[Candidate, ...]
    relations: Relations
    slots: Mapping[int, Slots]
    searches: tuple[Search, ...]
    assessment: Assessment


@dataclass(frozen=True)
class Out:
    material: Material


class Prune(Node[In, Out]):
    """Keeps what the answer is made from, and keeps in memory what was kept.

    A candidate stays if its score is at least `relevance` of the best one's and it is about the question at
    all: named by it, or at least `similarity` alike. A link stays if an end of it stayed, it is at least
    `confidence` sure and was confirmed within `max_age`. With the load, from 0 to 1, the two shares grow to
    threshold + load * 0.5 * (1 - threshold). If nothing is about the question, the run has failed, and all
    that its searches returned is rejected.
    """

    name = "prune"

    def __init__(
        self,
        hot: HotEntities,
        load: Load,
        *,
        relevance: float = 0.35,
        similarity: float = 0.3,
        confidence: float = 0.2,
        max_age: timedelta | None = None,
    ) -> None:
        self._hot, self._load = hot, load
        self._relevance, self._similarity, self._confidence = relevance, similarity, confidence
        self._max_age = max_age

    def run(self, inputs: In, context: Context) -> Out:
        level = self._load.level
        relevance = _stricter(self._relevance, level)
        confidence = _stricter(self._confidence, level)
        about = [each for each in inputs.candidates if each.names > 0 or each.similarity >= self._similarity]
        best = max((each.score for each in about), default=0.0)
        kept = tuple(each for each in about if each.score >= relevance * best)
        ids = {each.entity.id for each in kept}
        links = tuple(
            link
            for link in inputs.relations.links
            if link.confidence >= confidence
            and (link.source in ids or link.target in ids)
            and not self._is_outdated(link)
        )
        rejected: tuple[int, ...] = ()
        if not kept:
            rejected = tuple(dict.fromkeys(id_ for search in inputs.searches for id_ in search.entities))
        self._hot.keep(each.entity for each in kept)
        context.decide(
            "pruned",
            load=level,
            relevance=relevance,
            confidence=confidence,
            candidates=f"{len(kept)} of {len(inputs.candidates)}",
            links=f"{len(links)} of {len(inputs.relations.links)}",
            hot_entities=len(self._hot),
        )
        slots = {id_: each for id_, each in inputs.slots.items() if id_ in ids}
        entities = {**inputs.relations.entities, **{each.entity.id: each.entity for each in kept}}
        return Out(Material(kept, links, slots, entities, rejected))

    def _is_outdated(self, link: Link) -> bool:
        if self._max_age is None or link.updated_at is None:
            return False
        return datetime.now(UTC) - link.updated_at > self._max_age


def _stricter(threshold: float, level: float) -> float:
    return threshold + level * _STRICTER * (1.0 - threshold)
