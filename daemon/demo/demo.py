"""The demonstration: real text, real queries, a real server; recall before and after learning."""

from __future__ import annotations

import json
import platform
from contextlib import ExitStack
from dataclasses import asdict
from time import monotonic
from typing import Any, Final

import psycopg
from pgvector import Vector

from vectuned.config.settings import Settings
from vectuned.daemon.console import Console
from vectuned.daemon.database.session import open_session
from vectuned.daemon.measure.arms import (
    Arm,
    Outcome,
    compare_arms,
    find_filtered_truth,
    prepare_exact_arm,
    prepare_filtered_arm,
    prepare_plain_arm,
    prepare_vectuned_arm,
)
from vectuned.daemon.measure.fixed_setting import choose_best_fixed, compute_fixed_curve
from vectuned.daemon.service.worker import Worker
from vectuned.learning.model.tuned_columns import TunedColumn
from vectuned.learning.policy.learner import LearningResult
from vectuned.learning.policy.replays import load_replays
from vectuned.learning.truth.truth import Truth, exact_neighbors
from vectuned.reasoning.embedding.embedder import StaticEmbedder
from vectuned.reasoning.wordnet.corpus import load_wordnet
from vectuned.sql.install import migrate

from .demo_data import (
    ATTRIBUTE,
    INDEX,
    RELATION,
    SCHEMA,
    UNRELATED,
    DemoQueries,
    DemoSizes,
    build_index,
    embed_corpus,
    enable,
    follow_advice,
    load_table,
)

K: Final = 10
DEFAULT_EF: Final = 40
TARGETS: Final = (0.98, 0.95)  # the last one stays in force, for the filtered searches too
_PRODUCTION_SAMPLE_RATE: Final = 0.05


def demo(conninfo: str, settings: Settings, sizes: DemoSizes, console: Console) -> dict[str, Any]:
    """Load, index, search, learn and compare in the database at `conninfo`; return the figures.

    Replaces the schema vectuned_demo of that database. The result's keys are those of `vectuned demo --json`.
    """
    began = monotonic()
    console.say("Reading WordNet's glosses and usage examples.")
    corpus, embedder = load_wordnet(), StaticEmbedder()
    rows, training, heldout = embed_corpus(corpus, embedder, sizes, console)
    with psycopg.connect(conninfo, autocommit=True) as admin:
        migrate(admin)
    with open_session(conninfo) as conn:
        load_table(conn, corpus, rows, console)
        build_seconds = build_index(conn, conninfo, len(rows), console)
        worker = Worker(conn, settings)
        console.say(
            "\nSearching with vectuned.search, most searches filtered by a lexical category or a topic; "
            "nothing is learned yet, every search is recorded."
        )
        tuned = enable(conn, target=TARGETS[-1], sample_rate=1.0)
        with console.progress("training searches", len(training)) as progress:
            _search_all(conn, training, progress)
        worker.drain()
        with console.progress("replaying at every effort", len(training)) as progress:
            worker.replay(tuned, len(training), progress)
        evidence = load_replays(conn, tuned, tuned.indexes[0]).sample(K)
        truth = exact_neighbors(conn, tuned.column, heldout.vectors, K)

        curve = compute_fixed_curve(evidence.recall)
        runs: dict[float, dict[str, Outcome]] = {}
        lessons: dict[float, LearningResult] = {}
        for target in TARGETS:
            tuned = enable(conn, target=target, sample_rate=_PRODUCTION_SAMPLE_RATE)
            lessons[target] = worker.learn(tuned)
            fixed = choose_best_fixed(curve, target)
            served = lessons[target].served[K].policy.fixed_ef
            label = f"held-out, target {target:g}"
            runs[target] = _compare(
                conninfo, tuned, heldout, truth, fixed, served, sizes.seed, console, label
            )
        asked = heldout.take(slice(sizes.heldout // 2))
        before = _compare_filtered(conninfo, conn, tuned, asked, sizes.seed, console, advised=False)
        started = monotonic()
        tuned, advice = follow_advice(worker, tuned, console)
        advised_seconds = monotonic() - started
        filtered = _compare_filtered(conninfo, conn, tuned, asked, sizes.seed, console, advised=True)
        unrelated = _compare_unrelated(
            conninfo, conn, tuned, asked.take(slice(len(asked) // 2)), sizes.seed, console
        )
        index_bytes = _scalar(conn, "SELECT pg_relation_size(%s)", f"{SCHEMA}.{INDEX}")
        server = str(_scalar(conn, "SHOW server_version"))
        pgvector = str(_scalar(conn, "SELECT extversion FROM pg_extension WHERE extname = 'vector'"))

    result: dict[str, Any] = {
        "unfiltered": {name: outcome.as_dict() for name, outcome in runs[TARGETS[-1]].items()},
        "targets": {
            f"{target:g}": {name: outcome.as_dict() for name, outcome in runs[target].items()}
            for target in TARGETS
        },
        "filtered": {name: outcome.as_dict() for name, outcome in filtered.items()},
        "filtered_before_advice": {name: outcome.as_dict() for name, outcome in before.items()},
        "unrelated": {name: outcome.as_dict() for name, outcome in unrelated.items()},
        "advice": {"seconds": round(advised_seconds, 1), "statements": advice},
        "corpus": {
            "name": "WordNet 3.0, lemmas and glosses; usage examples as queries",
            "relation": RELATION,
            "rows": len(rows),
            "dimensions": rows.shape[1],
            "embedder": f"{embedder.name} {embedder.version}",
            "training_queries": len(training),
            "heldout_queries": len(heldout),
            "filtered_queries": len(asked),
            "k": K,
            "index_mb": round(index_bytes / 2**20, 1),
            "index_build_seconds": round(build_seconds, 1),
        },
        "learned": {f"{target:g}": _learned(lessons[target]) for target in TARGETS},
        "environment": {
            "postgresql": server,
            "pgvector": pgvector,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "seconds": round(monotonic() - began, 1),
        },
    }
    _print(result, console)
    return result


def _search_all(conn: psycopg.Connection[Any], asked: DemoQueries, progress: Any) -> None:
    """Search for everything asked, with its filter if it has one."""
    for number, vector in enumerate(asked.vectors):
        condition = asked.filtered_by(number)
        conn.execute(
            "SELECT id, distance FROM vectuned.search(%s::regclass, %s, %s, %s)",
            (RELATION, Vector(vector), K, None if condition is None else json.dumps(condition)),
        ).fetchall()
        progress(number + 1)


def _compare(
    conninfo: str,
    tuned: TunedColumn,
    heldout: DemoQueries,
    truth: Truth,
    fixed: int,
    served: int,
    seed: int,
    console: Console,
    label: str,
) -> dict[str, Outcome]:
    # A connection each, so that no arm meets another's settings or plans.
    with open_session(conninfo) as first, open_session(conninfo) as second, open_session(conninfo) as third:
        arms: dict[str, Arm] = {
            "default": prepare_plain_arm(first, tuned.column, DEFAULT_EF, INDEX),
            "fixed": prepare_plain_arm(second, tuned.column, fixed, INDEX),
            "vectuned": prepare_vectuned_arm(third, tuned.column, served),
        }
        with console.progress(label, len(heldout) * len(arms)) as progress:
            return compare_arms(arms, heldout.vectors, truth, K, seed=seed, progress=progress)


def _compare_filtered(
    conninfo: str,
    conn: psycopg.Connection[Any],
    tuned: TunedColumn,
    heldout: DemoQueries,
    seed: int,
    console: Console,
    *,
    advised: bool,
) -> dict[str, Outcome]:
    """Compare the ways to search among the rows of each query's own lexical category.

    Before vectuned's advice was followed only exact search and vectuned; after it all, and one more: the
    usual setting with the same new indexes, which plain SQL may use as well.
    """
    column = tuned.column
    truth = find_filtered_truth(conn, column, heldout.vectors, K, ATTRIBUTE, heldout.categories)
    with ExitStack() as stack:

        def session() -> psycopg.Connection[Any]:
            return stack.enter_context(open_session(conninfo))

        arms = {
            "exact": prepare_exact_arm(session(), column, ATTRIBUTE),
            "vectuned": prepare_vectuned_arm(session(), column, 0, attribute=ATTRIBUTE),
        }
        if advised:
            for name, ef, iterative, alike in (
                ("default", DEFAULT_EF, False, False),
                ("relaxed", DEFAULT_EF, True, False),
                ("relaxed_200", 200, True, False),
                ("relaxed_advised", DEFAULT_EF, True, True),
            ):
                arms[name] = prepare_filtered_arm(
                    session(), column, ATTRIBUTE, ef, iterative=iterative, advised=alike
                )
        label = "held-out, filtered" + (", advice followed" if advised else "")
        with console.progress(label, len(heldout) * len(arms)) as progress:
            return compare_arms(
                arms, heldout.vectors, truth, K, values=heldout.categories, seed=seed, progress=progress
            )


def _compare_unrelated(
    conninfo: str,
    conn: psycopg.Connection[Any],
    tuned: TunedColumn,
    heldout: DemoQueries,
    seed: int,
    console: Console,
) -> dict[str, Outcome]:
    """Compare where the filter has nothing to do with the query."""
    truth = find_filtered_truth(conn, tuned.column, heldout.vectors, K, UNRELATED, heldout.topics)
    with open_session(conninfo) as first, open_session(conninfo) as second, open_session(conninfo) as third:
        arms = {
            "relaxed": prepare_filtered_arm(first, tuned.column, UNRELATED, DEFAULT_EF, iterative=True),
            "exact": prepare_exact_arm(second, tuned.column, UNRELATED),
            "vectuned": prepare_vectuned_arm(third, tuned.column, 0, attribute=UNRELATED),
        }
        with console.progress("held-out, unrelated filter", len(heldout) * len(arms)) as progress:
            return compare_arms(
                arms, heldout.vectors, truth, K, values=heldout.topics, seed=seed, progress=progress
            )


def _learned(lesson: LearningResult) -> dict[str, Any]:
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


def _print(result: dict[str, Any], console: Console) -> None:
    corpus = result["corpus"]
    console.line(
        f"\n{corpus['rows']:,} glosses of {corpus['dimensions']} dimensions, HNSW m=16 ef_construction=64, "
        f"{corpus['heldout_queries']:,} held-out queries, recall@{K}, times as the client waits"
    )
    rows = []
    for target in reversed(TARGETS):
        run, learned = result["targets"][f"{target:g}"], result["learned"][f"{target:g}"]
        how = (
            "effort by query"
            if learned["access_path"] == "hnsw_adaptive"
            else f"ef {learned['fixed_ef_search']}"
        )
        names = {
            "default": f"default, ef {run['default']['ef_search']}",
            "fixed": f"best fixed, ef {run['fixed']['ef_search']}",
            "vectuned": f"vectuned, {how}",
        }
        for arm, name in names.items():
            rows.append((f"{target:.2f}" if arm == "default" else "", name, *_figures(run[arm])))
    console.table(_HEADINGS, rows, left=2)
    console.line(
        f"\nThe same filtered by lexical category (45 of very different size), "
        f"{corpus['filtered_queries']:,} held-out queries, target {TARGETS[-1]:.2f}"
    )
    labels = {
        "default": "default, ef 40",
        "relaxed": "relaxed_order, ef 40",
        "relaxed_200": "relaxed_order, ef 200",
        "exact": "exact, by the filter's B-tree",
        "vectuned": "vectuned, with the indexes it advised",
        "relaxed_advised": "relaxed_order, the same indexes",
    }
    rows = [("", labels[arm], *_figures(result["filtered"][arm])) for arm in labels]
    rows += [
        ("", name, *_figures(result["filtered_before_advice"][arm]))
        for arm, name in (
            ("exact", "exact, an earlier run"),
            ("vectuned", "vectuned there, before its advice"),
        )
    ]
    console.table(_HEADINGS, rows, left=2)
    console.line("\nFiltered by a topic that has nothing to do with the query")
    rows = [
        ("", {**labels, "vectuned": "vectuned"}[arm], *_figures(outcome))
        for arm, outcome in result["unrelated"].items()
    ]
    console.table(_HEADINGS, rows, left=2)
    advice = result["advice"]
    console.line(
        f"\nThe advice that was followed in {advice['seconds']:.0f} s, replays included: "
        f"{len(advice['statements'])} partial indexes such as"
    )
    for statement in advice["statements"][:2]:
        console.line(f"  {statement}")
    console.line()
    for target in reversed(TARGETS):
        learned = result["learned"][f"{target:g}"]
        console.line(
            f"target {target:.2f}: at least {learned['recall_bound']:.3f} with 95 % confidence from "
            f"{learned['replays']:,} replays; {learned['reason']}"
        )
    console.line(
        "\nThe same on your own database:\n"
        "  vectuned migrate --dsn DSN && vectuned enable --dsn DSN my_table my_vector_column\n"
        "  SELECT id, distance FROM vectuned.search('my_table', $1, 10)  -- in your application\n"
        "  vectuned run --dsn DSN      -- learns as searches come; vectuned status shows what it found"
    )


_HEADINGS: Final = ("target", "setting", "recall@10", "under 0.8", "mean ms", "p50 ms", "p99 ms")


def _figures(outcome: dict[str, float]) -> tuple[str, ...]:
    times = (f"{outcome[name]:.2f}" for name in ("mean_ms", "p50_ms", "p99_ms"))
    return (f"{outcome['recall']:.3f}", f"{outcome['below_08']:.1%}", *times)


def _scalar(conn: psycopg.Connection[Any], statement: str, *values: object) -> Any:
    row = conn.execute(statement.encode(), values or None).fetchone()
    assert row is not None
    return row[0]
