"""The values that flow between the nodes, from the question to the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

from vectuned.reasoning.embedding.embedder import Vectors
from vectuned.reasoning.ranking.features import NAME_MATCHES, NEIGHBOURS, TEXT_MATCHES
from vectuned.reasoning.store.entities import Entity

LinkKind = Literal["explicit", "hierarchy", "semantic", "attributes"]

NOTHING_FOUND: Final = "Nothing in the store answers this."


@dataclass(frozen=True)
class Question:
    """A question in words; `language` is a text search configuration of PostgreSQL."""

    text: str
    language: str = "english"


@dataclass(frozen=True)
class Breadth:
    """How widely a run searches.

    It takes `neighbours` entities near the question's vector, `name_matches` by the words of their names and
    `text_matches` by the words of their names and descriptions, and keeps the best `max_candidates`. The
    first `leads` of these are explored, over at most `hops` relationships, with `links_per_entity` of each
    entity.
    """

    neighbours: int = NEIGHBOURS
    name_matches: int = NAME_MATCHES
    text_matches: int = TEXT_MATCHES
    max_candidates: int = 10
    leads: int = 3
    hops: int = 1
    links_per_entity: int = 8

    def widen(self) -> Breadth:
        """Return a wider search: more of everything and one more hop, within bounds."""
        return replace(
            self,
            neighbours=min(4 * self.neighbours, 200),
            name_matches=min(2 * self.name_matches, 1000),
            text_matches=min(2 * self.text_matches, 1000),
            max_candidates=min(2 * self.max_candidates, 100),
            leads=min(self.leads + 2, 10),
            hops=min(self.hops + 1, 3),
        )


@dataclass(frozen=True)
class Candidate:
    """An entity that the question may be about.

    `similarity` is the cosine to the question's vector. `name_match` is the share of the question's words, by
    weight, that the name has, and `text_match` the share that name and description together have. `coverage`
    is the share of the name's words that the question has. `score`, from 0 to 1, is the ranking's estimate of
    how likely the question is about the entity. `votes` is the feedback on it as the answer to the same
    question: the number of people who confirmed it minus the number who rejected it.
    """

    entity: Entity
    score: float
    similarity: float
    name_match: float
    coverage: float
    embedding: Vectors | None = field(default=None, repr=False, compare=False)
    votes: float = 0.0
    text_match: float = 0.0


@dataclass(frozen=True)
class Search:
    """A vector search: its query id, None unless vectuned served it, and the ids of the entities returned."""

    query_id: UUID | None
    entities: tuple[int, ...]

    @property
    def is_recorded(self) -> bool:
        """Whether vectuned recorded the search and takes feedback on it: the last digit of its id says so."""
        return self.query_id is not None and self.query_id.hex[-1] == "1"


@dataclass(frozen=True)
class Slot:
    """Something to know of an entity; `about` describes it in words for the embedder."""

    name: str
    required: bool = False
    about: str = ""


@dataclass(frozen=True)
class SlotValue:
    """The value of a slot, its source, and the confidence (0 to 1) that it belongs in this slot."""

    slot: str
    value: str
    source: Literal["entity", "attribute", "embedding"]
    confidence: float
    required: bool = False


@dataclass(frozen=True)
class Slots:
    """The slots of one entity: those with a value, and those without."""

    entity: int
    filled: tuple[SlotValue, ...]
    missing: tuple[Slot, ...] = ()

    @property
    def completeness(self) -> float:
        """The share of slots that are filled; a required slot counts twice. 1 if there are no slots."""
        filled = sum(2 if value.required else 1 for value in self.filled)
        missing = sum(2 if slot.required else 1 for slot in self.missing)
        return 1.0 if filled + missing == 0 else filled / (filled + missing)


@dataclass(frozen=True)
class Link:
    """How one entity is related to another: by a relationship, a hierarchy, similarity or shared attributes.

    `confidence` is 0 to 1; `hop` counts the relationships or levels from a lead.
    """

    source: int
    target: int
    kind: LinkKind
    name: str
    confidence: float
    hop: int = 1
    updated_at: datetime | None = None


@dataclass(frozen=True)
class Relations:
    """The links around the leads, and the entities at their ends by id."""

    links: tuple[Link, ...]
    entities: Mapping[int, Entity]


@dataclass(frozen=True)
class Assessment:
    """How coherent and how complete the evidence is, 0 to 1; `gaps` describes what is missing."""

    coherence: float
    completeness: float
    is_enough: bool
    gaps: tuple[str, ...] = ()


@dataclass(frozen=True)
class Material:
    """What the answer is made from: candidates best first, their links, slots, and entities by id.

    `rejected` holds the ids of entities that a search returned although they have nothing to do with the
    question.
    """

    candidates: tuple[Candidate, ...]
    links: tuple[Link, ...]
    slots: Mapping[int, Slots]
    entities: Mapping[int, Entity]
    rejected: tuple[int, ...] = ()


@dataclass(frozen=True)
class Citation:
    """A source of the answer: an entity, a relationship between two, or a resource."""

    number: int
    kind: Literal["entity", "relation", "resource"]
    ids: tuple[int, ...]
    source: str
    text: str


@dataclass(frozen=True)
class Answer:
    """The answer; `[n]` in its text refers to the citation of that number. `generator` names its author."""

    text: str
    citations: tuple[Citation, ...]
    generator: str


@dataclass(frozen=True)
class FeedbackReport:
    """What vectuned.record_feedback returned for each search of the run, by query id."""

    answers: Mapping[str, str]
