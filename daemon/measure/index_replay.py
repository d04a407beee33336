"""Replays of searches through one index, without storing them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg

from vectuned.learning.model.arrays import Floats, Singles
from vectuned.learning.model.tuned_columns import TunedColumn, TunedIndex
from vectuned.learning.replay.scan import IndexScans, ScanGoal
from vectuned.learning.truth.truth import Truth


@dataclass(frozen=True)
class IndexReplay:
    """Recall@k and index buffers of n searches at every rung of effort, float64 (n, rungs)."""

    recall: Floats
    blocks: Floats

    def take(self, rows: Any) -> IndexReplay:
        """Return the searches at `rows`, indices or a mask."""
        return IndexReplay(self.recall[rows], self.blocks[rows])


def replay_index(
    conn: psycopg.Connection[Any],
    tuned: TunedColumn,
    index: TunedIndex,
    vectors: Singles,
    truth: Truth,
    k: int,
    progress: Callable[[int], None] | None = None,
) -> IndexReplay:
    """Replay searches through one index, in the transaction `conn` is in; nothing is stored.

    A scan ends when its answer is complete. Searches that time out are left out.
    """
    scans = IndexScans(tuned, index, len(vectors), k)
    for i, vector in enumerate(vectors):
        scans.search(conn, i, vector, k, None, ScanGoal.full_recall(truth, i, k))
        if progress is not None:
            progress(i + 1)
    finished = scans.finished
    return IndexReplay(scans.recall(finished, truth.take(finished), k), scans.blocks[finished])
