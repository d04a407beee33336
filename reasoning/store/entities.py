"""What the entity store holds and finds, as values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

Direction = Literal["out", "in", "both"]
Fusion = Literal["weighted", "reciprocal"]
Kind = Literal["entity", "resource"]


@dataclass(frozen=True, slots=True)
class Model:
    """An embedding model; vectors of two of them cannot be compared."""

    id: int
    name: str
    version: str
    dimensions: int


@dataclass(frozen=True, slots=True)
class Entity:
    """An entity; `status` is active, archived or pruned."""

    id: int
    label: str
    name: str
    description: str
    language: str
    status: str
    needs_embedding: bool
    usage_count: int
    last_accessed: datetime | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class NamedEntity:
    """An entity that was found."""

    id: int
    name: str


@dataclass(frozen=True, slots=True)
class Match:
    """An entity near a query: `similarity` is the cosine (-1 to 1); `query_id` is for feedback, if tuned."""

    id: int
    name: str
    similarity: float
    query_id: UUID | None


@dataclass(frozen=True, slots=True)
class HybridMatch:
    """An entity that a hybrid search found; all scores are 0 to 1."""

    id: int
    name: str
    score: float
    text_score: float
    vector_score: float
    query_id: UUID | None


@dataclass(frozen=True, slots=True)
class Relative:
    """An entity `distance` steps up or down a hierarchy (0: beside)."""

    id: int
    name: str
    distance: int


@dataclass(frozen=True, slots=True)
class Sharer:
    """An entity with the same attribute values as another, each written `attribute = value`."""

    id: int
    name: str
    shared: int
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Relationship:
    """A relationship seen from one of its entities; `entity_id` and `name` are those of the other."""

    id: int
    direction: Direction
    entity_id: int
    name: str
    type: str
    confidence: float
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Edge:
    """A relationship in a hierarchy, at `path`."""

    id: int
    path: str
    source_id: int
    target_id: int
    type: str
    confidence: float


@dataclass(frozen=True, slots=True)
class Connection:
    """A way between two entities: n + 1 entities, n relationship types, the product of their confidences."""

    entity_ids: tuple[int, ...]
    names: tuple[str, ...]
    types: tuple[str, ...]
    confidence: float


@dataclass(frozen=True, slots=True)
class PatternMatch:
    """A way along given types of relationship: all its entities, the names of the first and the last."""

    entity_ids: tuple[int, ...]
    start_name: str
    end_name: str
    confidence: float


@dataclass(frozen=True, slots=True)
class Resource:
    """A text from elsewhere, and entities that it says something about.

    `confidence` is that of the link, None where it was not asked for by entity; `similarity` that to the
    query, None without one.
    """

    id: int
    entity_ids: tuple[int, ...]
    uri: str
    type: str
    content: str
    confidence: float | None
    similarity: float | None


@dataclass(frozen=True, slots=True)
class HotEntity:
    """An entity that is used much."""

    id: int
    name: str
    usage_count: int
    last_accessed: datetime


@dataclass(frozen=True, slots=True, eq=False)
class PendingTexts:
    """Texts to embed: `ids`, `texts`, and `hashes` that go back with the vectors, all of one length."""

    kind: Kind
    ids: list[int]
    texts: list[str]
    hashes: list[int]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class RebaseJob:
    """A move to another model, of which `embedded` of `total` texts are ready.

    `state` is running, done or cancelled.
    """

    id: int
    model: Model
    state: str
    total: int
    embedded: int
    started_at: datetime
    progress_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class NewEntity:
    """An entity to load in bulk; `attributes` are pairs (attribute, value)."""

    label: str
    name: str
    description: str = ""
    attributes: tuple[tuple[str, str], ...] = ()
    language: str = "english"


@dataclass(frozen=True, slots=True)
class NewResource:
    """A resource to load in bulk, linked to entities by their ids."""

    uri: str
    type: str
    content: str
    entity_ids: tuple[int, ...] = ()
