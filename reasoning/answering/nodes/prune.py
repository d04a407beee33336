"""The node `prune`: leave out what is hardly relevant or out of date, more strictly under load."""

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
from vectuned.reasoning.graph.concurrency import Load
from vectuned.reasoning.graph.context import Context
from vectuned.reasoning.graph.graph import Node
from vectuned.reasoning.store.cache import EntityCache

_FULL_LOAD: Final = 0.5  # share of the distance to 1 that thresholds rise by at full load


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


class PruneMaterial(Node[In, Out]):
    """Keeps what the answer is made from, and caches the entities it keeps.

    A candidate is kept if its score is at least `relevance` times the best score and it is about the question
    at all: users confirmed it, its name has at least `name_match` of the question's words by weight, or the
    cosine is at least `similarity`. With these defaults, 1 % of the right answers that are ranked first fall
    below both thresholds. If no candidate has any word of the question, the cosine must be at least
    `unknown_similarity`, because embedders place invented words near entities whose names look like them.

    A link is kept if an end of it is kept, its confidence is at least `confidence`, and it was updated within
    `max_age`. Under a load from 0 to 1, `relevance` and `confidence` rise to threshold + load * 0.5 *
    (1 - threshold). If no candidate is about the question, the run has failed and all results of its searches
    are rejected.
    """

    name = "prune"

    def __init__(
        self,
        cache: EntityCache,
        load: Load,
        *,
        relevance: float = 0.1,
        similarity: float = 0.4,
        name_match: float = 0.15,
        unknown_similarity: float = 0.55,
        confidence: float = 0.2,
        max_age: timedelta | None = None,
    ) -> None:
        self._cache, self._load = cache, load
        self._relevance, self._confidence = relevance, confidence
        self._similarity, self._name_match = similarity, name_match
        self._unknown_similarity = max(similarity, unknown_similarity)
        self._max_age = max_age

    def run(self, inputs: In, context: Context) -> Out:
        load = self._load.level
        relevance = _raise_threshold(self._relevance, load)
        confidence = _raise_threshold(self._confidence, load)
        is_known = any(each.text_match > 0 for each in inputs.candidates)
        similarity = self._similarity if is_known else self._unknown_similarity
        relevant = [
            each
            for each in inputs.candidates
            if each.votes > 0 or each.name_match >= self._name_match or each.similarity >= similarity
        ]
        best = max((each.score for each in relevant), default=0.0)
        candidates = tuple(each for each in relevant if each.score >= relevance * best)
        ids = {each.entity.id for each in candidates}
        links = tuple(
            link
            for link in inputs.relations.links
            if link.confidence >= confidence
            and (link.source in ids or link.target in ids)
            and not self._is_outdated(link)
        )
        rejected: tuple[int, ...] = ()
        if not candidates:
            rejected = tuple(dict.fromkeys(id_ for search in inputs.searches for id_ in search.entities))
        self._cache.put(each.entity for each in candidates)
        context.record_decision(
            "pruned",
            load=load,
            relevance=relevance,
            confidence=confidence,
            candidates=f"{len(candidates)} of {len(inputs.candidates)}",
            links=f"{len(links)} of {len(inputs.relations.links)}",
            cached_entities=len(self._cache),
        )
        slots = {id_: each for id_, each in inputs.slots.items() if id_ in ids}
        entities = {**inputs.relations.entities, **{each.entity.id: each.entity for each in candidates}}
        return Out(Material(candidates, links, slots, entities, rejected))

    def _is_outdated(self, link: Link) -> bool:
        if self._max_age is None or link.updated_at is None:
            return False
        return datetime.now(UTC) - link.updated_at > self._max_age


def _raise_threshold(threshold: float, load: float) -> float:
    return threshold + load * _FULL_LOAD * (1.0 - threshold)
