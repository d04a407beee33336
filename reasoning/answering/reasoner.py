"""The reasoner: the graph that answers questions, and all that its runs share."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

from vectuned.config.errors import ConfigurationError
from vectuned.config.sections import ReasoningSettings
from vectuned.reasoning.answering.nodes.answer import Write
from vectuned.reasoning.answering.nodes.assess import Assess
from vectuned.reasoning.answering.nodes.embed import Embed
from vectuned.reasoning.answering.nodes.gather import Gather
from vectuned.reasoning.answering.nodes.identify import Identify
from vectuned.reasoning.answering.nodes.prune import Prune
from vectuned.reasoning.answering.nodes.read import Read
from vectuned.reasoning.answering.nodes.report import Report
from vectuned.reasoning.answering.nodes.slots import ResolveSlots
from vectuned.reasoning.answering.nodes.traverse import Traverse
from vectuned.reasoning.embedding.embedder import Embedder
from vectuned.reasoning.embedding.embedders import make_embedder
from vectuned.reasoning.embedding.endpoint import Endpoint
from vectuned.reasoning.graph.concurrency import Load
from vectuned.reasoning.graph.connections import Connection, Connections
from vectuned.reasoning.graph.context import Cancellation
from vectuned.reasoning.graph.graph import Graph, Plan
from vectuned.reasoning.graph.runner import Run, run
from vectuned.reasoning.trace import Trace

from .generators import ChatGenerator, Extractive, Generator
from .knowledge import Answer, Assessment, Breadth, Candidate, FeedbackReport, Material, Question, Search
from .reads import HotEntities, WordWeights, prepare


@dataclass(frozen=True)
class Asked:
    """What a run is given."""

    question: Question
    breadth: Breadth


@dataclass(frozen=True)
class Outcome:
    """What came of a question: the answer, the entities best first, and how it came about."""

    answer: Answer
    candidates: tuple[Candidate, ...]
    material: Material
    assessment: Assessment
    searches: tuple[Search, ...]
    told: FeedbackReport
    trace: Trace

    @classmethod
    def of(cls, done: Run) -> Outcome:
        """Take what counts from a run."""
        return cls(
            done["answer"],
            done["candidates"],
            done["material"],
            done["assessment"],
            done["searches"],
            done["told"],
            done.trace,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as plain data."""
        kept = {candidate.entity.id for candidate in self.material.candidates}
        names = {id_: entity.name for id_, entity in self.material.entities.items()}
        return {
            "answer": self.answer.text,
            "generator": self.answer.generator,
            "citations": [
                {
                    "number": each.number,
                    "kind": each.kind,
                    "ids": list(each.ids),
                    "source": each.source,
                    "text": each.text,
                }
                for each in self.answer.citations
            ],
            "entities": [
                {
                    "id": each.entity.id,
                    "label": each.entity.label,
                    "name": each.entity.name,
                    "description": each.entity.description,
                    "score": each.score,
                    "similarity": each.similarity,
                    "names": each.names,
                    "kept": each.entity.id in kept,
                }
                for each in self.candidates
            ],
            "path": [
                {
                    "source": names.get(link.source),
                    "relation": link.name,
                    "target": names.get(link.target),
                    "kind": link.kind,
                    "confidence": link.confidence,
                    "hop": link.hop,
                }
                for link in self.material.links
            ],
            "coherence": self.assessment.coherence,
            "completeness": self.assessment.completeness,
            "gaps": list(self.assessment.gaps),
            "feedback": dict(self.told.answers),
            "correlation_id": self.trace.correlation_id,
            "duration_ms": self.trace.duration_ms,
            "trace": self.trace.to_json()["steps"],
        }


class Reasoner:
    """Answers questions from the entity store; for use from several threads.

    `connect` opens a connection in autocommit mode; those opened are kept for the next run, until `close`.
    A question to a database without a store raises StoreMissingError. `graph` may be changed, node by node.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        settings: ReasoningSettings | None = None,
        *,
        embedder: Embedder | None = None,
        generator: Generator | None = None,
        breadth: Breadth | None = None,
    ) -> None:
        self.settings = settings or ReasoningSettings()
        self.breadth = breadth or Breadth()
        self.load = Load(self.settings.connections)
        self._connections = Connections(lambda: _prepared(connect), self.settings.connections)
        # Two nodes of a run work at once, and as many again may be on their way out.
        self._workers = ThreadPoolExecutor(4 * self.settings.connections, thread_name_prefix="reasoning")
        self._graph = self._make_graph(
            make_embedder(self.settings) if embedder is None else embedder,
            make_generator(self.settings) if generator is None else generator,
        )
        self._plan = self._graph.plan()

    @property
    def graph(self) -> Graph:
        """The nodes; set it to others, and they are checked at once."""
        return self._graph

    @graph.setter
    def graph(self, graph: Graph) -> None:
        self._plan, self._graph = graph.plan(), graph

    @property
    def plan(self) -> Plan:
        """The graph as it was checked."""
        return self._plan

    def ask(
        self,
        text: str,
        *,
        correlation_id: str | None = None,
        cancellation: Cancellation | None = None,
        breadth: Breadth | None = None,
    ) -> Outcome:
        """Answer a question; raises a ReasoningError, with the trace so far, where that fails."""
        asked = Asked(Question(text, self.settings.language), breadth or self.breadth)
        with self.load.running():
            done = run(
                self._plan,
                asked,
                connections=self._connections,
                cancellation=cancellation,
                rounds=self.settings.rounds,
                correlation_id=correlation_id,
                workers=self._workers,
            )
        return Outcome.of(done)

    def close(self) -> None:
        """Close the connections, and leave the threads to end by themselves."""
        self._workers.shutdown(wait=False, cancel_futures=True)
        self._connections.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make_graph(self, embedder: Embedder, generator: Generator) -> Graph:
        chosen = self.settings
        hot = HotEntities()
        max_age = timedelta(days=chosen.max_age_days) if chosen.max_age_days else None
        return Graph(
            Asked,
            (
                Read(embedder, WordWeights()),
                Embed(embedder, seconds=chosen.embedder_seconds + 5.0),
                Identify(),
                ResolveSlots(embedder),
                Traverse(hot),
                Assess(chosen.min_coherence, chosen.min_completeness),
                Prune(hot, self.load, relevance=chosen.relevance, max_age=max_age),
                Gather(),
                Write(generator, seconds=chosen.generator_seconds),
                Report(count_uses=chosen.count_uses),
            ),
        )


def make_generator(settings: ReasoningSettings) -> Generator:
    """Return the generator that the settings name; ConfigurationError where they do not go together."""
    if settings.generator == "extractive":
        return Extractive()
    for key in ("generator_url", "generator_model"):
        if not getattr(settings, key):
            raise ConfigurationError(f"reasoning.generator endpoint needs reasoning.{key}.")
    endpoint = Endpoint(settings.generator_url, settings.generator_seconds, settings.generator_key_variable)
    return ChatGenerator(endpoint, settings.generator_model, settings.generator_tokens)


def _prepared(connect: Callable[[], Connection]) -> Connection:
    conn = connect()
    try:
        return prepare(conn)
    except BaseException:  # nobody else knows of the connection yet
        conn.close()
        raise
