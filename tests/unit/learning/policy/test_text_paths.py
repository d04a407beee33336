"""What settings give statements that are replayed as text: proofs by family, cheapest first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vectuned.learning.model.scan_settings import EXACT, continued_hnsw_settings, hnsw_settings
from vectuned.learning.policy.text_paths import text_options
from vectuned.learning.statistics.demand import Demand

DEMAND = Demand(0.9)
PATHS = [
    ("exact", dict(EXACT), 1.0, 9.0),
    ("hnsw", dict(hnsw_settings(40, 10)), 0.6, 1.0),
    ("hnsw", dict(hnsw_settings(80, 10)), 0.8, 2.0),
    ("hnsw_continued", dict(continued_hnsw_settings(40, 10)), 0.85, 2.0),
    ("hnsw_continued", dict(continued_hnsw_settings(80, 10)), 0.97, 3.0),
    ("hnsw_continued", dict(continued_hnsw_settings(140, 10)), 0.99, 5.0),
]


def call(rng: np.random.Generator) -> list[dict[str, Any]]:
    return [
        {
            "path": path,
            "effort": None,
            "settings": settings,
            "recall": 1.0 if path == "exact" else float(rng.binomial(10, recall)) / 10,
            "ms": ms * float(rng.uniform(0.9, 1.1)),
        }
        for path, settings, recall, ms in PATHS
    ]


def calls(count: int, seed: int = 0) -> list[list[dict[str, Any]]]:
    rng = np.random.default_rng(seed)
    return [call(rng) for _ in range(count)]


def test_text_options_prove_each_effort_above_the_smallest_proven() -> None:
    options = text_options(calls(300), DEMAND)
    assert [(o.path, o.proven) for o in options] == [
        ("exact", True),
        ("hnsw", False),
        ("hnsw", False),
        ("hnsw_continued", False),
        ("hnsw_continued", True),
        ("hnsw_continued", True),
    ]
    for option, (_, settings, recall, ms) in zip(options, PATHS, strict=True):
        assert option.settings == settings
        assert option.recall == pytest.approx(recall, abs=0.02)
        assert option.ms == pytest.approx(ms, rel=0.05)
        assert option.bound <= option.recall
        assert not option.proven or option.bound >= DEMAND.target


def test_text_options_prove_nothing_but_exact_search_from_few_calls() -> None:
    assert text_options([], DEMAND) == []
    assert [o.path for o in text_options(calls(20), DEMAND) if o.proven] == ["exact"]


def test_text_options_take_only_calls_replayed_with_the_present_settings() -> None:
    old = [outcomes[:-1] for outcomes in calls(300)]
    newest = calls(40, seed=1)
    options = text_options([*newest, *old], DEMAND)
    assert len(options) == len(PATHS)
    expected = float(np.mean([outcomes[1]["recall"] for outcomes in newest]))
    assert options[1].recall == pytest.approx(expected)


def test_text_options_respect_the_tail() -> None:
    """A mean that suffices proves nothing where too many calls are poor."""
    rows = calls(300)
    # Scattered at random, since regular intervals count as bursts; the proof shuffles by seed 0.
    poor = np.random.default_rng(1).permutation(300)[:37]
    for number, outcomes in enumerate(rows):
        for outcome in outcomes[3:]:
            outcome["recall"] = 0.5 if number in poor else 1.0
    assert any(o.proven for o in text_options(rows, DEMAND)[1:])
    assert not any(o.proven for o in text_options(rows, Demand(0.9, max_tail=0.05))[1:])
