"""Questions to a store with a part of WordNet: answers, errors, and feedback to vectuned."""

from __future__ import annotations

import json
import random
import string
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from tests.integration.reasoning.store_helpers import connect, dsn
from tests.integration.table_helpers import Connection, enable, one

from vectuned.config.sections import ReasoningSettings
from vectuned.config.settings import load_settings
from vectuned.daemon.cli.main import main
from vectuned.daemon.work.worker import Worker
from vectuned.reasoning import errors
from vectuned.reasoning.answering.knowledge import Assessment, Candidate, Link, Material, Relations
from vectuned.reasoning.answering.nodes.gather import GatherResources
from vectuned.reasoning.answering.nodes.prune import PruneMaterial
from vectuned.reasoning.answering.reasoner import Outcome, Reasoner
from vectuned.reasoning.embedding.embedder import StaticEmbedder
from vectuned.reasoning.graph.concurrency import Load
from vectuned.reasoning.graph.connections import ConnectionPool
from vectuned.reasoning.graph.graph import Limits
from vectuned.reasoning.graph.testing import (
    StubNode,
    assert_before,
    only_step,
    outline,
    run_node,
    with_stubs,
)
from vectuned.reasoning.store.cache import EntityCache
from vectuned.reasoning.store.reads import prepare, read_entities
from vectuned.reasoning.store.store import EntityStore
from vectuned.reasoning.wordnet.corpus import Corpus

TABLE = "vectuned_entities.entities"
NODES = {"read", "embed", "identify", "slots", "traverse", "assess", "prune", "gather", "answer", "feedback"}
NOWHERE = "http://127.0.0.1:1/v1"


@pytest.fixture(scope="module")
def tuned(shared: EntityStore) -> EntityStore:
    """The module's store, tuned, with every search recorded."""
    enable(shared.conn, TABLE, sample_rate=1.0, min_samples=20)
    return shared


@pytest.fixture(scope="module")
def reasoner(tuned: EntityStore) -> Iterator[Reasoner]:
    with Reasoner(lambda: connect(tuned)) as reasoner:
        yield reasoner


@pytest.fixture
def own(tuned: EntityStore) -> Iterator[Reasoner]:
    """A reasoner that a test may change."""
    with Reasoner(lambda: connect(tuned)) as reasoner:
        yield reasoner


def unique_synset(synsets: Corpus) -> Any:
    """Return a noun with a single lemma of several words that no other synset has."""
    names = [", ".join(synset.lemmas) for synset in synsets.synsets]
    return next(
        synset
        for synset, name in zip(synsets.synsets, names, strict=True)
        if len(synset.lemmas) == 1 and " " in name and names.count(name) == 1 and synset.pos == "n"
    )


def test_ask_returns_sources_entities_and_a_trace(reasoner: Reasoner, synsets: Corpus) -> None:
    synset = unique_synset(synsets)
    outcome = reasoner.ask(f"What is a {synset.lemmas[0]}?")
    assert outcome.candidates[0].entity.label == synset.id
    assert synset.gloss in outcome.answer.text
    document = outcome.to_json()
    json.dumps(document)
    assert [each["score"] for each in document["entities"]] == sorted(
        (each["score"] for each in document["entities"]), reverse=True
    )
    assert {step["node"] for step in document["trace"]} == NODES
    numbers = [citation["number"] for citation in document["citations"]]
    assert numbers == list(range(1, len(numbers) + 1))
    assert all(f"[{number}]" in document["answer"] for number in numbers)
    assert document["citations"][0]["source"] == f"entity {synset.id}"
    kinds = {link.kind for link in outcome.material.links}
    assert {"explicit", "hierarchy", "semantic"} <= kinds
    parents = {e.label for e in outcome.material.entities.values()}
    position = [each.id for each in synsets.synsets].index(synset.id)
    sources, targets = synsets.relations.of("hypernym")
    assert {synsets.synsets[at].id for at in targets[sources == position]} <= parents
    for first, second in (
        ("embed", "identify"),
        ("identify", "slots"),
        ("traverse", "assess"),
        ("answer", "feedback"),
    ):
        assert_before(outcome.trace, first, second)
    step = only_step(outcome.trace, "slots")
    assert any(d.get("completeness", 0) == 1 for d in step.decisions)


def test_ask_records_feedback_on_its_search(reasoner: Reasoner, tuned: EntityStore, synsets: Corpus) -> None:
    outcome = reasoner.ask(unique_synset(synsets).gloss)
    ((query_id, answer),) = outcome.feedback.answers.items()
    assert answer.startswith("recorded")
    row = tuned.conn.execute(
        "SELECT f.relevant, f.irrelevant FROM vectuned.feedback f WHERE f.query_id = %s", (query_id,)
    ).fetchone()
    assert row is not None
    cited = {str(each.ids[0]) for each in outcome.answer.citations if each.kind == "entity"}
    assert set(row[0]) == cited & {str(id_) for id_ in outcome.searches[0].entities} != set()
    assert row[1] == []


def test_ask_finds_more_than_exact_vector_search(
    reasoner: Reasoner, synsets: Corpus, embedder: StaticEmbedder
) -> None:
    queries = synsets.held_out_queries()[:40]
    vectors = embedder.encode(synsets.texts())
    ids = np.array([synset.id for synset in synsets.synsets])
    hits = exact = 0
    for query in queries:
        found = [each.entity.label for each in reasoner.ask(query.text).candidates[:10]]
        hits += query.source in found
        order = np.argsort(-(vectors @ embedder.encode([query.text])[0]))[:10]
        exact += query.source in ids[order]
    # Of exact vector search: a third of its misses at least are found.
    assert hits - exact > (len(queries) - exact) / 3


def gibberish(seed: int) -> str:
    rng = random.Random(seed)
    return " ".join("".join(rng.choices(string.ascii_lowercase, k=9)) for _ in range(4))


def reject_all(own: Reasoner) -> None:
    """Let the node `prune` reject every candidate."""
    own.graph = own.graph.replace("prune", PruneMaterial(EntityCache(), own.load, similarity=0.99))


@pytest.mark.parametrize("seed", range(5))
def test_ask_about_invented_words_has_no_answer(reasoner: Reasoner, seed: int) -> None:
    outcome = reasoner.ask(gibberish(seed))
    assert outcome.candidates
    assert outcome.answer.text == "Nothing in the store answers this."
    assert outcome.answer.citations == ()


def test_ask_without_an_answer_searches_more_widely_once(own: Reasoner, tuned: EntityStore) -> None:
    reject_all(own)
    outcome = own.ask(gibberish(0))
    assert outcome.answer.text == "Nothing in the store answers this."
    assert outcome.trace.rounds == 2
    first, second = outcome.trace.steps_of("identify")
    assert second.inputs["breadth"]["neighbours"] == 4 * first.inputs["breadth"]["neighbours"]
    assert [step.status for step in outcome.trace.steps_of("assess")] == ["sent_back", "ok"]
    assert len(outcome.material.rejected) == 40
    (answer,) = outcome.feedback.answers.values()
    assert answer == "recorded"
    own.settings = own.settings.model_copy(update={"rounds": 1})
    assert own.ask(gibberish(0)).trace.rounds == 1


def test_gather_reads_resources_if_there_are_gaps(
    reasoner: Reasoner, tuned: EntityStore, synsets: Corpus
) -> None:
    example, owners = next(iter(synsets.training_examples().items()))
    with ConnectionPool(lambda: prepare(connect(tuned))) as connections:
        vector = StaticEmbedder().encode([example])[0]
        with connections.lend() as conn:
            (id_,) = EntityStore(conn).find_ids(owners[:1]).values()
            entity = read_entities(conn, [id_], EntityCache())[id_]
        candidates = (Candidate(entity, 1.0, 1.0, 1.0, 1.0),)
        material = Material(candidates, (), {}, {id_: entity})
        gaps = Assessment(0.5, 0.5, True, ("something",))
        done = run_node(
            GatherResources(), connections=connections, vector=vector, material=material, assessment=gaps
        )
        assert done["resources"][0].content == example
        assert done["resources"][0].entity_ids == (id_,)
        elsewhere = Material((), (), {}, {})
        done = run_node(
            GatherResources(), connections=connections, vector=vector, material=elsewhere, assessment=gaps
        )
        assert done["resources"][0].content == example
        none = Assessment(0.5, 0.5, True)
        done = run_node(
            GatherResources(), connections=connections, vector=vector, material=material, assessment=none
        )
        assert done["resources"] == ()
        assert only_step(done.trace, "gather").decisions[0]["what"] == "not needed"


def test_prune_is_stricter_under_load(reasoner: Reasoner) -> None:
    outcome = reasoner.ask("a small animal")
    lead = outcome.candidates[0].entity
    links = tuple(Link(lead.id, lead.id, "explicit", f"l{n}", n / 10) for n in range(1, 10))
    inputs: dict[str, Any] = {
        "candidates": outcome.candidates,
        "relations": Relations(links, {lead.id: lead}),
        "slots": {},
        "searches": outcome.searches,
        "assessment": outcome.assessment,
    }
    load = Load(capacity=2)
    idle = run_node(PruneMaterial(EntityCache(), load), **inputs)["material"]
    with load.running(), load.running():
        busy = run_node(PruneMaterial(EntityCache(), load), **inputs)["material"]
    assert [link.confidence for link in idle.links] == [n / 10 for n in range(2, 10)]
    assert [link.confidence for link in busy.links] == [n / 10 for n in range(7, 10)]
    assert 1 <= len(busy.candidates) <= len(idle.candidates)


def test_ask_cancels_the_statement_of_a_slow_node(own: Reasoner, tuned: EntityStore) -> None:
    marker = f"/* {gibberish(7)} */"

    class Slow(StubNode):
        def run(self, inputs: Any, context: Any) -> Any:
            with context.connection() as conn:
                conn.execute(f"SELECT pg_sleep(30) {marker}".encode())

    whole = own.graph
    own.graph = whole.replace("identify", Slow(whole["identify"], {}, Limits(seconds=0.3)))
    began = time.monotonic()
    with pytest.raises(errors.NodeTimeoutError, match="Node identify took longer") as raised:
        own.ask("anything")
    assert time.monotonic() - began < 25  # it did not wait for the statement
    assert raised.value.trace is not None
    assert "identify: timed_out" in outline(raised.value.trace)
    deadline = time.monotonic() + 300
    count = (
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE %s "
        "AND pid <> pg_backend_pid()"
    )
    while one(tuned.conn, count, f"%{marker}%") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert one(tuned.conn, count, f"%{marker}%") == 0
    own.graph = with_stubs(whole, gather={"resources": ()})
    assert own.ask("a small animal").candidates


def test_ask_with_a_failing_generator_answers_from_the_facts(tuned: EntityStore) -> None:
    settings = ReasoningSettings(
        generator="endpoint", generator_url=NOWHERE, generator_model="m", generator_seconds=1
    )
    with Reasoner(lambda: connect(tuned), settings) as reasoner:
        outcome = reasoner.ask("a small animal")
    assert outcome.answer.generator == "extractive"
    assert outcome.answer.citations
    (note,) = [d for d in outcome.trace.decisions("answer") if d["what"] == "fell back"]
    assert note["code"] == "GENERATOR_UNAVAILABLE"


def test_ask_raises_errors_that_name_the_reason(tuned: EntityStore, conn: Connection, database: str) -> None:
    def ask(reasoner: Reasoner, text: str = "a small animal") -> Outcome:
        with reasoner:
            return reasoner.ask(text, correlation_id="c-1")

    with pytest.raises(errors.EmptyQuestionError):
        ask(Reasoner(lambda: connect(tuned)), " \n")
    with pytest.raises(errors.QuestionTooLongError):
        ask(Reasoner(lambda: connect(tuned)), "word " * 1000)
    with pytest.raises(errors.ModelMismatchError, match="l2-supercat-128") as raised:
        ask(Reasoner(lambda: connect(tuned), embedder=StaticEmbedder(128)))
    assert raised.value.exit_code == 78
    assert raised.value.correlation_id == "c-1"
    with pytest.raises(errors.StoreMissingError):
        ask(Reasoner(lambda: psycopg.connect(database, autocommit=True)))
    with pytest.raises(errors.StoreUnavailableError) as lost:
        ask(Reasoner(lambda: psycopg.connect("host=127.0.0.1 port=1", autocommit=True)))
    assert lost.value.trace is not None
    assert [step.attempt for step in lost.value.trace.steps_of("read")] == [1, 2, 3]
    assert "127.0.0.1" not in json.dumps(lost.value.to_json())


def test_ask_works_without_tuning_and_rejects_an_empty_store(store: EntityStore) -> None:
    with Reasoner(lambda: connect(store)) as reasoner:
        outcome = reasoner.ask("a small animal")
    assert outcome.candidates
    assert outcome.trace.decisions("identify")[0]["by"] == "the default effort"
    store.conn.execute("TRUNCATE vectuned_entities.entities CASCADE")
    with pytest.raises(errors.StoreEmptyError), Reasoner(lambda: connect(store)) as reasoner:
        reasoner.ask("a small animal")


@pytest.mark.parametrize(
    "text", ["it's \\ 'quoted' & (tsquery) | !", "%s %(x)s {a}", "\0nul", "日本語", "the of and"]
)
def test_ask_accepts_any_text(reasoner: Reasoner, text: str) -> None:
    assert reasoner.ask(text).trace.status == "ok"


def test_ask_reuses_connections(tuned: EntityStore) -> None:
    opened = []

    def opening() -> Connection:
        opened.append(1)
        return connect(tuned)

    with Reasoner(opening, ReasoningSettings(connections=2)) as reasoner:
        for _ in range(5):
            reasoner.ask("a small animal")
    assert len(opened) <= 2


def test_ask_replaces_lost_connections(tuned: EntityStore) -> None:
    with Reasoner(lambda: connect(tuned)) as reasoner:
        reasoner.ask("a small animal")
        lost = one(
            tuned.conn,
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'idle'",
        )
        assert lost >= 2
        outcome = reasoner.ask("a small animal")
    assert outcome.answer.citations
    assert outcome.trace.steps_of("read")[0].status == "failed"


def test_feedback_of_failed_runs_raises_the_effort_while_recall_is_unknown(
    own: Reasoner, tuned: EntityStore, synsets: Corpus, embedder: StaticEmbedder
) -> None:
    conn = tuned.conn
    worker = Worker(conn, load_settings(None, {"learning.batch_min": 20}, {}))
    own.settings = own.settings.model_copy(update={"rounds": 1})
    texts = [query.text for query in synsets.queries()][:90]

    def served_effort() -> int:
        return int(
            one(
                conn,
                "SELECT ef_search FROM vectuned.params(%s::regclass, (SELECT embedding FROM "
                "vectuned_entities.entities LIMIT 1), 10)",
                TABLE,
            )
        )

    for vector in embedder.encode(texts):
        tuned.find_similar(vector)
    worker.drain()
    worker.replay_all()
    assert worker.learn_all() == 1
    for text in texts[:20]:
        own.ask(text)
    worker.drain()
    worker.replay_all()
    worker.judge()
    assert one(conn, "SELECT count(*) FROM vectuned.trajectory WHERE verdict = 'success'") > 80
    before = served_effort()
    conn.execute("UPDATE vectuned.promise SET margin = 0")
    reject_all(own)
    outcomes = [own.ask(gibberish(seed)) for seed in range(25)]
    assert all(outcome.material.rejected for outcome in outcomes)
    worker.drain()
    worker.judge()  # by feedback alone: none of these searches was replayed
    failed = [next(iter(outcome.feedback.answers)) for outcome in outcomes]
    verdicts = conn.execute(
        "SELECT verdict, count(*) FROM vectuned.trajectory WHERE query_id = ANY (%s::uuid[]) GROUP BY 1",
        (failed,),
    ).fetchall()
    assert verdicts == [("failure", 25)]
    assert served_effort() > before
    (search,) = own.ask(texts[0]).searches
    worker.drain()
    assert (
        one(conn, "SELECT ef_search FROM vectuned.trajectory WHERE query_id = %s", search.query_id) > before
    )


def test_ask_command_answers_and_draws(
    tuned: EntityStore, synsets: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    synset = unique_synset(synsets)
    where = ["--dsn", dsn(tuned)]
    pictures = ["--mermaid", str(tmp_path / "run.mmd"), "--svg", str(tmp_path / "run.svg")]
    assert main(["ask", synset.lemmas[0], "--json", *pictures, *where]) == 0
    document = json.loads(capsys.readouterr().out)
    assert synset.gloss in document["answer"]
    assert document["entities"][0]["label"] == synset.id
    assert {step["node"] for step in document["trace"]} == NODES
    assert (tmp_path / "run.mmd").read_text().startswith("flowchart TD")
    assert (tmp_path / "run.svg").read_text().startswith("<svg")
    assert main(["ask", synset.lemmas[0], "--trace", *where]) == 0
    out = capsys.readouterr().out
    assert synset.gloss in out
    assert all(node in out for node in NODES)


def test_ask_command_reports_errors_in_the_configured_language(
    tuned: EntityStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VECTUNED_REASONING__MESSAGES", "de")
    assert main(["ask", " ", "--json", "--dsn", dsn(tuned)]) == 2
    output = capsys.readouterr()
    error = json.loads(output.out)["error"]
    assert error["code"] == "QUESTION_EMPTY"
    assert error["message"] == "Die Frage ist leer: Stellen Sie sie in Worten."
    assert error["correlation_id"] in output.err
    assert "Traceback" not in output.err
