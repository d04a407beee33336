"""`NeighborSearch` against distances computed one by one in float64."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from vectuned.learning.model.column import Metric
from vectuned.learning.truth import neighbors as neighbors_module
from vectuned.learning.truth.neighbors import Block, Neighbors, NeighborSearch

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

METRICS: tuple[Metric, ...] = ("cosine", "l2", "ip")


def all_distances(metric: Metric, queries: Singles, rows: Singles) -> Floats:
    """Compute every distance in float64 by its definition, for l2 by differences and not by products."""
    left, right = queries.astype(np.float64), rows.astype(np.float64)
    if metric == "l2":
        return np.stack([np.sqrt(((right - query) ** 2).sum(axis=1)) for query in left])
    products = left @ right.T
    if metric == "ip":
        return np.asarray(-products)
    lengths = np.linalg.norm(left, axis=1)[:, None] * np.linalg.norm(right, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(lengths > 0, 1.0 - products / lengths, np.inf))


def nearest(distances: Floats, k: Ints) -> Floats:
    """Sort, cut each row after its k, and pad with +inf to the largest k."""
    width = int(k.max())
    padded = np.pad(np.sort(distances, axis=1), ((0, 0), (0, width)), constant_values=np.inf)[:, :width]
    return np.where(np.arange(width) < k[:, None], padded, np.inf)


def blocks(rows: Singles, size: int, allowed: Bools | None = None) -> Iterator[Block]:
    """Cut rows into blocks; a row's ctid is its index."""
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        index = np.arange(len(rows), dtype=np.int64)[part]
        yield Block(
            rows[part],
            np.full(len(index), 7, dtype=np.int64),
            index,
            None if allowed is None else allowed[:, part],
        )


def search(
    metric: Metric,
    queries: Singles,
    rows: Singles,
    k: Ints,
    *,
    size: int = 256,
    chunk: int = 16,
    allowed: Bools | None = None,
    filter_of: Ints | None = None,
) -> Neighbors:
    """Run all blocks through a NeighborSearch."""
    running = NeighborSearch(metric, queries, k, filter_of, query_chunk=chunk)
    for block in blocks(rows, size, allowed):
        running.add(block)
    return running.result()


def check(found: Neighbors, metric: Metric, queries: Singles, rows: Singles, expected: Floats) -> None:
    """Compare the distances with the expected ones, and with those of the rows returned."""
    np.testing.assert_allclose(found.distances, expected, rtol=1e-9, atol=1e-14)
    assert (found.distances[:, 1:] >= found.distances[:, :-1]).all()
    filled = np.isfinite(expected)
    assert (found.ctids[~filled] == -1).all()
    assert (found.tableoids == np.where(filled, 7, -1)).all()
    own = np.take_along_axis(all_distances(metric, queries, rows), np.maximum(found.ctids, 0), axis=1)
    np.testing.assert_allclose(found.distances[filled], own[filled], rtol=1e-9, atol=1e-14)
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    np.testing.assert_allclose(found.norms[filled], lengths[found.ctids[filled]], rtol=1e-12)
    assert all(len(set(ids[ids >= 0])) == np.count_nonzero(ids >= 0) for ids in found.ctids)


@pytest.fixture(params=["pairs", "dense", "as it comes"])
def scoring(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Force one method of scoring candidates, or leave the choice to the search."""
    share = {"pairs": 2.0, "dense": -1.0}.get(request.param)
    if share is not None:
        monkeypatch.setattr(neighbors_module, "_DENSE_SHARE", share)
    return str(request.param)


@pytest.mark.usefixtures("scoring")
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("size", [64, 1000, 5000])
def test_neighbor_search_equals_a_float64_scan(metric: Metric, size: int) -> None:
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((3000, 24), dtype=np.float32)
    queries = rng.standard_normal((50, 24), dtype=np.float32)
    k = rng.integers(1, 41, 50)
    found = search(metric, queries, rows, k, size=size)
    check(found, metric, queries, rows, nearest(all_distances(metric, queries, rows), k))


@pytest.mark.usefixtures("scoring")
@pytest.mark.parametrize("metric", METRICS)
def test_neighbor_search_keeps_every_distance_of_ties_and_duplicates(metric: Metric) -> None:
    rng = np.random.default_rng(2)
    few = rng.integers(-2, 3, (12, 6)).astype(np.float32)
    few[0] = 0.0
    rows = few[rng.integers(0, 12, 2000)]
    queries = np.concatenate([few[1:], rng.integers(-2, 3, (9, 6)).astype(np.float32)])
    k = rng.integers(1, 200, len(queries))
    found = search(metric, queries, rows, k)
    check(found, metric, queries, rows, nearest(all_distances(metric, queries, rows), k))
    if metric == "l2":  # a query that is in the table is at distance 0, not nearly 0
        assert (found.distances[:11, 0] == 0.0).all()


@pytest.mark.usefixtures("scoring")
@pytest.mark.parametrize("metric", METRICS)
def test_neighbor_search_finds_rows_in_the_worst_order(metric: Metric) -> None:
    # Every block is nearer than all before it, so no row can be dropped early.
    rng = np.random.default_rng(3)
    queries = np.abs(rng.standard_normal((5, 8), dtype=np.float32)) + 1
    rows = rng.standard_normal((2000, 8), dtype=np.float32)
    order = np.argsort(-all_distances(metric, queries[:1], rows)[0])
    rows = np.ascontiguousarray(rows[order])
    k = np.full(5, 10)
    found = search(metric, queries, rows, k, size=100)
    check(found, metric, queries, rows, nearest(all_distances(metric, queries, rows), k))


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e-21, 1e-19, 1e-3, 1e3, 1e25])
@pytest.mark.parametrize("metric", METRICS)
def test_neighbor_search_scores_magnitudes_beyond_float32_products(metric: Metric, scale: float) -> None:
    rng = np.random.default_rng(4)
    rows = (rng.standard_normal((1500, 16)) * scale).astype(np.float32)
    queries = (rng.standard_normal((20, 16)) * scale).astype(np.float32)
    k = np.full(20, 15)
    expected = nearest(all_distances(metric, queries, rows), k)
    found = search(metric, queries, rows, k)
    np.testing.assert_allclose(found.distances, expected, rtol=1e-9)


@pytest.mark.usefixtures("scoring")
def test_neighbor_search_orders_a_distant_cluster_despite_cancellation() -> None:
    # In float32 |x|^2 - 2qx + |q|^2 of these is off by more than the distances themselves.
    rng = np.random.default_rng(5)
    rows = (1e4 + rng.standard_normal((2000, 32))).astype(np.float32)
    queries = (1e4 + rng.standard_normal((20, 32))).astype(np.float32)
    k = np.full(20, 10)
    found = search("l2", queries, rows, k)
    check(found, "l2", queries, rows, nearest(all_distances("l2", queries, rows), k))


@pytest.mark.usefixtures("scoring")
def test_neighbor_search_separates_two_distant_clusters() -> None:
    # Centring does not help here: the centre lies far from both clusters.
    rng = np.random.default_rng(6)
    sides = np.repeat([[-3e3], [3e3]], 1000, axis=0)
    rows = (sides + 0.01 * rng.standard_normal((2000, 16))).astype(np.float32)
    queries = (sides[::100] + 0.01 * rng.standard_normal((20, 16))).astype(np.float32)
    k = np.full(20, 25)
    found = search("l2", queries, rows, k)
    check(found, "l2", queries, rows, nearest(all_distances("l2", queries, rows), k))


@pytest.mark.usefixtures("scoring")
@pytest.mark.parametrize("metric", METRICS)
def test_neighbor_search_finds_the_other_rows_beside_an_enormous_one(metric: Metric) -> None:
    rng = np.random.default_rng(7)
    rows = rng.standard_normal((1000, 12), dtype=np.float32)
    rows[500] *= 1e6
    queries = rng.standard_normal((10, 12), dtype=np.float32)
    k = np.full(10, 5)
    check(
        search(metric, queries, rows, k),
        metric,
        queries,
        rows,
        nearest(all_distances(metric, queries, rows), k),
    )


@pytest.mark.usefixtures("scoring")
@pytest.mark.parametrize("metric", METRICS)
def test_neighbor_search_applies_the_filter_of_each_query(metric: Metric) -> None:
    rng = np.random.default_rng(8)
    rows = rng.standard_normal((1200, 10), dtype=np.float32)
    rows[::50] = 0.0
    queries = rng.standard_normal((40, 10), dtype=np.float32)
    allowed = rng.random((3, 1200)) < np.array([[0.5], [0.02], [0.0]])
    filter_of = rng.integers(-1, 3, 40)
    k = rng.integers(1, 31, 40)
    found = search(metric, queries, rows, k, allowed=allowed, filter_of=filter_of)
    passing = np.where(filter_of[:, None] >= 0, allowed[filter_of], True)
    expected = nearest(np.where(passing, all_distances(metric, queries, rows), np.inf), k)
    check(found, metric, queries, rows, expected)
    assert (np.isfinite(found.distances[filter_of == 2]).sum(axis=1) == 0).all()


@pytest.mark.parametrize("metric", METRICS)
def test_neighbor_search_pads_where_fewer_than_k_rows_exist(metric: Metric) -> None:
    rng = np.random.default_rng(9)
    rows = rng.standard_normal((7, 5), dtype=np.float32)
    queries = rng.standard_normal((4, 5), dtype=np.float32)
    k = np.array([3, 7, 9, 1000])
    check(
        search(metric, queries, rows, k),
        metric,
        queries,
        rows,
        nearest(all_distances(metric, queries, rows), k),
    )
    nothing = search(metric, queries, rows[:0], k)
    assert nothing.distances.shape == (4, 1000)
    assert np.isinf(nothing.distances).all()


def test_neighbor_search_under_cosine_omits_vectors_of_zero_length() -> None:
    rows = np.array([[0, 0], [1, 0], [0, 0], [0, 2]], dtype=np.float32)
    queries = np.array([[1, 1], [0, 0]], dtype=np.float32)
    found = search("cosine", queries, rows, np.array([4, 4]))
    assert sorted(found.ctids[0]) == [-1, -1, 1, 3]
    assert (found.ctids[1] == -1).all()
    np.testing.assert_allclose(found.distances[0, :2], 1 - np.sqrt(0.5))


def test_neighbor_search_does_not_depend_on_blocks_and_chunks() -> None:
    rng = np.random.default_rng(10)
    rows = rng.standard_normal((2500, 20), dtype=np.float32)
    queries = rng.standard_normal((33, 20), dtype=np.float32)
    k = rng.integers(1, 100, 33)
    whole = search("cosine", queries, rows, k, size=2500, chunk=33)
    for size, chunk in ((1, 33), (77, 5), (2499, 1)):
        parts = search("cosine", queries, rows, k, size=size, chunk=chunk)
        assert (parts.ctids == whole.ctids).all()
        np.testing.assert_allclose(parts.distances, whole.distances, rtol=1e-12)
