"""Markers that select one of several indexes, and indexes that the planner would use instead."""

from __future__ import annotations

import pytest

from vectuned.daemon.advisor.advice import ExistingIndex
from vectuned.daemon.advisor.index_statement import choose_marker, find_rival_index
from vectuned.learning.advisor import Definition

PLAIN = Definition("hnsw", "plain", m=16, ef_construction=64)
PLAIN_24 = Definition("hnsw", "plain", m=24, ef_construction=200)
HALF = Definition("hnsw", "halfvec", m=16, ef_construction=64)
LISTS = Definition("ivfflat", "plain", lists=100)


def index(definition: Definition, marker: str = "true") -> ExistingIndex:
    return ExistingIndex(definition, "public", "items_embedding_idx", 1, marker, 0)


@pytest.mark.parametrize(
    ("existing", "marker"),
    [
        ([], None),
        ([index(HALF)], None),
        ([index(LISTS)], 0),
        ([index(PLAIN), index(LISTS, "vector_dims(embedding) > 0")], 1),
    ],
)
def test_choose_marker_is_unused_by_indexes_of_the_same_form(
    existing: list[ExistingIndex], marker: int | None
) -> None:
    assert choose_marker(PLAIN_24, existing) == marker


@pytest.mark.parametrize(
    ("definition", "other", "is_rival"),
    [
        (PLAIN_24, index(PLAIN), True),
        (PLAIN, index(PLAIN_24), False),
        (PLAIN_24, index(PLAIN, "vector_dims(embedding) > 0"), False),
        (PLAIN_24, index(HALF), False),
        (PLAIN_24, index(LISTS), False),
        (PLAIN, index(PLAIN), False),
    ],
)
def test_find_rival_index_returns_a_cheaper_looking_index_without_a_marker(
    definition: Definition, other: ExistingIndex, is_rival: bool
) -> None:
    assert find_rival_index(definition, [other]) == (other if is_rival else None)
