"""`vectuned demo`: real text, real queries and a real server; recall before and after learning."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from time import monotonic
from typing import Any, Final

import psycopg

from vectuned.config.settings import Settings
from vectuned.daemon.advisor.filters import FilterAdvice
from vectuned.daemon.console import Console
from vectuned.daemon.database.session import open_session
from vectuned.daemon.measure.arms import Outcome
from vectuned.daemon.measure.fixed_setting import choose_best_fixed, compute_fixed_curve
from vectuned.daemon.work.worker import Worker
from vectuned.learning.model.tuned_columns import TunedColumn
from vectuned.learning.model.vectors import Vector
from vectuned.learning.policy.learner import LearningResult
from vectuned.learning.policy.replays import load_replays
from vectuned.learning.truth.truth import exact_neighbors
from vectuned.reasoning.embedding.embedder import StaticEmbedder
from vectuned.reasoning.wordnet.corpus import load_wordnet
from vectuned.sql.install import migrate
from vectuned.sql.rows import fetch_row, fetch_rows, fetch_value

from .demo_comparison import DemoComparison, K
from .demo_data import (
    INDEX,
    RELATION,
    SCHEMA,
    DemoQueries,
    DemoSizes,
    build_index,
    embed_corpus,
    enable,
    find_tuned_columns,
    follow_advice,
    load_table,
)
from .demo_report import print_demo

TARGETS: Final = (0.98, 0.95)  # the last one stays in force, for the filtered searches too
_PRODUCTION_SAMPLE_RATE: Final = 0.05  # share of searches recorded while arms are timed, as in production

Outcomes = dict[str, Outcome]


@dataclass
class _TargetResult:
    """What was learned for a target recall, and the outcomes of the arms."""

    lesson: LearningResult
    outcomes: Outcomes


@dataclass
class _FilteredResult:
    """Outcomes of filtered searches before and after the advice, and the advice that was followed."""

    before: Outcomes
    after: Outcomes
    unrelated: Outcomes
    advice: FilterAdvice
    advice_seconds: float


def demo(conninfo: str, settings: Settings, sizes: DemoSizes, console: Console) -> dict[str, Any]:
    """Load, index, search, learn and compare in the database at `conninfo`; return the figures.

    Replaces the schema vectuned_demo of that database. The keys of the result are those of
    `vectuned demo --json`.
    """
    began = monotonic()
    with console.step("reading WordNet"):
        corpus, embedder = load_wordnet(), StaticEmbedder()
    rows, training, heldout = embed_corpus(corpus, embedder, sizes, console)
    filtered_queries = heldout.take(slice(sizes.heldout // 2))
    with psycopg.connect(conninfo, autocommit=True) as admin:
        migrate(admin)
    with open_session(conninfo) as conn:
        load_table(conn, corpus, rows, console)
        build_seconds = build_index(conn, conninfo, rows.shape, console, settings.index_build)
        worker = Worker(conn, settings)
        comparison = DemoComparison(conn, conninfo, sizes.seed, console)
        tuned = _record_searches(worker, training, console)
        by_target = _learn_and_compare(worker, tuned, heldout, comparison)
        filtered = _compare_filtered(worker, conninfo, filtered_queries, comparison)
        index_bytes = fetch_value(conn, "relation_size", {"relation": f"{SCHEMA}.{INDEX}"})
        versions = fetch_row(conn, "server_versions")
    result: dict[str, Any] = {
        "unfiltered": _as_dicts(by_target[TARGETS[-1]].outcomes),
        "targets": {f"{target:g}": _as_dicts(by_target[target].outcomes) for target in TARGETS},
        "filtered": _as_dicts(filtered.after),
        "filtered_before_advice": _as_dicts(filtered.before),
        "unrelated": _as_dicts(filtered.unrelated),
        "advice": {
            "seconds": round(filtered.advice_seconds, 1),
            "statements": [each.statement for each in filtered.advice.taken],
            "index_mb": round(sum(each.bytes for each in filtered.advice.taken) / 2**20, 1),
            "insert_ms": round(filtered.advice.insert_ms, 4),
            "added_insert_ms": round(sum(each.insert_ms for each in filtered.advice.taken), 4),
        },
        "corpus": {
            "name": "WordNet 3.0, lemmas and glosses; usage examples as queries",
            "relation": RELATION,
            "rows": len(rows),
            "dimensions": rows.shape[1],
            "embedder": f"{embedder.name} {embedder.version}",
            "training_queries": len(training),
            "heldout_queries": len(heldout),
            "filtered_queries": len(filtered_queries),
            "k": K,
            "index_mb": round(index_bytes / 2**20, 1),
            "index_build_seconds": round(build_seconds, 1),
        },
        "learned": {f"{target:g}": _describe_lesson(by_target[target].lesson) for target in TARGETS},
        "environment": {
            "postgresql": versions.postgresql,
            "pgvector": versions.pgvector,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "seconds": round(monotonic() - began, 1),
        },
    }
    print_demo(console, result)
    return result


def _record_searches(worker: Worker, training: DemoQueries, console: Console) -> TunedColumn:
    """Search for the training queries, record every search and replay it."""
    console.say(
        "\nSearching with vectuned.search, most searches filtered by a lexical category or a topic; "
        "nothing is learned yet, every search is recorded."
    )
    tuned = enable(worker.conn, target=TARGETS[-1], sample_rate=1.0)
    with console.progress("training searches", len(training)) as progress:
        _search_all(worker.conn, training, progress)
    worker.drain()
    with console.progress("replaying at every effort", len(training)) as progress:
        worker.replay(tuned, len(training), progress)
    return tuned


def _search_all(conn: psycopg.Connection[Any], queries: DemoQueries, progress: Callable[[int], None]) -> None:
    """Search for every query, with its filter if it has one."""
    for number, vector in enumerate(queries.vectors):
        condition = queries.filter_of(number)
        values = {
            "relation": RELATION,
            "query": Vector(vector),
            "k": K,
            "filter": None if condition is None else json.dumps(condition),
        }
        fetch_rows(conn, "demo_search", values)
        progress(number + 1)


def _learn_and_compare(
    worker: Worker, tuned: TunedColumn, heldout: DemoQueries, comparison: DemoComparison
) -> dict[float, _TargetResult]:
    """Learn for each target, and compare the arms on held-out queries without a filter."""
    console = comparison.console
    with console.step("finding the exact answers of the held-out queries"):
        replays = load_replays(worker.conn, tuned, tuned.indexes[0]).sample(K)
        curve = compute_fixed_curve(replays.recall)
        truth = exact_neighbors(worker.conn, tuned.column, heldout.vectors, K)
    results = {}
    for target in TARGETS:
        tuned = enable(worker.conn, target=target, sample_rate=_PRODUCTION_SAMPLE_RATE)
        with console.step(f"learning for target {target:g}"):
            lesson = _learn_until_settled(worker, tuned)
        fixed, served = choose_best_fixed(curve, target), lesson.served[K].policy.fixed_ef
        label = f"held-out, target {target:g}"
        outcomes = comparison.compare_unfiltered(tuned, heldout, truth, fixed, served, label)
        results[target] = _TargetResult(lesson, outcomes)
    return results


def _learn_until_settled(worker: Worker, tuned: TunedColumn) -> LearningResult:
    """Learn until the effort rises no further, as the daemon does while searches come in.

    Without a proof a publish at most doubles the effort, and the demonstration has all its searches at once.
    """
    lesson = worker.learn(tuned)
    while True:
        before = lesson.served[K].policy.fixed_ef
        lesson = worker.learn(tuned)
        if lesson.served[K].policy.fixed_ef <= before:
            return lesson


def _compare_filtered(
    worker: Worker, conninfo: str, queries: DemoQueries, comparison: DemoComparison
) -> _FilteredResult:
    """Compare filtered searches, follow vectuned's advice, and compare again."""
    (tuned,) = find_tuned_columns(worker.conn)
    truth = comparison.find_truth(tuned, queries)
    before = comparison.compare_filtered(tuned, queries, truth, advised=False)
    started = monotonic()
    tuned, advice = follow_advice(worker, tuned, conninfo, comparison.console)
    advice_seconds = monotonic() - started
    after = comparison.compare_filtered(tuned, queries, truth, advised=True)
    unrelated = comparison.compare_unrelated(tuned, queries.take(slice(len(queries) // 2)))
    return _FilteredResult(before, after, unrelated, advice, advice_seconds)


def _as_dicts(outcomes: Mapping[str, Outcome]) -> dict[str, dict[str, float]]:
    return {name: outcome.as_dict() for name, outcome in outcomes.items()}


def _describe_lesson(lesson: LearningResult) -> dict[str, Any]:
    served = lesson.served[K]
    policy = served.policy
    return {
        "replays": lesson.replays,
        "patterns": served.patterns,
        "access_path": policy.access_path,
        "fixed_ef_search": policy.fixed_ef,
        "probe_ef": policy.signature.probe_ef if policy.signature else None,
        "expected_recall": round(policy.expected_recall, 4),
        "recall_bound": round(policy.recall_bound, 4),
        "filtered": [asdict(choice) for choice in served.filtered],
        "certified": policy.certified,
        "saving": None if served.saving is None else round(served.saving, 3),
        "reason": policy.reason,
    }
