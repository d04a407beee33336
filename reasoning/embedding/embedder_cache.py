"""A cache of embeddings: the same texts come again, and the model is the slowest part of a run."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

import numpy as np
from cachetools import LRUCache

from .embedder import Embedder, Progress, Vectors

_MAX_BATCH: Final = 1024  # texts of one call that are cached; a bulk load would push out all others
_KEY_BYTES: Final = 16  # of a text's hash, so that long texts take no room


class CachedEmbedder:
    """Embeds by another embedder and caches the last `max_vectors` vectors used. Thread-safe.

    Two threads may embed the same text at the same time.
    """

    def __init__(self, embedder: Embedder, max_vectors: int = 10_000) -> None:
        self.embedder = embedder
        self._lock = threading.Lock()
        self._vectors: LRUCache[bytes, Vectors] = LRUCache(max_vectors)

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
        """Embed texts; see `Embedder.encode`. More than 1,024 texts bypass the cache."""
        if len(texts) > _MAX_BATCH or self._vectors.maxsize == 0:
            return self.embedder.encode(texts, progress)
        keys = [_key(text) for text in texts]
        with self._lock:
            known = {key: self._vectors[key] for key in keys if key in self._vectors}
        # First positions of the texts to embed, in their order, so that an error numbers texts as the caller.
        missing = {key: at for at, key in reversed(list(enumerate(keys))) if key not in known}
        positions = sorted(missing.values())
        if positions:
            vectors = self.embedder.encode([texts[at] for at in positions])
            fresh = {keys[at]: vector.copy() for at, vector in zip(positions, vectors, strict=True)}
            known |= fresh
            with self._lock:
                self._vectors.update(fresh)
        if progress is not None:
            progress(len(texts))
        if not keys:
            return np.empty((0, self.dimensions), np.float32)
        stacked: Vectors = np.stack([known[key] for key in keys])
        return stacked

    def __len__(self) -> int:
        return len(self._vectors)


def _key(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_KEY_BYTES).digest()
