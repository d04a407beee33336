"""Summaries in traces are short."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from vectuned.reasoning.trace import summarise


def test_summarise_returns_short_plain_data() -> None:
    @dataclass(frozen=True)
    class Thing:
        name: str
        parts: tuple[int, ...]

    assert summarise(np.zeros((3, 2), np.float32)) == "float32[3, 2]"
    assert summarise(Thing("n" * 500, tuple(range(9)))) == {
        "name": "n" * 119 + "…",
        "parts": {"count": 9, "first": [0, 1, 2]},
    }
    assert summarise(np.float32(0.12345678)) == 0.1235
    json.dumps(summarise({"a": {1, 2}, "b": object()}))
