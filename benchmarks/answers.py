"""Measure how identification improves with feedback: the learning curve of the ranking of answers.

Run as `python -m benchmarks.answers [--dsn ...] [--json FILE]` on a database with all of WordNet (`vectuned
wordnet load`) and without feedback on answers. Questions are usage examples of WordNet and descriptions from
another dictionary, mixed. The right answers of 0, 100, 500 and 2,000 of them are confirmed. After each of
these steps the ranking is learned as the daemon learns it, and held-out questions of both kinds are asked.
Last, this is done for the same 2,000 questions with a fifth of the confirmations wrong: another candidate is
confirmed instead of the right entity.

The same questions are asked with the learned ranking and without it ("prior"), in blocks of 50 in random
order. Times are those of the nodes `read` and `identify`, as the client sees them. The goals: hits rise with
feedback, wrong feedback loses at most 0.02, and the learned ranking adds at most 3 ms. With the ranking
learned from 2,000 questions, all held-out questions are also asked in whole runs of the graph: none may fail,
and p50 must be under 30 ms. The feedback is forgotten at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.dictionary import load_descriptions
from benchmarks.reasoning import Arm, Connection, ask_with, held_out_descriptions, race, run_whole
from vectuned.config.errors import UsageError, VectunedError
from vectuned.daemon.database.choice import choose_database, open_database
from vectuned.daemon.database.session import open_session
from vectuned.reasoning.answering.nodes import identify
from vectuned.reasoning.embedding.embedder import StaticEmbedder
from vectuned.reasoning.graph.connections import ConnectionPool
from vectuned.reasoning.ranking.learning import learn_answers
from vectuned.reasoning.store.reads import prepare, record_answer_feedback
from vectuned.reasoning.wordnet.corpus import Corpus, Query, load_wordnet

STEPS: Final = (0, 100, 500, 2000)  # confirmed questions
WRONG_SHARE: Final = 0.2  # share of the confirmed questions, as in the goal for wrong feedback


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dsn", help="the database (default: as vectuned itself chooses)")
    parser.add_argument(
        "--queries", type=int, default=500, help="questions of each kind (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there as well")
    options = parser.parse_args()
    home = Path(os.environ["VECTUNED_HOME"]) if os.environ.get("VECTUNED_HOME") else None
    try:
        with open_database(choose_database(options.dsn, os.environ), home) as conninfo:
            result = measure(conninfo, options.queries, options.seed)
    except VectunedError as error:
        sys.exit(f"error: {error}")
    text = json.dumps(result, indent=2)
    if options.json is not None:
        options.json.write_text(text + "\n")
    print(text)


def measure(conninfo: str, queries: int, seed: int) -> dict[str, Any]:
    """Confirm answers step by step, learn, and ask held-out questions."""
    rng = np.random.default_rng(seed)
    corpus, embedder = load_wordnet(), StaticEmbedder()
    stream, asked = divide(corpus, queries, rng)
    pool = ConnectionPool(lambda: prepare(open_session(conninfo)))
    with open_session(conninfo) as conn, pool:
        labels: dict[str, int] = dict(
            conn.execute("SELECT label, entity_id FROM vectuned_entities.entities").fetchall()
        )
        if len(labels) < len(corpus.synsets):
            raise UsageError("Not all of WordNet is in the store: run `vectuned wordnet load` first.")
        if conn.execute("SELECT FROM vectuned_entities.answer_feedback LIMIT 1").fetchone():
            raise UsageError("The store already has feedback on answers, and would learn from it as well.")
        arms = {
            "prior": ask_with(pool, identify.IdentifyEntities(learned=False), embedder),
            "learned": ask_with(pool, identify.IdentifyEntities(), embedder),
        }
        curve: dict[str, Any] = {}
        runs: dict[str, Any] = {}
        try:
            for count, is_wrong in (*((step, False) for step in STEPS), (STEPS[-1], True)):
                forget(conn)
                given = stream[:count]
                answers = [labels[query.source] for query in given]
                if is_wrong:
                    answers = spoil(given, answers, arms["prior"], embedder, rng)
                with conn.transaction():
                    for query, answer in zip(given, answers, strict=True):
                        record_answer_feedback(conn, query.text, answer, is_right=True)
                learned = learn_answers(conn, embedder, "english", seed=seed).to_json()
                kinds = {
                    kind: race(
                        arms,
                        each,
                        embedder.encode([query.text for query in each]),
                        [labels[query.source] for query in each],
                        rng,
                    )
                    for kind, each in asked.items()
                }
                name = f"{count:,}, a fifth of them wrong" if is_wrong else f"{count:,}"
                curve[name] = {"learned": learned, **kinds}
                if count == STEPS[-1] and not is_wrong:
                    runs = run_whole(conninfo, embedder, [each for kind in asked.values() for each in kind])
        finally:
            forget(conn)
            learn_answers(conn, embedder, "english", seed=seed)
        return {
            "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()[0]},
            "server": conn.info.parameter_status("server_version"),
            "entities": len(labels),
            "queries": queries,
            "seed": seed,
            "curve": curve,
            "runs": runs,
        }


def divide(
    corpus: Corpus, queries: int, rng: np.random.Generator
) -> tuple[list[Query], dict[str, list[Query]]]:
    """Return mixed questions to confirm, and held-out questions of both kinds to ask."""
    examples = corpus.held_out_queries()
    order = rng.permutation(len(examples))
    held = held_out_descriptions(corpus)
    texts = {query.text for query in held}
    others = [query for query in load_descriptions(corpus) if query.text not in texts]
    half = STEPS[-1] // 2
    stream = [examples[at] for at in order[queries : queries + half]]
    stream += [others[at] for at in rng.permutation(len(others))[:half]]
    mixed = [stream[at] for at in rng.permutation(len(stream))]
    return mixed, {
        "usage examples": [examples[at] for at in order[:queries]],
        "descriptions": held[:queries],
    }


def spoil(
    given: Sequence[Query],
    answers: Sequence[int],
    ask: Arm,
    embedder: StaticEmbedder,
    rng: np.random.Generator,
) -> list[int]:
    """Replace a fifth of the answers by other entities that were found for the same questions."""
    spoiled = list(answers)
    for at in rng.permutation(len(given))[: round(WRONG_SHARE * len(given))]:
        (vector,) = embedder.encode([given[at].text])
        others = [id_ for id_ in ask(given[at].text, vector) if id_ != answers[at]]
        if others:
            spoiled[at] = others[rng.integers(len(others))]
    return spoiled


def forget(conn: Connection) -> None:
    """Forget the feedback of the session's role."""
    conn.execute("SELECT vectuned_entities.forget_answer_feedback(session_user::text)")


if __name__ == "__main__":
    main()
