"""Indexes, exact answers and recall curves for tests that need no database."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from vectuned.learning.model.arrays import Floats
from vectuned.learning.model.column import VectorColumn
from vectuned.learning.model.tuned_columns import TunedColumn, TunedIndex
from vectuned.learning.truth.truth import Truth


def hnsw(number: int = 1, *, form: str = "plain", resumable: bool = True) -> TunedIndex:
    """Make an HNSW index over all rows."""
    return index(number, "hnsw", form=form, resumable=resumable)


def ivfflat(number: int = 1, lists: int = 100) -> TunedIndex:
    """Make an IVFFlat index over all rows."""
    return index(number, "ivfflat", lists=lists, resumable=False)


def partial(number: int, requires: str, share: float) -> TunedIndex:
    """Make a partial HNSW index over the rows that match a filter."""
    return index(number, "hnsw", requires=requires, share=share)


def index(
    number: int,
    method: Literal["hnsw", "ivfflat"],
    *,
    form: str = "plain",
    requires: str | None = None,
    share: float = 1.0,
    lists: int | None = None,
    resumable: bool = True,
) -> TunedIndex:
    """Make an index."""
    return TunedIndex(
        number=number,
        name=f"items_{number}_idx",
        method=method,
        form=form,
        requires=requires,
        share=share,
        lists=lists,
        generation=1000 + number,
        resumable=resumable,
        probed=form == "plain" and resumable,
    )


def tuned_column(
    *indexes: TunedIndex, min_samples: int = 100, target_recall: float = 0.95, max_tail: float = 1.0
) -> TunedColumn:
    """Make a tuned column with some indexes."""
    column = VectorColumn(7, "public", "items", "embedding", "l2", "vector", 4, ("id",), "public")
    return TunedColumn(
        column,
        enabled=True,
        target_recall=target_recall,
        max_tail=max_tail,
        sample_rate=1.0,
        trajectory_window=10_000,
        learning_rate=0.1,
        min_samples=min_samples,
        store_vectors=True,
        default_ef=40,
        default_probes=1,
        indexes=indexes,
    )


def truth(distances: npt.ArrayLike) -> Truth:
    """Make exact answers with these distances (n, k), padded with +inf."""
    values = np.asarray(distances, dtype=np.float64)
    addresses = np.full(values.shape, -1, dtype=np.int64)
    counts = np.isfinite(values).sum(axis=1).astype(np.int64)
    return Truth(values, np.zeros(values.shape), counts, addresses, addresses, 0)


def curves_of(rng: np.random.Generator, means: Floats, count: int) -> Floats:
    """Draw recalls at efforts of the given means; a query that is easy at one effort is easy at all."""
    ease = rng.random((count, 1))
    recalls = np.clip(means + (ease - 0.5) * 2.0 * (1.0 - means), 0.0, 1.0)
    return np.asarray(recalls, dtype=np.float64)
