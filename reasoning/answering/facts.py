"""Facts: single sentences with their source, which answers are made of."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from .knowledge import Entity, Link, Material, Resource, Slots, Word

_SENTENCE: Final = re.compile(r"(?<=[.!?])\s+|\n+")
_OTHERS: Final = 2
_LINKS: Final = 6
_NAMES: Final = 3
_FROM_RESOURCES: Final = 3
_LONGEST: Final = 400

# How relationships are put into words; any other is named as it is.
_PHRASES: Final = {
    "hypernym": "is a kind of",
    "instance_hypernym": "is an instance of",
    "hyponym": "has as a kind",
    "instance_hyponym": "has as an instance",
    "meronym_part": "has as a part",
    "meronym_member": "has as a member",
    "meronym_substance": "is made of",
    "holonym_part": "is a part of",
    "holonym_member": "is a member of",
    "holonym_substance": "is a substance of",
    "antonym": "is the opposite of",
    "entailment": "entails",
    "cause": "causes",
    "similar": "is similar to",
    "also_see": "is related to",
    "derivation": "is derived from or the root of",
    "domain_topic": "belongs to the topic",
}


@dataclass(frozen=True)
class Fact:
    """A sentence and where it is from; `ids` are those of the entities or the resource it is about."""

    text: str
    kind: Literal["entity", "relation", "resource"]
    ids: tuple[int, ...]
    source: str


def facts_from(material: Material, resources: Sequence[Resource], words: Sequence[Word]) -> tuple[Fact, ...]:
    """Put what was found into sentences, the most telling first.

    Of the best entity, what it is and what it is related to; then other entities the question may mean; of
    resources the sentences with most of the question's words.
    """
    if not material.candidates:
        return tuple(_from_resources(resources, words))
    lead, *others = (candidate.entity for candidate in material.candidates)
    return (
        _of_entity(lead, material.slots),
        *_of_links(lead, material.links, material.entities),
        *(_of_entity(entity, material.slots) for entity in others[:_OTHERS]),
        *_from_resources(resources, words),
    )


def _of_entity(entity: Entity, slots: Mapping[int, Slots]) -> Fact:
    filled = {value.slot: value.value for value in slots[entity.id].filled} if entity.id in slots else {}
    category = f" ({filled['category']})" if "category" in filled else ""
    said = f": {_ended(entity.description)}" if entity.description else "."
    return Fact(f"{entity.name}{category}{said}", "entity", (entity.id,), f"entity {entity.label}")


def _of_links(lead: Entity, links: Sequence[Link], entities: Mapping[int, Entity]) -> list[Fact]:
    """Say of explicit links from the lead what it is related to, those of one name together."""
    grouped: dict[str, list[int]] = {}
    for link in sorted(links, key=lambda link: -link.confidence):
        if link.kind == "explicit" and link.source == lead.id and link.target in entities:
            grouped.setdefault(link.name, []).append(link.target)
    facts = []
    for name, targets in sorted(grouped.items(), key=lambda item: (item[0] not in _PHRASES, -len(item[1]))):
        named = ", ".join(_short(entities[target]) for target in targets[:_NAMES])
        more = f" and {len(targets) - _NAMES} more" if len(targets) > _NAMES else ""
        phrase = _PHRASES.get(name, f"has the {name.replace('_', ' ')}")
        source = f"relationship {name} of {lead.label}"
        facts.append(
            Fact(f"{_short(lead)} {phrase} {named}{more}.", "relation", (lead.id, *targets[:_NAMES]), source)
        )
    return facts[:_LINKS]


def _from_resources(resources: Sequence[Resource], words: Sequence[Word]) -> list[Fact]:
    weights = {word.lexeme: word.weight for word in words}
    scored = []
    for resource in resources:
        for sentence in filter(None, map(str.strip, _SENTENCE.split(resource.text))):
            shared = sum(weight for lexeme, weight in weights.items() if _has(sentence, lexeme))
            scored.append((shared + resource.similarity, sentence, resource))
    scored.sort(key=lambda item: -item[0])
    return [
        Fact(_ended(sentence[:_LONGEST]), "resource", (resource.id,), resource.uri)
        for _, sentence, resource in scored[:_FROM_RESOURCES]
    ]


def _has(sentence: str, lexeme: str) -> bool:
    # A lexeme is the stem of a word, and mostly its beginning.
    return re.search(rf"\b{re.escape(lexeme)}", sentence, re.IGNORECASE) is not None


def _short(entity: Entity) -> str:
    return entity.name.split(", ")[0]


def _ended(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."
