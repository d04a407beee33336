"""The node `slots`: fill in what must and what may be known of each lead."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from vectuned.reasoning.answering.knowledge import (
    Breadth,
    Candidate,
    Question,
    Slot,
    Slots,
    SlotValue,
)
from vectuned.reasoning.embedding.embedder import Embedder, Vectors
from vectuned.reasoning.graph.context import Context
from vectuned.reasoning.graph.graph import Limits, Node
from vectuned.reasoning.store.entities import Entity
from vectuned.reasoning.store.reads import read

DEFAULT_SLOTS: Final = (
    Slot("name", required=True),
    Slot("description", required=True),
    Slot("category", about="category"),
)

_MAX_VALUES: Final = 200  # attribute values read for each lead: more are not worth embedding
_MIN_SIMILARITY: Final = 0.35  # cosine from which an attribute's name is taken to mean the slot


@dataclass(frozen=True)
class In:
    question: Question
    vector: Vectors
    candidates: tuple[Candidate, ...]
    breadth: Breadth


@dataclass(frozen=True)
class Out:
    slots: Mapping[int, Slots]


class FillSlots(Node[In, Out]):
    """Fills the slots of each lead from the entity itself, else from its attributes.

    An attribute that the question mentions becomes a required slot. A slot takes the attribute of its name;
    if there is none, it takes the attribute whose name is most similar to `Slot.about`, provided that the
    cosine is at least `min_similarity`. Of several values the one most similar to the question is taken.
    """

    name = "slots"
    limits = Limits(seconds=10.0, attempts=3)

    def __init__(
        self,
        embedder: Embedder,
        slots: Sequence[Slot] = DEFAULT_SLOTS,
        min_similarity: float = _MIN_SIMILARITY,
    ) -> None:
        self._embedder = embedder
        self._slots = tuple(slots)
        self._min_similarity = min_similarity

    def run(self, inputs: In, context: Context) -> Out:
        leads = [candidate.entity for candidate in inputs.candidates[: inputs.breadth.leads]]
        values: dict[int, dict[str, list[str]]] = {entity.id: {} for entity in leads}
        if leads:
            with context.connection() as conn:
                rows = read(
                    conn, "find_attributes", entities=list(values), max_values=_MAX_VALUES * len(leads)
                )
            for row in rows:
                values[row.entity_id].setdefault(row.attribute, []).append(row.value)
        wanted = self._wanted_slots(inputs.question.text, values.values())
        filled = {entity.id: self._fill(entity, wanted, values[entity.id], inputs.vector) for entity in leads}
        for entity in leads:
            missing = [slot.name for slot in filled[entity.id].missing]
            completeness = filled[entity.id].completeness
            context.record_decision("slots", entity=entity.name, missing=missing, completeness=completeness)
        return Out(filled)

    def _wanted_slots(self, question: str, values: Iterable[Mapping[str, object]]) -> tuple[Slot, ...]:
        words = set(re.findall(r"\w+", question.lower()))
        names = {name for attributes in values for name in attributes}
        mentioned = {name for name in names if set(_in_words(name).split()) <= words}
        known = tuple(
            replace(slot, required=True) if slot.name in mentioned else slot for slot in self._slots
        )
        more = sorted(mentioned - {slot.name for slot in known})
        return (*known, *(Slot(name, required=True) for name in more))

    def _fill(
        self, entity: Entity, wanted: Sequence[Slot], values: Mapping[str, list[str]], vector: Vectors
    ) -> Slots:
        own = {"name": entity.name, "description": entity.description}
        filled: list[SlotValue] = []
        missing: list[Slot] = []
        for slot in wanted:
            if own.get(slot.name):
                filled.append(SlotValue(slot.name, own[slot.name], "entity", 1.0, slot.required))
            elif slot.name in values:
                filled.append(self._from_attribute(slot, values[slot.name], vector))
            else:
                missing.append(slot)
        unused = [name for name in sorted(values) if name not in {slot.name for slot in wanted}]
        for slot in [slot for slot in missing if slot.about]:
            attribute, similarity = self._similar_attribute(slot, unused)
            if attribute is not None:
                unused.remove(attribute)
                value, _ = self._nearest(values[attribute], vector)
                filled.append(SlotValue(slot.name, value, "embedding", min(similarity, 1.0), slot.required))
                missing.remove(slot)
        return Slots(entity.id, tuple(filled), tuple(missing))

    def _from_attribute(self, slot: Slot, texts: Sequence[str], vector: Vectors) -> SlotValue:
        value, similarity = (texts[0], 1.0) if len(texts) == 1 else self._nearest(texts, vector)
        confidence = 0.5 + 0.5 * max(min(similarity, 1.0), 0.0)
        return SlotValue(slot.name, value, "attribute", confidence, slot.required)

    def _similar_attribute(self, slot: Slot, names: Sequence[str]) -> tuple[str | None, float]:
        """Return the attribute whose name is most similar to what the slot is about, and the cosine.

        The attribute is None if the cosine is too small or there are no names.
        """
        if not names:
            return None, 0.0
        in_words = [_in_words(name) for name in names]
        nearest, similarity = self._nearest(in_words, self._embedder.encode([slot.about])[0])
        if similarity < self._min_similarity:
            return None, similarity
        return names[in_words.index(nearest)], similarity

    def _nearest(self, texts: Sequence[str], vector: Vectors) -> tuple[str, float]:
        """Return the text most similar to a vector, and the cosine; a blank text only if all are blank."""
        not_blank = [text for text in texts if text.strip()]
        if not not_blank:
            return texts[0], 0.0
        similarities = self._embedder.encode(not_blank) @ vector
        best = int(similarities.argmax())
        return not_blank[best], float(similarities[best])


def _in_words(name: str) -> str:
    return name.replace("_", " ").lower()
