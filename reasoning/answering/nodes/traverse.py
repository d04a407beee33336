"""The node `traverse`: find how the leads are related to other entities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from vectuned.reasoning.answering.knowledge import Breadth, Candidate, Link, Relations, Search
from vectuned.reasoning.graph.connections import Connection
from vectuned.reasoning.graph.context import Context
from vectuned.reasoning.graph.graph import Limits, Node
from vectuned.reasoning.store.cache import EntityCache
from vectuned.reasoning.store.reads import read, read_entities

_MAX_WIDTH: Final = 200  # entities from which each hop goes on: bounds the work at hubs
_MAX_LEVELS: Final = 3  # levels above an entity in a hierarchy: higher ones are too general to say much
_MAX_SIMILAR: Final = 5  # links by similarity or by shared attributes
_MAX_HOLDERS: Final = 200  # entities with an attribute value above which it does not distinguish entities
_LEVEL_DECAY: Final = 0.7  # factor on the confidence for each further level of a hierarchy


@dataclass(frozen=True)
class In:
    candidates: tuple[Candidate, ...]
    breadth: Breadth


@dataclass(frozen=True)
class Out:
    relations: Relations
    related_searches: tuple[Search, ...]


class TraverseLinks(Node[In, Out]):
    """Finds what the leads are related to, and how the candidates are related to each other.

    Relationships are followed over `breadth.hops` hops, highest confidence first, from at most 200 entities
    at each hop; the confidence of a path is the product of its relationships'. For the best candidate it also
    finds the levels above it in each hierarchy, the entities with which it shares rare attribute values, and
    similar entities: among the candidates, and in a wider run in the whole store.
    """

    name = "traverse"
    limits = Limits(seconds=10.0, attempts=3)

    def __init__(self, cache: EntityCache) -> None:
        self._cache = cache

    def run(self, inputs: In, context: Context) -> Out:
        leads = [candidate.entity.id for candidate in inputs.candidates[: inputs.breadth.leads]]
        if not leads:
            return Out(Relations((), {}), ())
        self._cache.put(candidate.entity for candidate in inputs.candidates)
        with context.connection() as conn:
            links = _follow_relationships(conn, leads, inputs.breadth, context)
            links += _find_above(conn, leads[0])
            links += _link_similar_candidates(inputs.candidates)
            searches: tuple[Search, ...] = ()
            if inputs.breadth.hops > 1:
                similar, searches = _find_similar(conn, leads[0])
                links += similar
            links += _find_sharing(conn, leads[0])
            links = _without_duplicates(links)
            ends = {id_ for link in links for id_ in (link.source, link.target)}
            entities = read_entities(conn, ends, self._cache)
        links = [link for link in links if link.source in entities and link.target in entities]
        counts = {kind: sum(link.kind == kind for link in links) for kind in {link.kind for link in links}}
        context.record_decision("traversed", leads=len(leads), hops=inputs.breadth.hops, links=counts)
        return Out(Relations(tuple(links), entities), searches)


def _follow_relationships(
    conn: Connection, leads: Sequence[int], breadth: Breadth, context: Context
) -> list[Link]:
    links: list[Link] = []
    confidence = dict.fromkeys(leads, 1.0)
    front = list(leads)
    for hop in range(1, breadth.hops + 1):
        context.raise_if_cancelled()
        reached: dict[int, float] = {}
        for row in read(conn, "find_related", entities=front, per_entity=breadth.links_per_entity):
            source, target = (row.entity_id, row.other_id) if row.outward else (row.other_id, row.entity_id)
            product = confidence[row.entity_id] * row.confidence
            links.append(Link(source, target, "explicit", row.type, product, hop, row.updated_at))
            if row.other_id not in confidence:
                reached[row.other_id] = max(reached.get(row.other_id, 0.0), product)
        front = sorted(reached, key=lambda id_: (-reached[id_], id_))[:_MAX_WIDTH]
        confidence |= {id_: reached[id_] for id_ in front}
        if not front:
            break
    return links


def _find_above(conn: Connection, entity: int) -> list[Link]:
    return [
        Link(
            row.entity_id,
            row.ancestor_id,
            "hierarchy",
            row.hierarchy,
            _LEVEL_DECAY ** (row.levels - 1),
            row.levels,
        )
        for row in read(conn, "find_above", entities=[entity], max_levels=_MAX_LEVELS)
    ]


def _find_similar(conn: Connection, entity: int) -> tuple[list[Link], tuple[Search, ...]]:
    # One more, since the nearest to an entity is itself.
    rows = read(conn, "find_alike", entity=entity, count=_MAX_SIMILAR + 1)
    links = [_similarity_link(entity, row.id, row.similarity) for row in rows if row.id != entity]
    searches = (Search(rows[0].query_id, tuple(row.id for row in rows)),) if rows else ()
    return links, searches


def _link_similar_candidates(candidates: Sequence[Candidate]) -> list[Link]:
    """Link the best candidate to the most similar others, by the vectors that came with them."""
    lead, *others = candidates
    known = [(each.entity.id, each.embedding) for each in others if each.embedding is not None]
    if lead.embedding is None or not known:
        return []
    vectors = np.stack([vector for _, vector in known])
    cosines = vectors @ lead.embedding
    cosines /= np.linalg.norm(vectors, axis=1) * np.linalg.norm(lead.embedding)
    nearest = np.argsort(-cosines, kind="stable")[:_MAX_SIMILAR]
    return [_similarity_link(lead.entity.id, known[at][0], float(cosines[at])) for at in nearest]


def _similarity_link(source: int, target: int, cosine: float) -> Link:
    return Link(source, target, "semantic", "similar to", min(max(cosine, 0.0), 1.0))


def _find_sharing(conn: Connection, entity: int) -> list[Link]:
    rows = read(conn, "find_sharing", entity=entity, max_holders=_MAX_HOLDERS, max_results=_MAX_SIMILAR)
    return [
        Link(
            entity,
            row.other_id,
            "attributes",
            f"shares {', '.join(row.shared_values[:3])}",
            row.shared / (row.shared + 1),
        )
        for row in rows
    ]


def _without_duplicates(links: Sequence[Link]) -> list[Link]:
    """Keep the link of highest confidence among those with the same ends, kind and name, in their order."""
    best: dict[tuple[int, int, str, str], Link] = {}
    for link in links:
        key = (link.source, link.target, link.kind, link.name)
        if key not in best or link.confidence > best[key].confidence:
            best[key] = link
    return list(best.values())
