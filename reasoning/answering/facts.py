"""Facts: single sentences with their source, from which answers are made."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from vectuned.reasoning.store.entities import Entity, Resource
from vectuned.reasoning.store.words import Word

from .knowledge import Link, Material, Slots

_SENTENCE: Final = re.compile(r"(?<=[.!?])\s+|\n+")
# How many facts an answer has of each kind: an answer of some ten sentences is still read.
_MAX_OTHERS: Final = 2
_MAX_RELATIONS: Final = 6  # kinds of relations
_MAX_TARGETS: Final = 3  # entities named in one relation
_MAX_SENTENCES: Final = 3  # sentences of resources
_MAX_LENGTH: Final = 400  # characters of a sentence of a resource

# Phrases for relationship types; another type is written as "has the TYPE".
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
    """A sentence and its source; `ids` are those of the entities or of the resource it is about."""

    text: str
    kind: Literal["entity", "relation", "resource"]
    ids: tuple[int, ...]
    source: str


def facts_from(material: Material, resources: Sequence[Resource], words: Sequence[Word]) -> tuple[Fact, ...]:
    """Put the material into sentences, most relevant first.

    First what the best entity is and what it is related to, then other entities that the question may mean,
    then the sentences of resources that have most of the question's words.
    """
    if not material.candidates:
        return tuple(_resource_facts(resources, words))
    lead, *others = (candidate.entity for candidate in material.candidates)
    return (
        _entity_fact(lead, material.slots),
        *_relation_facts(lead, material.links, material.entities),
        *(_entity_fact(entity, material.slots) for entity in others[:_MAX_OTHERS]),
        *_resource_facts(resources, words),
    )


def _entity_fact(entity: Entity, slots: Mapping[int, Slots]) -> Fact:
    filled = {value.slot: value.value for value in slots[entity.id].filled} if entity.id in slots else {}
    category = f" ({filled['category']})" if "category" in filled else ""
    description = f": {_end_sentence(entity.description)}" if entity.description else "."
    return Fact(f"{entity.name}{category}{description}", "entity", (entity.id,), f"entity {entity.label}")


def _relation_facts(lead: Entity, links: Sequence[Link], entities: Mapping[int, Entity]) -> list[Fact]:
    """Return one sentence for each type of relationship of the lead, those with a phrase first."""
    targets_by_type: dict[str, list[int]] = {}
    for link in sorted(links, key=lambda link: -link.confidence):
        if link.kind == "explicit" and link.source == lead.id and link.target in entities:
            targets_by_type.setdefault(link.name, []).append(link.target)
    facts = []
    for name, targets in sorted(
        targets_by_type.items(), key=lambda item: (item[0] not in _PHRASES, -len(item[1]))
    ):
        named = targets[:_MAX_TARGETS]
        listed = ", ".join(_first_name(entities[target]) for target in named)
        more = f" and {len(targets) - len(named)} more" if len(targets) > len(named) else ""
        phrase = _PHRASES.get(name, f"has the {name.replace('_', ' ')}")
        text = f"{_first_name(lead)} {phrase} {listed}{more}."
        facts.append(Fact(text, "relation", (lead.id, *named), f"relationship {name} of {lead.label}"))
    return facts[:_MAX_RELATIONS]


def _resource_facts(resources: Sequence[Resource], words: Sequence[Word]) -> list[Fact]:
    """Return the sentences with most of the question's words, by weight, preferring similar resources."""
    weights = {word.lexeme: word.weight for word in words}
    scored = []
    for resource in resources:
        for sentence in filter(None, map(str.strip, _SENTENCE.split(resource.content))):
            shared = sum(weight for lexeme, weight in weights.items() if _has_word(sentence, lexeme))
            scored.append((shared + (resource.similarity or 0.0), sentence, resource))
    scored.sort(key=lambda item: -item[0])
    return [
        Fact(_end_sentence(sentence[:_MAX_LENGTH]), "resource", (resource.id,), resource.uri)
        for _, sentence, resource in scored[:_MAX_SENTENCES]
    ]


def _has_word(sentence: str, lexeme: str) -> bool:
    # A lexeme is the stem of a word, which is mostly its beginning.
    return re.search(rf"\b{re.escape(lexeme)}", sentence, re.IGNORECASE) is not None


def _first_name(entity: Entity) -> str:
    return entity.name.split(", ")[0]


def _end_sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."
