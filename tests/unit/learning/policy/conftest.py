"""Replays of real queries for the tests of policies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from tests.unit.replays_helpers import MS_PER_BLOCK

from vectuned.learning.model import ladder
from vectuned.learning.statistics.replay_sample import ReplaySample

Floats = npt.NDArray[np.float64]
DATA = Path(__file__).parents[3] / "data" / "replays.npz"


@pytest.fixture(scope="module")
def population() -> ReplaySample:
    """Read replays of real queries at k = 10."""
    with np.load(DATA) as file:
        probes = {length: file[f"probe_{length}"].astype(np.float64) for length in ladder.PROBES}
        blocks = file["blocks"].astype(np.float64)
        return ReplaySample(10, probes, file["recall"] / 10.0, blocks, MS_PER_BLOCK * blocks)
