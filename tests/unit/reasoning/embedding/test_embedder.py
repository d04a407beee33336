"""The static embedder returns unit vectors that depend on the text alone, and never uses the network."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vectuned.config.errors import UsageError, VectunedError
from vectuned.reasoning.embedding.embedder import (
    Embedder,
    EmbedderUnavailableError,
    StaticEmbedder,
    open_embedder,
    unit_rows,
)
from vectuned.reasoning.wordnet.corpus import load_wordnet

pytest.importorskip("wordllama", reason="wordllama has no wheel for this Python")

TEXTS = ["a cat sat on the mat", "kittens sleep on carpets", "the central bank raised interest rates"]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return StaticEmbedder()


def test_encode_returns_float32_of_length_one(embedder: Embedder) -> None:
    vectors = embedder.encode(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (3, embedder.dimensions) == (3, 256)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_encode_puts_similar_texts_close_together(embedder: Embedder) -> None:
    cat, kitten, bank = embedder.encode(TEXTS)
    assert cat @ kitten > cat @ bank + 0.1


def test_encode_agrees_with_wordllama(embedder: Embedder) -> None:
    import wordllama

    model = wordllama.WordLlama.load(disable_download=True, cache_dir=Path(wordllama.__file__).parent)
    texts = [synset.text for synset in load_wordnet().synsets[::400]]
    np.testing.assert_allclose(embedder.encode(texts), model.embed(texts, norm=True), atol=1e-6)


def test_open_embedder_with_fewer_dimensions_agrees_with_wordllama() -> None:
    import wordllama

    folder = Path(wordllama.__file__).parent
    model = wordllama.WordLlama.load(disable_download=True, cache_dir=folder, trunc_dim=64)
    small = open_embedder("wordllama-l2-supercat-64")
    assert (small.name, small.dimensions) == ("wordllama-l2-supercat-64", 64)
    np.testing.assert_allclose(small.encode(TEXTS), model.embed(TEXTS, norm=True), atol=1e-6)
    with pytest.raises(UsageError, match="There is no embedding model 'wordllama'; known are wordllama-l2"):
        open_embedder("wordllama")
    with pytest.raises(UsageError, match="256, 128 or 64 dimensions, not 100"):
        StaticEmbedder(100)


def test_encode_does_not_depend_on_other_texts(embedder: Embedder) -> None:
    many = embedder.encode([*TEXTS, *(f"number {n} and {'more ' * (n % 50)}" for n in range(600)), TEXTS[0]])
    np.testing.assert_array_equal(many[:3], np.vstack([embedder.encode([text]) for text in TEXTS]))
    np.testing.assert_array_equal(many[0], many[-1])


def test_encode_of_a_long_text_takes_little_memory(embedder: Embedder) -> None:
    # Padded to 200,000 tokens, a batch of 256 would take 50 GB.
    vectors = embedder.encode([*TEXTS, "cat " * 200_000])
    np.testing.assert_array_equal(vectors[:3], embedder.encode(TEXTS))
    np.testing.assert_allclose(np.linalg.norm(vectors[3]), 1, atol=1e-5)


def test_encode_without_texts_returns_no_vectors(embedder: Embedder) -> None:
    assert embedder.encode([]).shape == (0, 256)


@pytest.mark.parametrize("empty", ["", "  \n\t"])
def test_encode_of_a_blank_text_names_its_position(embedder: Embedder, empty: str) -> None:
    with pytest.raises(UsageError, match=r"^Text 301 has nothing to embed"):
        embedder.encode(["word"] * 301 + [empty])


def test_unit_rows_rejects_rows_without_direction() -> None:
    rows = np.array([[3, 4], [0, 0], [np.inf, 1]], np.float32)
    np.testing.assert_allclose(unit_rows(rows[:1]), [[0.6, 0.8]])
    with pytest.raises(UsageError, match="Text 11 "):
        unit_rows(rows, first=10)
    with pytest.raises(UsageError, match="Text 0 "):
        unit_rows(rows[2:])


def test_encode_rejects_anything_but_a_list_of_unicode_texts(embedder: Embedder) -> None:
    with pytest.raises(UsageError, match="not Unicode"):
        embedder.encode(["fine", "\ud800"])
    with pytest.raises(TypeError, match="sequence of texts"):
        embedder.encode("one text")


def test_encode_reports_progress_up_to_all_texts(embedder: Embedder) -> None:
    seen: list[int] = []
    embedder.encode(["word"] * 700, progress=seen.append)
    assert seen == sorted(set(seen))
    assert len(seen) > 1
    assert seen[-1] == 700


def test_static_embedder_name_and_version_identify_the_model(embedder: Embedder) -> None:
    import wordllama

    assert (embedder.name, embedder.version) == ("wordllama-l2-supercat-256", wordllama.__version__)


def test_static_embedder_loads_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert StaticEmbedder().encode(["offline"]).shape == (1, 256)


def test_static_embedder_leaves_process_wide_state_unchanged() -> None:
    """A fresh process: no import before the first use, no logging handler, no output, no hang in a fork."""
    script = """
import logging, os, sys, warnings
import vectuned.reasoning.embedding.embedder as module
assert "wordllama" not in sys.modules
filters = list(warnings.filters)
embedder = module.StaticEmbedder()
embedder.encode(["one text", "another text"] * 2000)
root = logging.getLogger()
assert root.handlers == [] and root.level == logging.WARNING, (root.handlers, root.level)
assert warnings.filters == filters
child = os.fork()
if child == 0:
    os._exit(0 if embedder.encode(["forked"] * 600).shape == (600, 256) else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={"PYTHONPATH": str(Path(__file__).parents[4] / ".pkg")},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_static_embedder_keeps_logging_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    for name in [name for name in sys.modules if name.partition(".")[0] == "wordllama"]:
        monkeypatch.delitem(sys.modules, name)
    StaticEmbedder()
    assert (root.handlers, root.level) == (handlers, level)


def test_static_embedder_without_wordllama_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wordllama", None)
    with pytest.raises(EmbedderUnavailableError, match=r'pip install "\.\[demo\]"') as caught:
        StaticEmbedder()
    assert isinstance(caught.value, VectunedError)
    assert isinstance(caught.value.__cause__, ImportError)


def test_static_embedder_names_a_missing_model_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wordllama

    # Loading looks for the tokenizer beside the package's __file__; elsewhere there is none.
    monkeypatch.setattr(wordllama, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(EmbedderUnavailableError, match=r"l2_supercat_tokenizer_config\.json"):
        StaticEmbedder()
