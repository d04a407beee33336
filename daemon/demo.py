"""The demonstration: real text, real queries, a real server; recall before and after learning."""

from __future__ import annotations

import json
import platform
import threading
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from time import monotonic
from typing import Any, Final

import numpy as np
import psycopg
from pgvector import Vector
from psycopg import sql

from vectuned.config.settings import Settings
from vectuned.learning.catalogue import Care, tuned_columns
from vectuned.learning.evidence import load
from vectuned.learning.learner import Lesson
from vectuned.learning.neighbors import Singles
from vectuned.learning.truth import Truth, exact_neighbors
from vectuned.reasoning.corpus import Corpus, load_wordnet
from vectuned.reasoning.embedder import StaticEmbedder
from vectuned.sql.loader import migrate, queries

from .console import Console
from .evaluation import (
    Arm,
    Outcome,
    bare_arm,
    bare_filtered_arm,
    best_fixed,
    compare,
    exact_filtered_arm,
    tuned_arm,
)
from .session import open_session
from .worker import Worker

SCHEMA: Final = "vectuned_demo"
TABLE: Final = "wordnet"
INDEX: Final = "wordnet_embedding"
ATTRIBUTE: Final = "category"
K: Final = 10
DEFAULT_EF: Final = 40
TARGETS: Final = (0.98, 0.95)  # the last one stays in force
_PRODUCTION_SAMPLE_RATE: Final = 0.05


@dataclass(frozen=True)
class Sizes:
    """How many queries the demonstration learns from and how many it is judged by, and the seed."""

    training: int = 3000
    heldout: int = 1600
    seed: int = 0


@dataclass(frozen=True)
class Asked:
    """Queries: `vectors` float32 (n, d), and the lexical category of what each was written for."""

    vectors: Singles
    categories: list[str]

    def __len__(self) -> int:
        return len(self.vectors)

    def first(self, count: int) -> Asked:
        """Return the first `count` queries."""
        return Asked(self.vectors[:count], self.categories[:count])


def demo(conninfo: str, settings: Settings, sizes: Sizes, console: Console) -> dict[str, Any]:
    """Load, index, search, learn and compare in the database at `conninfo`; return the figures.

    Replaces the schema vectuned_demo of that database. The result's keys are those of `vectuned demo --json`.
    """
    began = monotonic()
    console.say("Reading WordNet's glosses and usage examples.")
    corpus, embedder = load_wordnet(), StaticEmbedder()
    rows, training, heldout = _vectors(corpus, embedder, sizes, console)
    with psycopg.connect(conninfo, autocommit=True) as admin:
        migrate(admin)
    with open_session(conninfo) as conn:
        _load(conn, corpus, rows, console)
        build_seconds = _build_index(conn, conninfo, console)
        worker = Worker(conn, settings)
        relation = f"{SCHEMA}.{TABLE}"
        console.say(
            "\nSearching with vectuned.search, every other search filtered by its lexical category; "
            "nothing is learned yet, every search is recorded."
        )
        care = _enable(conn, relation, target=TARGETS[-1], sample_rate=1.0)
        with console.progress("training searches", len(training)) as progress:
            _search_all(conn, relation, training, progress)
        worker.drain()
        with console.progress("replaying at every effort", len(training)) as progress:
            worker.replay(care, len(training), progress)
        evidence = load(conn, care, care.indexes[0]).evidence(K)
        truth = exact_neighbors(conn, care.column, heldout.vectors, K)

        runs: dict[float, dict[str, Outcome]] = {}
        lessons: dict[float, Lesson] = {}
        for target in TARGETS:
            care = _enable(conn, relation, target=target, sample_rate=_PRODUCTION_SAMPLE_RATE)
            lessons[target] = worker.learn(care)
            fixed = best_fixed(evidence.recall, target)
            served = lessons[target].served[K].policy.fixed_ef
            runs[target] = _compare(
                conninfo,
                care,
                heldout,
                truth,
                fixed,
                served,
                sizes.seed,
                console,
                f"held-out, target {target:g}",
            )
        filtered = _compare_filtered(
            conninfo, conn, care, heldout.first(sizes.heldout // 2), sizes.seed, console
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
        "corpus": {
            "name": "WordNet 3.0, lemmas and glosses; usage examples as queries",
            "relation": relation, "rows": len(rows), "dimensions": rows.shape[1],
            "embedder": f"{embedder.name} {embedder.version}", "training_queries": len(training),
            "heldout_queries": len(heldout), "filtered_queries": sizes.heldout // 2, "k": K,
            "index_mb": round(index_bytes / 2**20, 1),
            "index_build_seconds": round(build_seconds, 1),
        },
        "learned": {f"{target:g}": _learned(lessons[target]) for target in TARGETS},
        "environment": {
            "postgresql": server, "pgvector": pgvector, "python": platform.python_version(),
            "machine": platform.machine(), "seconds": round(monotonic() - began, 1),
        },
    }  # fmt: skip
    _print(result, console)
    return result


def _vectors(
    corpus: Corpus, embedder: StaticEmbedder, sizes: Sizes, console: Console
) -> tuple[Singles, Asked, Asked]:
    texts, asked = corpus.texts(), corpus.queries()
    with console.progress("embedding glosses", len(texts)) as progress:
        rows = embedder.encode(texts, progress=progress)
    chosen = np.random.default_rng(sizes.seed).permutation(len(asked))[: sizes.training + sizes.heldout]
    vectors = embedder.encode([asked[i].text for i in chosen])
    category = {synset.id: synset.category for synset in corpus.synsets}
    categories = [category[asked[i].source] for i in chosen]
    cut = sizes.training
    return rows, Asked(vectors[:cut], categories[:cut]), Asked(vectors[cut:], categories[cut:])


def _load(conn: psycopg.Connection[Any], corpus: Corpus, rows: Singles, console: Console) -> None:
    table = sql.Identifier(SCHEMA, TABLE)
    conn.execute("SET client_min_messages = warning")
    for care in tuned_columns(conn):
        if (care.column.schema, care.column.table) == (SCHEMA, TABLE):
            conn.execute(
                queries()["disable"],
                {"relation": f"{SCHEMA}.{TABLE}", "column_name": care.column.column, "forget": True},
            )
    conn.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(SCHEMA)))
    conn.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(SCHEMA)))
    conn.execute(
        sql.SQL(
            "CREATE TABLE {} (id text PRIMARY KEY, category text NOT NULL, lemmas text NOT NULL,"
            " gloss text NOT NULL, embedding vector({}) NOT NULL)"
        ).format(table, sql.Literal(rows.shape[1]))
    )
    statement = sql.SQL("COPY {} FROM STDIN (FORMAT BINARY)").format(table)
    with console.progress("loading rows", len(rows)) as progress, conn.cursor().copy(statement) as copy:
        copy.set_types(["text", "text", "text", "text", "vector"])
        for number, (synset, vector) in enumerate(zip(corpus.synsets, rows, strict=True), 1):
            copy.write_row(
                (synset.id, synset.category, ", ".join(synset.lemmas), synset.gloss, Vector(vector))
            )
            if number % 2000 == 0:
                progress(number)
    conn.execute(sql.SQL("CREATE INDEX ON {} ({})").format(table, sql.Identifier(ATTRIBUTE)))
    conn.execute(sql.SQL("VACUUM ANALYZE {}").format(table))


def _build_index(conn: psycopg.Connection[Any], conninfo: str, console: Console) -> float:
    """Build the usual HNSW index, m = 16 and ef_construction = 64, and say how many seconds it took."""
    statement = sql.SQL("CREATE INDEX {} ON {} USING hnsw (embedding vector_cosine_ops)").format(
        sql.Identifier(INDEX), sql.Identifier(SCHEMA, TABLE)
    )
    total = int(_scalar(conn, "SELECT count(*) FROM vectuned_demo.wordnet"))
    failed: list[BaseException] = []

    def build() -> None:
        try:
            conn.execute(statement)
        except BaseException as error:
            failed.append(error)

    began = monotonic()
    worker = threading.Thread(target=build, name="create-index")
    with (
        psycopg.connect(conninfo, autocommit=True) as watcher,
        console.progress("building the HNSW index", total) as progress,
    ):
        pid = conn.info.backend_pid
        worker.start()
        try:
            while worker.is_alive():
                worker.join(0.25)
                row = watcher.execute(queries()["index_progress"], {"pid": pid}).fetchone()
                if row is not None and row[1]:
                    progress(int(row[1]))
        except BaseException:
            conn.cancel_safe()
            worker.join()
            raise
    if failed:
        raise failed[0]
    return monotonic() - began


def _enable(conn: psycopg.Connection[Any], relation: str, *, target: float, sample_rate: float) -> Care:
    conn.execute(
        "SELECT vectuned.enable(%s::regclass, 'embedding', target_recall => %s, sample_rate => %s)",
        (relation, target, sample_rate),
    )
    return next(c for c in tuned_columns(conn) if (c.column.schema, c.column.table) == (SCHEMA, TABLE))


def _search_all(conn: psycopg.Connection[Any], relation: str, asked: Asked, progress: Any) -> None:
    """Search for everything asked, every other time among the rows of its category."""
    for number, (vector, category) in enumerate(zip(asked.vectors, asked.categories, strict=True), 1):
        conn.execute(
            "SELECT id, distance FROM vectuned.search(%s::regclass, %s, %s, %s)",
            (relation, Vector(vector), K, json.dumps({ATTRIBUTE: category}) if number % 2 else None),
        ).fetchall()
        progress(number)


def _compare(
    conninfo: str,
    care: Care,
    heldout: Asked,
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
            "default": bare_arm(first, care.column, DEFAULT_EF, INDEX),
            "fixed": bare_arm(second, care.column, fixed, INDEX),
            "vectuned": tuned_arm(third, care.column, served),
        }
        with console.progress(label, len(heldout) * len(arms)) as progress:
            return compare(arms, heldout.vectors, truth, K, seed=seed, progress=progress)


def _compare_filtered(
    conninfo: str, conn: psycopg.Connection[Any], care: Care, heldout: Asked, seed: int, console: Console
) -> dict[str, Outcome]:
    """Compare the ways to search among the rows of each query's own lexical category."""
    names = sorted(set(heldout.categories))
    truth = exact_neighbors(
        conn,
        care.column,
        heldout.vectors,
        K,
        filters=[sql.SQL("{} = {}").format(sql.Identifier(ATTRIBUTE), sql.Literal(name)) for name in names],
        filter_of=np.array([names.index(category) for category in heldout.categories]),
    )
    with ExitStack() as stack:
        first, second, third, fourth, fifth = (stack.enter_context(open_session(conninfo)) for _ in range(5))
        column = care.column
        arms = {
            "default": bare_filtered_arm(first, column, ATTRIBUTE, DEFAULT_EF, iterative=False),
            "relaxed": bare_filtered_arm(second, column, ATTRIBUTE, DEFAULT_EF, iterative=True),
            "relaxed_200": bare_filtered_arm(third, column, ATTRIBUTE, 200, iterative=True),
            "exact": exact_filtered_arm(fourth, column, ATTRIBUTE),
            "vectuned": tuned_arm(fifth, column, 0, attribute=ATTRIBUTE),
        }
        with console.progress("held-out, filtered", len(heldout) * len(arms)) as progress:
            return compare(
                arms, heldout.vectors, truth, K, values=heldout.categories, seed=seed, progress=progress
            )


def _learned(lesson: Lesson) -> dict[str, Any]:
    served = lesson.served[K]
    policy = served.policy
    return {
        "replays": lesson.replays, "patterns": served.patterns, "access_path": policy.access_path,
        "fixed_ef_search": policy.fixed_ef,
        "probe_ef": policy.signature.probe_ef if policy.signature else None,
        "expected_recall": round(policy.expected_recall, 4), "recall_bound": round(policy.recall_bound, 4),
        "filtered": [asdict(choice) for choice in served.filtered],
        "certified": policy.certified, "saving": None if served.saving is None else round(served.saving, 3),
        "reason": policy.reason,
    }  # fmt: skip


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
        "default": "default, ef 40", "relaxed": "relaxed_order, ef 40",
        "relaxed_200": "relaxed_order, ef 200", "exact": "exact, by the filter's B-tree",
        "vectuned": "vectuned",
    }  # fmt: skip
    rows = [("", label, *_figures(result["filtered"][arm])) for arm, label in labels.items()]
    console.table(_HEADINGS, rows, left=2)
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
