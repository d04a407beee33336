"""What flows between the nodes: the question, what was found and related, how good it is, and the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

from vectuned.reasoning.embedding.embedder import Vectors

LinkKind = Literal["explicit", "hierarchy", "semantic", "attributes"]


@dataclass(frozen=True)
class Question:
    """What is asked, in words; `language` is a text search configuration of PostgreSQL."""

    text: str
    language: str = "english"


@dataclass(frozen=True)
class Breadth:
    """How widely a run looks.

    `neighbours` entities near the vector, `named` entities by words, of which the `most` best are kept;
    `leads` of them are looked at closely, over at most `hops` relationships, `each` of every entity.
    """

    neighbours: int = 10
    named: int = 100
    most: int = 10
    leads: int = 3
    hops: int = 1
    each: int = 8

    def wider(self) -> Breadth:
        """Return twice the breadth and one more hop, within bounds."""
        return replace(
            self,
            neighbours=min(4 * self.neighbours, 200),
            named=min(2 * self.named, 1000),
            most=min(2 * self.most, 100),
            leads=min(self.leads + 2, 10),
            hops=min(self.hops + 1, 3),
        )


@dataclass(frozen=True)
class Word:
    """A lexeme of the question and its weight, ln((1 + entities) / (1 + entities that have it))."""

    lexeme: str
    weight: float


@dataclass(frozen=True)
class Entity:
    """An entity of the store."""

    id: int
    label: str
    name: str
    description: str


@dataclass(frozen=True)
class Candidate:
    """An entity that the question may be about.

    `similarity` is the cosine to the question, `names` the share of the weight of its words that the name
    has, `coverage` the share of the name's words that the question has, `score` their weighted mean.
    """

    entity: Entity
    score: float
    similarity: float
    names: float
    coverage: float
    embedding: Vectors | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Search:
    """A search that vectuned served: its id (None where it could not serve) and the entities it returned."""

    query_id: UUID | None
    entities: tuple[int, ...]

    @property
    def is_recorded(self) -> bool:
        """Whether feedback on it will be kept; the last digit of its id says so."""
        return self.query_id is not None and self.query_id.hex[-1] == "1"


@dataclass(frozen=True)
class Slot:
    """Something to know of an entity; `about` describes it to the embedder, in words."""

    name: str
    required: bool = False
    about: str = ""


@dataclass(frozen=True)
class FilledSlot:
    """The value of a slot: where it is from, and how surely it belongs there (0 to 1)."""

    slot: str
    value: str
    source: Literal["entity", "attribute", "embedding"]
    confidence: float
    required: bool = False


@dataclass(frozen=True)
class Slots:
    """The slots of one entity: those filled, and the others."""

    entity: int
    filled: tuple[FilledSlot, ...]
    missing: tuple[Slot, ...] = ()

    @property
    def completeness(self) -> float:
        """Return the share of slots that are filled, a required one counting twice; 1 without slots."""
        filled = sum(2 if value.required else 1 for value in self.filled)
        missing = sum(2 if slot.required else 1 for slot in self.missing)
        return 1.0 if filled + missing == 0 else filled / (filled + missing)


@dataclass(frozen=True)
class Link:
    """A relation of two entities: explicit, by hierarchy, by semantic similarity or by shared attributes."""

    source: int
    target: int
    kind: LinkKind
    name: str
    confidence: float
    hop: int = 1
    updated_at: datetime | None = None


@dataclass(frozen=True)
class Relations:
    """Links around the leads, and the entities they lead to by id."""

    links: tuple[Link, ...]
    entities: Mapping[int, Entity]


@dataclass(frozen=True)
class Assessment:
    """What the controller thinks of what was found; `gaps` names what is missing, in words."""

    coherence: float
    completeness: float
    enough: bool
    gaps: tuple[str, ...] = ()


@dataclass(frozen=True)
class Material:
    """What is left to answer from: candidates best first, links, slots; and which entities were rejected."""

    candidates: tuple[Candidate, ...]
    links: tuple[Link, ...]
    slots: Mapping[int, Slots]
    entities: Mapping[int, Entity]
    rejected: tuple[int, ...] = ()


@dataclass(frozen=True)
class Resource:
    """A text from elsewhere: `similarity` is its cosine to the question."""

    id: int
    uri: str
    type: str
    text: str
    similarity: float
    entity: int | None = None


@dataclass(frozen=True)
class Citation:
    """The source of what is said: an entity, a relationship between two, or a resource."""

    number: int
    kind: Literal["entity", "relation", "resource"]
    ids: tuple[int, ...]
    source: str
    text: str


@dataclass(frozen=True)
class Answer:
    """The answer; `[n]` in its text refers to the citation of that number. `generator` names who wrote it."""

    text: str
    citations: tuple[Citation, ...]
    generator: str


@dataclass(frozen=True)
class FeedbackReport:
    """What vectuned.record_feedback said to the feedback on the run's searches, by query id."""

    answers: Mapping[str, str]


NOTHING_FOUND: Final = "Nothing in the store answers this."
