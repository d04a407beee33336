"""What an index costs: bytes, memory and seconds, from pgvector's layout and from earlier builds."""

from __future__ import annotations

import pytest

from vectuned.learning.advisor import Definition, Form
from vectuned.learning.index_cost import (
    Build,
    estimate_build_bytes,
    estimate_build_seconds,
    estimate_index_bytes,
    slow_down,
)

HALF = Definition("hnsw", "halfvec", m=16, ef_construction=64)
CAREFUL = Definition("hnsw", "halfvec", m=32, ef_construction=200)
LISTS = Definition("ivfflat", "plain", lists=1000)


def test_estimate_index_bytes_is_near_real_sizes() -> None:
    # WordNet, 117,659 x 384: 241, 138 and 41 MB were measured.
    sizes: tuple[tuple[Form, int], ...] = (("plain", 241), ("halfvec", 138), ("bits", 41))
    for form, mb in sizes:
        guess = estimate_index_bytes(Definition("hnsw", form, m=16), 117_659, 384) / 2**20
        assert guess == pytest.approx(mb, rel=0.2)


def test_estimate_build_bytes_of_lists_grows_with_their_square() -> None:
    # 671 and 1,342 lists over vectors of 50 dimensions: pgvector asked for 92 and 359 MB.
    for lists, mb in ((671, 92), (1342, 359)):
        needed = estimate_build_bytes(Definition("ivfflat", "halfvec", lists=lists), 200_000, 50)
        assert needed / 2**20 == pytest.approx(mb, rel=0.08)


def test_estimate_build_bytes_of_a_half_precision_column_is_smaller() -> None:
    plain = Definition("hnsw", "plain", m=16, ef_construction=64)
    full, half = (estimate_build_bytes(plain, 1000, 768, kind) for kind in ("vector", "halfvec"))
    assert full - half == 1000 * 768 * 2


def test_estimate_build_seconds_without_builds_is_0() -> None:
    assert estimate_build_seconds([], HALF, 1000) == 0.0


def test_estimate_build_seconds_follows_the_growth_of_builds_alike() -> None:
    builds = [Build(HALF, 1000, 1.0), Build(HALF, 4000, 4.0 * 4**0.2), Build(CAREFUL, 4000, 500.0)]
    assert estimate_build_seconds(builds, HALF, 16_000) == pytest.approx(4.0 * 4**0.2 * 4**1.2)


def test_estimate_build_seconds_scales_builds_of_other_kinds_by_their_work() -> None:
    builds = [Build(HALF, 1000, 1.0), Build(HALF, 2000, 2.1)]
    alike, careful = (estimate_build_seconds(builds, each, 10_000) for each in (HALF, CAREFUL))
    assert careful / alike == pytest.approx((200 + 64) / (64 + 32), rel=0.1)


def test_estimate_build_seconds_of_lists_counts_distances_to_centres() -> None:
    few = Definition("ivfflat", "plain", lists=500)
    builds = [Build(few, 250_000, 10.0)]
    # Twice the lists over four times the rows: eight times the distances.
    assert estimate_build_seconds(builds, LISTS, 1_000_000) == pytest.approx(60.0, rel=0.35)


def test_slow_down_concerns_graphs_that_do_not_fit() -> None:
    assert slow_down(HALF, 100, 100) == 1.0
    assert slow_down(LISTS, 100, 50) == 1.0
    assert 1.0 < slow_down(HALF, 100, 80) < slow_down(HALF, 100, 20)
