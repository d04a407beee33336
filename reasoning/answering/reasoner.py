"""The reasoner: the graph that answers questions, and what its runs share."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Self

from vectuned.config.errors import ConfigurationError
from vectuned.config.sections import ReasoningSettings
from vectuned.reasoning.answering.nodes.answer import WriteAnswer
from vectuned.reasoning.answering.nodes.assess import AssessEvidence
from vectuned.reasoning.answering.nodes.embed import EmbedQuestion
from vectuned.reasoning.answering.nodes.feedback import RecordFeedback
from vectuned.reasoning.answering.nodes.gather import GatherResources
from vectuned.reasoning.answering.nodes.identify import IdentifyEntities
from vectuned.reasoning.answering.nodes.prune import PruneMaterial
from vectuned.reasoning.answering.nodes.read import ReadQuestion
from vectuned.reasoning.answering.nodes.slots import FillSlots
from vectuned.reasoning.answering.nodes.traverse import TraverseLinks
from vectuned.reasoning.embedding.embedder import Embedder
from vectuned.reasoning.embedding.embedders import make_embedder
from vectuned.reasoning.embedding.endpoint import Endpoint
from vectuned.reasoning.graph.concurrency import Load
from vectuned.reasoning.graph.connections import Connection, ConnectionPool
from vectuned.reasoning.graph.context import Cancellation
from vectuned.reasoning.graph.graph import Graph, Plan
from vectuned.reasoning.graph.runner import Run, run
from vectuned.reasoning.store.cache import EntityCache
from vectuned.reasoning.store.reads import prepare, record_answer_feedback
from vectuned.reasoning.store.words import WordWeights
from vectuned.reasoning.trace import Trace

from .generators import ChatGenerator, ExtractiveGenerator, Generator
from .knowledge import Answer, Assessment, Breadth, Candidate, FeedbackReport, Material, Question, Search

_EMBEDDER_SLACK: Final = 5.0  # seconds that the node has beyond the embedder's own timeout
_THREADS_PER_RUN: Final = 4  # two nodes of a run work at once; as many abandoned ones may still hold a thread


@dataclass(frozen=True)
class RunInputs:
    """The inputs of a run."""

    question: Question
    breadth: Breadth


@dataclass(frozen=True)
class Outcome:
    """The result of a question: the answer, the candidates best first, and how the answer was found."""

    answer: Answer
    candidates: tuple[Candidate, ...]
    material: Material
    assessment: Assessment
    searches: tuple[Search, ...]
    feedback: FeedbackReport
    trace: Trace

    @classmethod
    def from_run(cls, done: Run) -> Outcome:
        """Take the outcome from the values of a run."""
        return cls(
            answer=done["answer"],
            candidates=done["candidates"],
            material=done["material"],
            assessment=done["assessment"],
            searches=done["searches"],
            feedback=done["feedback"],
            trace=done.trace,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as plain data."""
        return {
            "answer": self.answer.text,
            "generator": self.answer.generator,
            "citations": self._citations(),
            "entities": self._entities(),
            "path": self._path(),
            "coherence": self.assessment.coherence,
            "completeness": self.assessment.completeness,
            "gaps": list(self.assessment.gaps),
            "feedback": dict(self.feedback.answers),
            "correlation_id": self.trace.correlation_id,
            "duration_ms": self.trace.duration_ms,
            "trace": self.trace.to_json()["steps"],
        }

    def _citations(self) -> list[dict[str, Any]]:
        return [
            {
                "number": each.number,
                "kind": each.kind,
                "ids": list(each.ids),
                "source": each.source,
                "text": each.text,
            }
            for each in self.answer.citations
        ]

    def _entities(self) -> list[dict[str, Any]]:
        kept_ids = {candidate.entity.id for candidate in self.material.candidates}
        return [
            {
                "id": each.entity.id,
                "label": each.entity.label,
                "name": each.entity.name,
                "description": each.entity.description,
                "score": each.score,
                "similarity": each.similarity,
                "name_match": each.name_match,
                "kept": each.entity.id in kept_ids,
            }
            for each in self.candidates
        ]

    def _path(self) -> list[dict[str, Any]]:
        names = {id_: entity.name for id_, entity in self.material.entities.items()}
        return [
            {
                "source": names.get(link.source),
                "relation": link.name,
                "target": names.get(link.target),
                "kind": link.kind,
                "confidence": link.confidence,
                "hop": link.hop,
            }
            for link in self.material.links
        ]


class Reasoner:
    """Answers questions from the entity store. Thread-safe.

    `connect` opens a connection in autocommit mode; connections are reused by later runs and closed by
    `close`. Asking a database without an entity store raises StoreMissingError. `graph` may be replaced.
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
        self._connections = ConnectionPool(lambda: _open(connect), self.settings.connections)
        self._workers = ThreadPoolExecutor(
            _THREADS_PER_RUN * self.settings.connections, thread_name_prefix="reasoning"
        )
        self._graph = self._make_graph(
            make_embedder(self.settings) if embedder is None else embedder,
            make_generator(self.settings) if generator is None else generator,
        )
        self._plan = self._graph.plan()

    @property
    def graph(self) -> Graph:
        """The graph of nodes; setting it to another one checks that one at once."""
        return self._graph

    @graph.setter
    def graph(self, graph: Graph) -> None:
        self._plan, self._graph = graph.plan(), graph

    @property
    def plan(self) -> Plan:
        """The checked graph."""
        return self._plan

    def ask(
        self,
        text: str,
        *,
        correlation_id: str | None = None,
        cancellation: Cancellation | None = None,
        breadth: Breadth | None = None,
    ) -> Outcome:
        """Answer a question; raises a ReasoningError, with the trace so far, if that fails."""
        inputs = RunInputs(Question(text, self.settings.language), breadth or self.breadth)
        with self.load.running():
            done = run(
                self._plan,
                inputs,
                connections=self._connections,
                cancellation=cancellation,
                rounds=self.settings.rounds,
                correlation_id=correlation_id,
                workers=self._workers,
            )
        return Outcome.from_run(done)

    def confirm(self, text: str, entity_id: int, *, by_person: bool = True) -> str:
        """Record that an entity is the answer to a question: it comes first when the question is asked again.

        Returns `recorded`, or `unchanged` if the session's role said so before. `by_person=False` is for
        programs, which count a fifth. Errors of the driver are raised as they are.
        """
        return self._give_feedback(text, entity_id, True, by_person)

    def reject(self, text: str, entity_id: int, *, by_person: bool = True) -> str:
        """Record that an entity is not the answer to a question; see `confirm`."""
        return self._give_feedback(text, entity_id, False, by_person)

    def _give_feedback(self, text: str, entity_id: int, is_right: bool, by_person: bool) -> str:
        with self._connections.lend() as conn:
            return record_answer_feedback(conn, text, entity_id, is_right=is_right, by_person=by_person)

    def close(self) -> None:
        """Close the connections; running nodes are not waited for."""
        self._workers.shutdown(wait=False, cancel_futures=True)
        self._connections.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make_graph(self, embedder: Embedder, generator: Generator) -> Graph:
        settings = self.settings
        cache = EntityCache()
        max_age = timedelta(days=settings.max_age_days) if settings.max_age_days else None
        return Graph(
            RunInputs,
            (
                ReadQuestion(embedder, WordWeights()),
                EmbedQuestion(embedder, seconds=settings.embedder_seconds + _EMBEDDER_SLACK),
                IdentifyEntities(),
                FillSlots(embedder),
                TraverseLinks(cache),
                AssessEvidence(settings.min_coherence, settings.min_completeness),
                PruneMaterial(cache, self.load, relevance=settings.relevance, max_age=max_age),
                GatherResources(),
                WriteAnswer(generator, seconds=settings.generator_seconds),
                RecordFeedback(count_uses=settings.count_uses),
            ),
        )


def make_generator(settings: ReasoningSettings) -> Generator:
    """Return the generator that the settings name; raises ConfigurationError if a setting is missing."""
    if settings.generator == "extractive":
        return ExtractiveGenerator()
    for key in ("generator_url", "generator_model"):
        if not getattr(settings, key):
            raise ConfigurationError(f"reasoning.generator endpoint needs reasoning.{key}.")
    endpoint = Endpoint(settings.generator_url, settings.generator_seconds, settings.generator_key_variable)
    return ChatGenerator(endpoint, settings.generator_model, settings.generator_tokens)


def _open(connect: Callable[[], Connection]) -> Connection:
    conn = connect()
    try:
        return prepare(conn)
    except BaseException:
        conn.close()  # nothing else refers to the connection yet
        raise
