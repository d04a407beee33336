"""Resolving slots: what must and what may be known of each entity that leads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from vectuned.reasoning.answering.knowledge import (
    Breadth,
    Candidate,
    Entity,
    FilledSlot,
    Question,
    Slot,
    Slots,
)
from vectuned.reasoning.answering.reads import read
from vectuned.reasoning.embedding.embedder import Embedder, Vectors
from vectuned.reasoning.graph.context import Context
from vectuned.reasoning.graph.graph import Limits, Node

DEFAULT_SLOTS: Final = (
    Slot("name", required=True),
    Slot("description", required=True),
    Slot("category", about="category"),
)

_VALUES: Final = 200
_ALIKE: Final = 0.35


@dataclass(frozen=True)
class In:
    question: Question
    vector: Vectors
    candidates: tuple[Candidate, ...]
    breadth: Breadth


@dataclass(frozen=True)
class Out:
    slots: Mapping[int, Slots]


class ResolveSlots(Node[In, Out]):
    """Fills the slots of the leads: by the entity itself, by the attribute of that name, or one like it.

    An attribute that the question names becomes a required slot. A slot that no attribute is named after
    takes the one whose name is the most similar to what the slot is about, if the cosine is at least `alike`.
    Of several values the one most similar to the question is taken.
    """

    name = "slots"
    limits = Limits(seconds=10.0, attempts=3)

    def __init__(
        self, embedder: Embedder, slots: Sequence[Slot] = DEFAULT_SLOTS, alike: float = _ALIKE
    ) -> None:
        self._embedder = embedder
        self._slots = tuple(slots)
        self._alike = alike

    def run(self, inputs: In, context: Context) -> Out:
        leads = [candidate.entity for candidate in inputs.candidates[: inputs.breadth.leads]]
        values: dict[int, dict[str, list[str]]] = {entity.id: {} for entity in leads}
        if leads:
            with context.connection() as conn:
                rows = read(conn, "attributes_of", {"entities": list(values), "most": _VALUES * len(leads)})
            for entity, attribute, value in rows:
                values[entity].setdefault(attribute, []).append(value)
        wanted = self._wanted(inputs.question.text, values.values())
        resolved = {
            entity.id: self._fill(entity, wanted, values[entity.id], inputs.vector) for entity in leads
        }
        for entity in leads:
            missing = [slot.name for slot in resolved[entity.id].missing]
            completeness = resolved[entity.id].completeness
            context.decide("slots", entity=entity.name, missing=missing, completeness=completeness)
        return Out(resolved)

    def _wanted(self, question: str, values: Iterable[Mapping[str, object]]) -> tuple[Slot, ...]:
        words = set(re.findall(r"\w+", question.lower()))
        names = {name for attributes in values for name in attributes}
        asked = {name for name in names if set(_spoken(name).split()) <= words}
        known = tuple(replace(slot, required=True) if slot.name in asked else slot for slot in self._slots)
        more = sorted(asked - {slot.name for slot in known})
        return (*known, *(Slot(name, required=True) for name in more))

    def _fill(
        self, entity: Entity, wanted: Sequence[Slot], values: Mapping[str, list[str]], vector: Vectors
    ) -> Slots:
        own = {"name": entity.name, "description": entity.description}
        filled: list[FilledSlot] = []
        missing: list[Slot] = []
        for slot in wanted:
            if own.get(slot.name):
                filled.append(FilledSlot(slot.name, own[slot.name], "entity", 1.0, slot.required))
            elif slot.name in values:
                given = values[slot.name]
                value, alike = (given[0], 1.0) if len(given) == 1 else self._nearest(given, vector)
                confidence = 0.5 + 0.5 * max(min(alike, 1.0), 0.0)
                filled.append(FilledSlot(slot.name, value, "attribute", confidence, slot.required))
            else:
                missing.append(slot)
        free = [name for name in sorted(values) if name not in {slot.name for slot in wanted}]
        for slot in [slot for slot in missing if slot.about]:
            if not free:
                break
            name, alike = self._nearest(
                [_spoken(name) for name in free], self._embedder.encode([slot.about])[0]
            )
            if alike >= self._alike:
                attribute = free.pop([_spoken(each) for each in free].index(name))
                value, _ = self._nearest(values[attribute], vector)
                filled.append(FilledSlot(slot.name, value, "embedding", min(alike, 1.0), slot.required))
                missing.remove(slot)
        return Slots(entity.id, tuple(filled), tuple(missing))

    def _nearest(self, texts: Sequence[str], vector: Vectors) -> tuple[str, float]:
        """Return the text most similar to a vector, and the cosine; a blank one only if all are."""
        worded = [text for text in texts if text.strip()]
        if not worded:
            return texts[0], 0.0
        similarities = self._embedder.encode(worded) @ vector
        best = int(similarities.argmax())
        return worded[best], float(similarities[best])


def _spoken(name: str) -> str:
    return name.replace("_", " ").lower()
