"""Texts embedded lately are not embedded again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from vectuned.config.errors import UsageError
from vectuned.reasoning.embedding.embedder import Progress, Vectors, unit_rows
from vectuned.reasoning.embedding.embedder_cache import CachedEmbedder


class Counting:
    """Embeds by the characters of a text, and counts what it was asked for."""

    name, version, dimensions = "counting", "1", 26

    def __init__(self) -> None:
        self.texts: list[str] = []

    def encode(self, texts: Sequence[str], progress: Progress | None = None) -> Vectors:
        self.texts += texts
        counts = [[text.count(chr(97 + at)) for at in range(26)] for text in texts]
        return unit_rows(np.array(counts, np.float32))


def test_cached_embedder_embeds_recent_texts_once() -> None:
    counting = Counting()
    cached = CachedEmbedder(counting, max_vectors=2)
    first = cached.encode(["abc", "b", "abc"])
    np.testing.assert_array_equal(first, Counting().encode(["abc", "b", "abc"]))
    assert counting.texts == ["abc", "b"]
    cached.encode(["abc"])
    cached.encode(["c"])  # "b" was used the longest time ago
    cached.encode(["abc"])
    assert counting.texts == ["abc", "b", "c"]
    cached.encode(["b"])
    assert counting.texts == ["abc", "b", "c", "b"]
    assert len(cached) == 2
    assert (cached.name, cached.version, cached.dimensions) == ("counting", "1", 26)
    assert cached.encode([]).shape == (0, 26)
    first[:] = 0  # the memory is not the caller's
    assert cached.encode(["b"])[0, 1] == 1
    with pytest.raises(UsageError):
        cached.encode(["", "b"])
