"""The values that the entity store takes and returns.

The fields have the names of the columns in sql/entities/queries/.
"""

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
    """An embedding model. Vectors of different models, or of two versions of one, cannot be compared."""

    id: int
    name: str
    version: str
    dimensions: int


@dataclass(frozen=True, slots=True)
class Entity:
    """An entity: its id, its label in hierarchies, and the text that is embedded."""

    id: int
    label: str
    name: str
    description: str


@dataclass(frozen=True, slots=True)
class EntityRecord(Entity):
    """An entity with its state: `status` is active, archived or pruned."""

    language: str
    status: str
    needs_embedding: bool
    usage_count: int
    last_accessed: datetime | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class NamedEntity:
    """The id and name of an entity."""

    id: int
    name: str


@dataclass(frozen=True, slots=True)
class Match:
    """An entity near a query vector.

    `similarity` is the cosine, -1 to 1. `query_id` identifies the search for feedback; it is None unless
    vectuned served the search.
    """

    id: int
    name: str
    similarity: float
    query_id: UUID | None


@dataclass(frozen=True, slots=True)
class HybridMatch:
    """A result of a hybrid search; all scores are 0 to 1."""

    id: int
    name: str
    score: float
    text_score: float
    vector_score: float
    query_id: UUID | None


@dataclass(frozen=True, slots=True)
class Relative:
    """An entity `distance` levels above or below another in a hierarchy; 0 for a sibling."""

    id: int
    name: str
    distance: int


@dataclass(frozen=True, slots=True)
class Sharer:
    """An entity that shares `shared` attribute values with another, each written `attribute = value`."""

    id: int
    name: str
    shared: int
    shared_values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Relationship:
    """A relationship of one entity; `entity_id` and `name` are those of the other entity."""

    id: int
    direction: Direction
    entity_id: int
    name: str
    type: str
    confidence: float
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Edge:
    """A relationship in a hierarchy; `path` is its place there, as an ltree."""

    id: int
    path: str
    source_id: int
    target_id: int
    type: str
    confidence: float


@dataclass(frozen=True, slots=True)
class ConnectionPath:
    """A path between two entities: n + 1 entities, n relationship types, the product of the confidences."""

    entity_ids: tuple[int, ...]
    names: tuple[str, ...]
    types: tuple[str, ...]
    confidence: float


@dataclass(frozen=True, slots=True)
class PatternMatch:
    """A path along given relationship types: its entities, and the names of the first and the last."""

    entity_ids: tuple[int, ...]
    start_name: str
    end_name: str
    confidence: float


@dataclass(frozen=True, slots=True)
class Resource:
    """An external text and the entities it is linked to.

    `confidence` is that of the link to the one entity in `entity_ids`, None for a search over all resources.
    `similarity` is the cosine to the query, None without a query.
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
    """An entity that is used often."""

    id: int
    name: str
    usage_count: int
    last_accessed: datetime


@dataclass(frozen=True, slots=True, eq=False)
class PendingTexts:
    """A batch of texts to embed.

    `ids`, `texts` and `hashes` have one length. A hash goes back with the vector of its text, so that the
    store rejects the vector of a text that has changed since.
    """

    kind: Kind
    ids: list[int]
    texts: list[str]
    hashes: list[int]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class RebaseJob:
    """A move of the store to another model: `embedded` of `total` texts have a vector of that model.

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
    """An entity to load in bulk; `attributes` are (attribute, value) pairs."""

    label: str
    name: str
    description: str = ""
    attributes: tuple[tuple[str, str], ...] = ()
    language: str = "english"


@dataclass(frozen=True, slots=True)
class NewResource:
    """A resource to load in bulk, and the ids of the entities to link it to."""

    uri: str
    type: str
    content: str
    entity_ids: tuple[int, ...] = ()
