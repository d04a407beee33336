"""Serial dependence of samples: searches that come in bursts of similar ones prove less than their number."""

from __future__ import annotations

from typing import Final

import numpy as np

from vectuned.learning.model.arrays import Floats

# Random orders that are compared: an independent sample is taken for a dependent one, and proves little, once
# in 1,000 times. In stages, since the first shows nearly all independent samples to be such.
_SHUFFLES: Final = (99, 900)
_LEAST_BLOCKS: Final = 16  # fewer block means do not show how much they vary
# Values, at least, of a block where any dependence shows: the test may not see what is left of it between
# blocks of 4. (In simulated bursts of 2, 7 % of the proofs of 0.9 by blocks of 4 were wrong, and 1.5 % by
# blocks of 8.)
_LEAST_BLOCK: Final = 8
_NEWEST: Final = 1000  # values that are tested: they show slight dependence too, and the test stays quick


def block_length(series: Floats, seed: int = 0) -> int:
    """Return how many consecutive values form a block whose mean may count as an independent draw.

    `series` (n,) is in order of time. The length is 1 unless neighbouring values resemble each other more
    than in each of 999 random orders. Blocks are doubled until the same test finds nothing between them, or
    until too few are left. Only neighbours are compared, so a drop of the mean hardly counts as dependence.

    The test compares the differences of neighbouring block means, times the root of the length of a block,
    with those of single values. For independent values both are alike; in bursts the former grow with the
    length.

    Source: von Neumann (1941), "Distribution of the ratio of the mean square successive difference to the
    variance", Annals of Mathematical Statistics 12(4), here with absolute differences, which a change of the
    mean affects less, of block means, and as a permutation test.
    """
    rng = np.random.default_rng(seed)
    length, means = 1, series[-_NEWEST:]
    while len(means) >= 2 * _LEAST_BLOCKS and _neighbors_are_alike(means, rng):
        length, means = 2 * length, block_means(means, 2)
    return length if length == 1 else max(length, _LEAST_BLOCK)


def block_means(values: Floats, length: int) -> Floats:
    """Return the means of consecutive blocks of rows, without the rows after the last whole block.

    Float64 (n, ...) in, (n // length, ...) out.
    """
    if length == 1:
        return values
    count = len(values) // length
    means: Floats = values[: count * length].reshape(count, length, *values.shape[1:]).mean(axis=1)
    return means


def _neighbors_are_alike(values: Floats, rng: np.random.Generator) -> bool:
    """Say whether the block means of `values` (n,) vary more than those of all random orders."""
    (excess,) = _excess(values[None])
    return all(
        excess > _excess(rng.permuted(np.tile(values, (shuffles, 1)), axis=1)).max() for shuffles in _SHUFFLES
    )


def _excess(orders: Floats) -> Floats:
    """Return by how much the block means of each row vary more than independent ones: (m, n) in, (m,) out."""
    single = np.maximum(_spread(orders), np.finfo(np.float64).tiny)
    excess = np.full(len(orders), -np.inf)
    length = 2
    while (count := orders.shape[1] // length) >= _LEAST_BLOCKS:
        means = orders[:, : count * length].reshape(len(orders), count, length).mean(axis=2)
        ratio = np.sqrt(length) * _spread(means) / single
        # The ratio of independent values has a standard deviation in proportion to 1 / sqrt(count).
        excess = np.maximum(excess, (ratio - 1.0) * np.sqrt(count))
        length *= 2
    return excess


def _spread(rows: Floats) -> Floats:
    """Return the mean difference of neighbours, without its sign, in each row: (m, n) in, (m,) out."""
    spread: Floats = np.abs(np.diff(rows, axis=1)).mean(axis=1)
    return spread
