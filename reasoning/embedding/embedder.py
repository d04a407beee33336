"""The interface of all embedders, and the static embedder, which needs no model server."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from vectuned.config.errors import UsageError, VectunedError

Vectors = npt.NDArray[np.float32]
Progress = Callable[[int], None]

_BATCH = 256  # texts between two reports of progress: some milliseconds


class EmbedderUnavailableError(VectunedError):
    """An embedder's package or model is not installed or cannot be loaded."""


class Embedder(Protocol):
    """Maps texts to vectors.

    Vectors of two embedders are comparable only if `name` and `version` are the same, so both are stored with
    the vectors.
    """

    @property
    def name(self) -> str:
        """The name of the model."""

    @property
    def version(self) -> str:
        """The release of the model."""

    @property
    def dimensions(self) -> int:
        """The length of every vector."""

    def encode(self, texts: Sequence[str], progress: Progress | None = None) -> Vectors:
        """Embed texts: float32 of shape (len(texts), dimensions), rows of length 1.

        The vector of a text does not depend on the other texts. `progress` is called after every batch with
        the number of texts done so far. Raises UsageError with the position of a text that has nothing to
        embed: a zero vector has no cosine, so no index on cosine distance contains it.
        """


class StaticEmbedder:
    """Averages one fixed vector for each token: no context, no GPU, tens of thousands of texts a second.

    The model is `l2_supercat` of the package wordllama, with 256 dimensions. It was trained so that the first
    128 or 64 dimensions are models as well. The package contains it; nothing is downloaded. Raises
    EmbedderUnavailableError if the package is missing or broken.
    """

    name = "wordllama-l2-supercat-256"
    dimensions = 256
    sizes = (256, 128, 64)

    def __init__(self, dimensions: int = dimensions) -> None:
        if dimensions not in self.sizes:
            raise UsageError(f"The static embedder has 256, 128 or 64 dimensions, not {dimensions}.")
        self.dimensions = dimensions
        self.name = f"wordllama-l2-supercat-{dimensions}"
        model, self.version = _load_wordllama()
        self._tokenizer = model.tokenizer
        self._tokenizer.no_padding()
        self._token_vectors: Vectors = np.ascontiguousarray(model.embedding[:, :dimensions])

    def encode(self, texts: Sequence[str], progress: Progress | None = None) -> Vectors:
        """Embed texts; see `Embedder.encode`. Texts are never truncated."""
        if isinstance(texts, str):
            raise TypeError("encode takes a sequence of texts, not one text")
        vectors = np.empty((len(texts), self.dimensions), np.float32)
        for first in range(0, len(texts), _BATCH):
            batch = list(texts[first : first + _BATCH])
            vectors[first : first + len(batch)] = unit_rows(self._sum_tokens(batch, first), first)
            if progress is not None:
                progress(first + len(batch))
        return vectors

    def _sum_tokens(self, batch: list[str], first: int) -> Vectors:
        # Without strip, a blank text would be one token without meaning, but with a vector.
        batch = [text.strip() for text in batch]
        try:
            encodings = self._tokenizer.encode_batch_fast(batch, add_special_tokens=False)
        except TypeError as error:
            raise UsageError(
                f"One of the texts {first} to {first + len(batch) - 1} is not Unicode."
            ) from error
        # Not wordllama's embed(): it pads every text of a batch to the longest, so that one long text takes
        # gigabytes. The product with a sparse matrix of tokens has the same sums, faster.
        tokens = [encoding.ids for encoding in encodings]
        ends = np.cumsum([0, *map(len, tokens)])
        columns = np.fromiter((token for ids in tokens for token in ids), np.int64, int(ends[-1]))
        ones = np.ones(len(columns), np.float32)
        counts = csr_array((ones, columns, ends), shape=(len(batch), len(self._token_vectors)))
        sums: Vectors = counts @ self._token_vectors
        return sums


def models() -> tuple[str, ...]:
    """Return the names that `open_embedder` knows."""
    return tuple(f"wordllama-l2-supercat-{size}" for size in StaticEmbedder.sizes)


def open_embedder(name: str) -> Embedder:
    """Load a model by name; raises UsageError if it is unknown, EmbedderUnavailableError if it is missing."""
    if name not in models():
        raise UsageError(f"There is no embedding model {name!r}; known are {', '.join(models())}.")
    return StaticEmbedder(int(name.rpartition("-")[2]))


def unit_rows(vectors: Vectors, first: int = 0) -> Vectors:
    """Scale each row of `vectors`, shape (n, dimensions), to length 1.

    Raises UsageError for a row that is zero or not finite; rows are numbered from `first`.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(bad):
        raise UsageError(f"Text {first + int(bad[0])} has nothing to embed: leave it out, or give it words.")
    unit: Vectors = vectors / lengths
    return unit


def _load_wordllama() -> tuple[Any, str]:
    try:
        with _unchanged_root_logger(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the packages it imports
            import wordllama

            # Without a cache folder it does not find its own tokenizer and tries to download one.
            model = wordllama.WordLlama.load(
                disable_download=True,
                cache_dir=Path(wordllama.__file__).parent,
                dim=StaticEmbedder.dimensions,
            )
    except ImportError as error:
        raise EmbedderUnavailableError(
            'The static embedder needs the package wordllama: run pip install ".[demo]" in the checkout of '
            "vectuned (Python < 3.14)."
        ) from error
    except (OSError, RuntimeError, ValueError) as error:
        raise EmbedderUnavailableError(
            f"The model of the package wordllama cannot be loaded ({error}): install wordllama again."
        ) from error
    return model, metadata.version("wordllama")


@contextmanager
def _unchanged_root_logger() -> Iterator[None]:
    # Importing wordllama calls logging.basicConfig, which would print the messages of every library.
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        for handler in [handler for handler in root.handlers if handler not in handlers]:
            root.removeHandler(handler)
        root.setLevel(level)
