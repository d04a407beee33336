"""Turn texts into vectors: the interface of all embedders, and the static one that needs no model server."""

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

_BATCH = 256


class EmbedderUnavailableError(VectunedError):
    """An embedder's package or model is not installed or cannot be loaded."""


class Embedder(Protocol):
    """Maps texts to vectors.

    Vectors are comparable only between embedders that agree in `name` and `version`; whoever stores vectors
    stores both beside them.
    """

    @property
    def name(self) -> str:
        """The model, as stored beside its vectors."""

    @property
    def version(self) -> str:
        """The release of the model; vectors of two releases are not comparable."""

    @property
    def dimensions(self) -> int:
        """The length of every vector."""

    def encode(self, texts: Sequence[str], progress: Progress | None = None) -> Vectors:
        """Embed texts: float32 of shape (len(texts), dimensions), rows of length 1.

        A text's vector does not depend on the texts around it. `progress` is called after every batch with
        the number of texts done so far. Raises UsageError, with the text's position, for a text that has
        nothing to embed: a zero row would be in no cosine index, and so in no answer.
        """


class StaticEmbedder:
    """Averages one fixed vector a token: no context, no GPU, tens of thousands of texts a second.

    The model is wordllama's `l2_supercat` (256 dimensions, of which the first 128 or 64 are a model of their
    own: it was trained so), which is part of that package; nothing is ever downloaded. Raises
    EmbedderUnavailableError when the package is missing or broken.
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
        """Embed texts; see `Embedder.encode`. Text of any length counts in full."""
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
        # Blank texts become a token that means nothing, yet has a vector.
        batch = [text.strip() for text in batch]
        try:
            encodings = self._tokenizer.encode_batch_fast(batch, add_special_tokens=False)
        except TypeError as error:
            raise UsageError(
                f"One of the texts {first} to {first + len(batch) - 1} is not Unicode."
            ) from error
        # Not wordllama's embed(), which pads every text of a batch to the longest: one long text among short
        # ones takes gigabytes. A product with the sparse matrix of tokens gives the same sums, faster.
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
    """Load a model by its name; UsageError for an unknown one, EmbedderUnavailableError if it is missing."""
    if name not in models():
        raise UsageError(f"There is no embedding model {name!r}; known are {', '.join(models())}.")
    return StaticEmbedder(int(name.rpartition("-")[2]))


def unit_rows(vectors: Vectors, first: int = 0) -> Vectors:
    """Scale each row of `vectors`, shape (n, dimensions), to length 1.

    Raises UsageError for a row without direction (zero or not finite), numbered from `first`.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(bad):
        raise UsageError(f"Text {first + int(bad[0])} has nothing to embed: leave it out, or give it words.")
    unit: Vectors = vectors / lengths
    return unit


def _load_wordllama() -> tuple[Any, str]:
    try:
        with _root_logger_kept(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whatever the import warns of is not ours to mend
            import wordllama

            # Without the cache folder it misses its own tokenizer, and asks the network for one.
            model = wordllama.WordLlama.load(
                disable_download=True,
                cache_dir=Path(wordllama.__file__).parent,
                dim=StaticEmbedder.dimensions,
            )
    except ImportError as error:
        raise EmbedderUnavailableError(
            'The static embedder needs the package wordllama: pip install "vectuned[demo]" (Python < 3.14).'
        ) from error
    except (OSError, RuntimeError, ValueError) as error:
        raise EmbedderUnavailableError(
            f"The model of the package wordllama cannot be loaded ({error}): install wordllama again."
        ) from error
    return model, metadata.version("wordllama")


@contextmanager
def _root_logger_kept() -> Iterator[None]:
    # Importing wordllama calls logging.basicConfig, which would print every library's messages.
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        for handler in [handler for handler in root.handlers if handler not in handlers]:
            root.removeHandler(handler)
        root.setLevel(level)
