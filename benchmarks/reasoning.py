"""Measure the end task: does identification find the synset that a usage example was written for?

Run as `python -m benchmarks.reasoning [--queries 5000] [--dsn ...]` on a database with all of WordNet
(`vectuned wordnet load`). First vectuned learns from usage examples in the store; then the arms answer
held-out ones, in blocks of 50 in random order. Times are the latency seen by the client, without the
embedding:

vector: the ten nearest by plain SQL at the server's default ef_search ("default") or by vectuned.search.
hybrid: the statement of the identification node, which combines names and vectors, with its vector search at
the default or by vectuned; the time includes parsing and weighting the words of the question.

The same for descriptions: definitions of another dictionary that do not contain the word, of the half that
nothing was fitted on.

Then whole runs of the graph, without a language model. The figures to watch: hit@10 of hybrid well above
vector, whose upper bound is exact search, on usage examples, and above exact search on descriptions; no run
fails; p50 of a run under 30 ms.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import psycopg

from benchmarks.dictionary import load_descriptions
from vectuned.config.errors import UsageError, VectunedError
from vectuned.config.sections import ReasoningSettings
from vectuned.config.settings import load_settings
from vectuned.daemon.database.choice import choose_database, open_database
from vectuned.daemon.database.session import open_session
from vectuned.daemon.work.worker import Worker
from vectuned.learning.model.vectors import Vector
from vectuned.reasoning.answering.knowledge import Breadth, Question
from vectuned.reasoning.answering.nodes import identify, read
from vectuned.reasoning.answering.reasoner import Reasoner
from vectuned.reasoning.embedding.embedder import StaticEmbedder, Vectors
from vectuned.reasoning.graph.connections import ConnectionPool
from vectuned.reasoning.graph.context import Context
from vectuned.reasoning.store.reads import prepare
from vectuned.reasoning.store.words import WordWeights
from vectuned.reasoning.wordnet.corpus import Corpus, Query, load_wordnet

Connection = psycopg.Connection[Any]
Arm = Callable[[str, Vectors], list[int]]
"""Takes a text and its vector, returns the ids of ten entities, best first."""

BLOCK: Final = 50
DEFAULT_EF: Final = 40
TABLE: Final = "vectuned_entities.entities"
PLAIN: Final = (
    b"SELECT entity_id FROM vectuned_entities.entities WHERE embedding IS NOT NULL"
    b" ORDER BY embedding <=> %s LIMIT 10"
)
TUNED: Final = b"SELECT id::bigint FROM vectuned.search('vectuned_entities.entities', %s, 10)"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dsn", help="the database (default: as vectuned itself chooses)")
    parser.add_argument("--queries", type=int, default=5000, help="held-out queries (default %(default)s)")
    parser.add_argument("--learn", type=int, default=2000, help="searches to learn from, 0 for none")
    parser.add_argument(
        "--runs", type=int, default=1000, help="whole runs of the graph (default %(default)s)"
    )
    parser.add_argument(
        "--descriptions",
        type=int,
        default=1500,
        help="held-out descriptions (default %(default)s)",
    )
    parser.add_argument("--target-recall", type=float, default=0.95)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there as well")
    options = parser.parse_args()
    home = Path(os.environ["VECTUNED_HOME"]) if os.environ.get("VECTUNED_HOME") else None
    try:
        with open_database(choose_database(options.dsn, os.environ), home) as conninfo:
            result = measure(conninfo, options)
    except VectunedError as error:
        sys.exit(f"error: {error}")
    text = json.dumps(result, indent=2)
    if options.json is not None:
        options.json.write_text(text + "\n")
    print(text)


def measure(conninfo: str, options: argparse.Namespace) -> dict[str, Any]:
    """Learn, compare the arms, then run the graph."""
    rng = np.random.default_rng(options.seed)
    corpus = load_wordnet()
    held = corpus.held_out_queries()
    judged = [held[at] for at in rng.permutation(len(held))[: options.queries]]
    known = {query.text for query in held}
    training = [query for query in corpus.queries() if query.text not in known]
    embedder = StaticEmbedder()
    with open_session(conninfo) as conn:
        labels: dict[str, int] = dict(
            conn.execute("SELECT label, entity_id FROM vectuned_entities.entities").fetchall()
        )
        if len(labels) < len(corpus.synsets):
            raise UsageError("Not all of WordNet is in the store: run `vectuned wordnet load` first.")
        learned = learn(
            conn,
            [training[at] for at in rng.permutation(len(training))[: options.learn]],
            embedder,
            options.target_recall,
        )
        ids = [labels[synset.id] for synset in corpus.synsets]
        sources = [labels[query.source] for query in judged]
        vectors = embedder.encode([query.text for query in judged])
        result = {
            "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()[0]},
            "server": conn.info.parameter_status("server_version"),
            "entities": len(labels),
            "queries": len(judged),
            "seed": options.seed,
            "learned": learned,
            "exact": hits(exact_ids(corpus.texts(), ids, embedder, vectors), sources),
        }
    connections = ConnectionPool(lambda: prepare(open_session(conninfo)))
    with connections:
        result["arms"] = race(arms(connections, embedder), judged, vectors, sources, rng)
        if options.descriptions:
            asked = held_out_descriptions(corpus)[: options.descriptions]
            vectors = embedder.encode([query.text for query in asked])
            sources = [labels[query.source] for query in asked]
            result["descriptions"] = {
                "queries": len(asked),
                "exact": hits(exact_ids(corpus.texts(), ids, embedder, vectors), sources),
                "arms": race(arms(connections, embedder), asked, vectors, sources, rng),
            }
    result["runs"] = run_whole(conninfo, embedder, judged[: options.runs])
    return result


def held_out_descriptions(corpus: Corpus) -> list[Query]:
    """Return the half of the descriptions that nothing was fitted on, in random order."""
    queries = load_descriptions(corpus)
    order = np.random.default_rng(0).permutation(len(queries))  # the other half fitted ranking.features.PRIOR
    return [queries[at] for at in order[len(queries) // 2 :]]


def learn(
    conn: Connection, queries: Sequence[Query], embedder: StaticEmbedder, target: float
) -> dict[str, Any] | None:
    """Search as the node does, record and replay all searches, and publish; return the served policy."""
    enable = b"SELECT vectuned.enable(%s::regclass, 'embedding', target_recall => %s, sample_rate => %s)"
    conn.execute(enable, (TABLE, target, 1.0))
    for vector in embedder.encode([query.text for query in queries]):
        conn.execute(TUNED, (Vector(vector),)).fetchall()
    worker = Worker(conn, load_settings(None, {}, {}))
    worker.drain()
    worker.replay_all()
    worker.learn_all()
    # Held-out queries must not be recorded.
    conn.execute(enable, (TABLE, target, 0.0))
    row = conn.execute(
        "SELECT access_path, ef_search, expected_recall, certified, samples "
        "FROM vectuned.bank WHERE k_class = 10"
    ).fetchone()
    names = ("access_path", "ef_search", "expected_recall", "certified", "samples")
    return None if row is None else dict(zip(names, row, strict=True))


def exact_ids(
    texts: list[str], ids: list[int], embedder: StaticEmbedder, vectors: Vectors
) -> list[list[int]]:
    """Return the ten nearest entities of each query by exact search."""
    stored = embedder.encode(texts)
    found = []
    for first in range(0, len(vectors), 500):
        similarities = vectors[first : first + 500] @ stored.T
        nearest = np.argpartition(-similarities, 10, axis=1)[:, :10]
        order = np.take_along_axis(-similarities, nearest, axis=1).argsort(axis=1)
        found += [[ids[at] for at in row] for row in np.take_along_axis(nearest, order, axis=1)]
    return found


def arms(connections: ConnectionPool, embedder: StaticEmbedder) -> dict[str, Arm]:
    """Return the arms by name."""

    def by_sql(statement: bytes) -> Arm:
        def ask(text: str, vector: Vectors) -> list[int]:
            with connections.lend() as conn:
                return [row[0] for row in conn.execute(statement, (Vector(vector),)).fetchall()]

        return ask

    return {
        "vector, default": by_sql(PLAIN),
        "vector, vectuned": by_sql(TUNED),
        "hybrid, default": ask_with(connections, identify.IdentifyEntities(ef_search=DEFAULT_EF), embedder),
        "hybrid, vectuned": ask_with(connections, identify.IdentifyEntities(), embedder),
    }


def ask_with(connections: ConnectionPool, node: identify.IdentifyEntities, embedder: StaticEmbedder) -> Arm:
    """Return a function that identifies the ten best entities with a node."""
    reading = read.ReadQuestion(embedder, WordWeights())

    def ask(text: str, vector: Vectors) -> list[int]:
        context = Context(correlation_id="benchmark", node=node.name, connections=connections)
        words = reading.run(read.In(Question(text)), context).words
        done = node.run(identify.In(Question(text), words, vector, Breadth()), context)
        return [candidate.entity.id for candidate in done.candidates]

    return ask


def race(
    arms: dict[str, Arm],
    queries: Sequence[Query],
    vectors: Vectors,
    sources: Sequence[int],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Run every query by every arm, in blocks; return hits and latency of each arm."""
    found: dict[str, list[list[int]]] = {name: [] for name in arms}
    times: dict[str, list[float]] = {name: [] for name in arms}
    for arm in arms.values():  # warms up connections, caches and plans
        for at in range(min(20, len(queries))):
            arm(queries[at].text, vectors[at])
    for first in range(0, len(queries), BLOCK):
        for name in rng.permutation(list(arms)):
            for at in range(first, min(first + BLOCK, len(queries))):
                began = time.perf_counter()
                found[name].append(arms[name](queries[at].text, vectors[at]))
                times[name].append((time.perf_counter() - began) * 1000)
    return {name: {**hits(found[name], sources), **latency(times[name])} for name in arms}


def run_whole(conninfo: str, embedder: StaticEmbedder, queries: Sequence[Query]) -> dict[str, Any]:
    """Run the whole graph for each query."""
    times, failed, rounds, used = [], [], 0, []
    settings = ReasoningSettings()
    with Reasoner(lambda: open_session(conninfo), settings, embedder=embedder) as reasoner:
        for query in queries[:20]:
            reasoner.ask(query.text)
        began, cpu = time.perf_counter(), time.process_time()
        for query in queries:
            started = time.perf_counter()
            try:
                outcome = reasoner.ask(query.text)
            except VectunedError as error:
                failed.append(str(error))
            else:
                times.append((time.perf_counter() - started) * 1000)
                rounds += outcome.trace.rounds > 1
                used.append(outcome.answer.citations != ())
        took, worked = time.perf_counter() - began, time.process_time() - cpu
    return {
        "count": len(queries),
        "failed": failed,
        "sent_back": rounds,
        "answered": sum(used),
        "seconds": round(took, 2),
        "own_cpu_seconds": round(worked, 2),
        **latency(times),
    }


def hits(found: Sequence[Sequence[int]], sources: Sequence[int]) -> dict[str, float]:
    """Return the share of queries whose source comes first, and among the first ten."""
    first = [ids[:1] == [source] for ids, source in zip(map(list, found), sources, strict=True)]
    ten = [source in ids[:10] for ids, source in zip(map(list, found), sources, strict=True)]
    return {"hit@1": round(float(np.mean(first)), 4), "hit@10": round(float(np.mean(ten)), 4)}


def latency(times: Sequence[float]) -> dict[str, float]:
    """Return mean and percentiles in milliseconds."""
    if not times:
        return {}
    p50, p99 = np.percentile(times, [50, 99])
    return {
        "mean_ms": round(float(np.mean(times)), 3),
        "p50_ms": round(float(p50), 3),
        "p99_ms": round(float(p99), 3),
    }


if __name__ == "__main__":
    main()
