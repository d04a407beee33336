"""Traversing relationships: explicit ones, hierarchies, likeness and shared attributes, a few steps far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from vectuned.reasoning.answering.knowledge import Breadth, Candidate, Link, Relations, Search
from vectuned.reasoning.answering.reads import HotEntities, entities, read
from vectuned.reasoning.graph.connections import Connection
from vectuned.reasoning.graph.context import Context
from vectuned.reasoning.graph.graph import Limits, Node

_WIDEST: Final = 200  # entities that are gone on from at each step
_LEVELS: Final = 3
_ALIKE: Final = 5
_HOLDERS: Final = 200
_DECAY: Final = 0.7  # of the confidence, with each level of a hierarchy


@dataclass(frozen=True)
class In:
    candidates: tuple[Candidate, ...]
    breadth: Breadth


@dataclass(frozen=True)
class Out:
    relations: Relations
    related_searches: tuple[Search, ...]


class Traverse(Node[In, Out]):
    """Finds what the leads are related to, and how the candidates are related to each other.

    Explicit relationships are followed `breadth.hops` steps, the surest first, at most 200 entities wide;
    the confidence of a way is the product of its parts'. Of the best candidate the levels above in each
    hierarchy and those with rare values of attributes in common are looked up; what is like it is found among
    the candidates, and in a run that looks more widely in the whole store.
    """

    name = "traverse"
    limits = Limits(seconds=10.0, attempts=3)

    def __init__(self, hot: HotEntities) -> None:
        self._hot = hot

    def run(self, inputs: In, context: Context) -> Out:
        leads = [candidate.entity.id for candidate in inputs.candidates[: inputs.breadth.leads]]
        if not leads:
            return Out(Relations((), {}), ())
        self._hot.keep(candidate.entity for candidate in inputs.candidates)
        with context.connection() as conn:
            links = self._explicit(conn, leads, inputs.breadth, context)
            links += _above(conn, leads[:1])
            links += _alike_candidates(inputs.candidates)
            search: tuple[Search, ...] = ()
            if inputs.breadth.hops > 1:
                alike, search = _alike(conn, leads[0])
                links += alike
            links += _sharing(conn, leads[0])
            links = _surest(links)
            found = entities(conn, {id_ for link in links for id_ in (link.source, link.target)}, self._hot)
        links = [link for link in links if link.source in found and link.target in found]
        counts = {kind: sum(link.kind == kind for link in links) for kind in {link.kind for link in links}}
        context.decide("traversed", leads=len(leads), hops=inputs.breadth.hops, links=counts)
        return Out(Relations(tuple(links), found), search)

    def _explicit(
        self, conn: Connection, leads: Sequence[int], breadth: Breadth, context: Context
    ) -> list[Link]:
        links: list[Link] = []
        sure = dict.fromkeys(leads, 1.0)
        front = list(leads)
        for hop in range(1, breadth.hops + 1):
            context.check()
            rows = read(conn, "related_to", {"entities": front, "each": breadth.each})
            reached: dict[int, float] = {}
            for source, target, name, outward, confidence, updated_at in rows:
                ends = (source, target) if outward else (target, source)
                links.append(Link(*ends, "explicit", name, sure[source] * confidence, hop, updated_at))
                if target not in sure:
                    reached[target] = max(reached.get(target, 0.0), sure[source] * confidence)
            front = sorted(reached, key=lambda id_: (-reached[id_], id_))[:_WIDEST]
            sure |= {id_: reached[id_] for id_ in front}
            if not front:
                break
        return links


def _above(conn: Connection, ids: Sequence[int]) -> list[Link]:
    rows = read(conn, "above", {"entities": list(ids), "levels": _LEVELS})
    return [
        Link(entity, above, "hierarchy", hierarchy, _DECAY ** (levels - 1), levels)
        for entity, above, hierarchy, levels in rows
    ]


def _alike(conn: Connection, entity: int) -> tuple[list[Link], tuple[Search, ...]]:
    rows = read(conn, "alike", {"entity": entity, "count": _ALIKE + 1})
    links = [
        Link(entity, other, "semantic", "similar to", min(max(alike, 0.0), 1.0))
        for other, alike, _ in rows
        if other != entity
    ]
    searches = (Search(rows[0][2], tuple(row[0] for row in rows)),) if rows else ()
    return links, searches


def _alike_candidates(candidates: Sequence[Candidate]) -> list[Link]:
    """Link the best candidate with the others most like it, by the vectors that came with them."""
    lead, *others = candidates
    known = [(each.entity.id, each.embedding) for each in others if each.embedding is not None]
    if lead.embedding is None or not known:
        return []
    vectors = np.stack([vector for _, vector in known])
    cosines = vectors @ lead.embedding
    cosines /= np.linalg.norm(vectors, axis=1) * np.linalg.norm(lead.embedding)
    nearest = np.argsort(-cosines, kind="stable")[:_ALIKE]
    return [
        Link(lead.entity.id, known[at][0], "semantic", "similar to", float(np.clip(cosines[at], 0.0, 1.0)))
        for at in nearest
    ]


def _sharing(conn: Connection, entity: int) -> list[Link]:
    rows = read(conn, "sharing", {"entity": entity, "holders": _HOLDERS, "most": _ALIKE})
    return [
        Link(entity, other, "attributes", f"shares {', '.join(values[:3])}", shared / (shared + 1))
        for other, shared, values in rows
    ]


def _surest(links: Sequence[Link]) -> list[Link]:
    """Keep of links of the same ends, kind and name the surest, in the order in which they came."""
    best: dict[tuple[int, int, str, str], Link] = {}
    for link in links:
        key = (link.source, link.target, link.kind, link.name)
        if key not in best or link.confidence > best[key].confidence:
            best[key] = link
    return list(best.values())
