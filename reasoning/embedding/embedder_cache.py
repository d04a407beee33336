"""Remembering vectors: the same texts come again and again, and a model is the slowest part of a run."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

import numpy as np

from .embedder import Embedder, Progress, Vectors

_LONGEST_BATCH: Final = 1024


class CachedEmbedder:
    """Embeds by another embedder what it has not embedded lately; `most` vectors stay, the last used.

    Texts are known by a hash of 16 bytes, so that long ones take no room. For use from several threads;
    two of them may embed the same text at once.
    """

    def __init__(self, embedder: Embedder, most: int = 10_000) -> None:
        self.embedder = embedder
        self.hits = self.misses = 0
        self._most = most
        self._lock = threading.Lock()
        self._vectors: OrderedDict[bytes, Vectors] = OrderedDict()

    @property
    def name(self) -> str:
        """The model's name."""
        return self.embedder.name

    @property
    def version(self) -> str:
        """The model's version."""
        return self.embedder.version

    @property
    def dimensions(self) -> int:
        """The length of every vector."""
        return self.embedder.dimensions

    def encode(self, texts: Sequence[str], progress: Progress | None = None) -> Vectors:
        """Embed texts; see `Embedder.encode`. What comes in bulk goes past the memory."""
        if len(texts) > _LONGEST_BATCH or self._most == 0:
            return self.embedder.encode(texts, progress)
        keys = [blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts]
        known: dict[bytes, Vectors] = {}
        with self._lock:
            for key in keys:
                if key in self._vectors:
                    self._vectors.move_to_end(key)
                    known[key] = self._vectors[key]
        # Positions of the first of each, so that an error names the text that the caller gave.
        missing = {key: at for at, key in reversed(list(enumerate(keys))) if key not in known}
        positions = sorted(missing.values())
        if positions:
            fresh = self.embedder.encode([texts[at] for at in positions])
            known |= {keys[at]: vector for at, vector in zip(positions, fresh, strict=True)}
        with self._lock:
            self.hits += len(texts) - len(positions)
            self.misses += len(positions)
            for at in positions:
                self._vectors[keys[at]] = known[keys[at]].copy()
            while len(self._vectors) > self._most:
                self._vectors.popitem(last=False)
        if progress is not None:
            progress(len(texts))
        if not keys:
            return np.empty((0, self.dimensions), np.float32)
        stacked: Vectors = np.stack([known[key] for key in keys])
        return stacked

    def __len__(self) -> int:
        return len(self._vectors)
