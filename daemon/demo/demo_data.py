"""Data of the demonstration: WordNet's glosses in a tuned table, its usage examples as queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import psycopg
from psycopg import sql

from vectuned.config.sections import IndexBuildSettings
from vectuned.daemon.advisor.filters import (
    FilterAdvice,
    FilterAdvisor,
    FilterBudget,
    learn_about_indexes,
)
from vectuned.daemon.advisor.scratch_run import ScratchRun
from vectuned.daemon.console import Console
from vectuned.daemon.database.index_build import announce, build_with_progress
from vectuned.daemon.work.worker import Worker
from vectuned.learning.advisor import Definition
from vectuned.learning.index_build import plan_build, read_build_server, time_sample_builds
from vectuned.learning.model.arrays import Singles
from vectuned.learning.model.tuned_columns import TunedColumn, read_tuned_columns
from vectuned.learning.model.vectors import Vector
from vectuned.reasoning.embedding.embedder import StaticEmbedder
from vectuned.reasoning.wordnet.corpus import Corpus
from vectuned.sql.files import queries
from vectuned.sql.rows import execute, fetch_value

SCHEMA: Final = "vectuned_demo"
TABLE: Final = "wordnet"
RELATION: Final = f"{SCHEMA}.{TABLE}"
INDEX: Final = "wordnet_embedding"
ATTRIBUTE: Final = "category"
UNRELATED: Final = "topic"
_INDEX: Final = Definition("hnsw", "plain", m=16, ef_construction=64)  # pgvector's defaults
_BUILD_LIMITS: Final = IndexBuildSettings()
_PROGRESS_ROWS: Final = 2000  # rows between two updates of the progress bar


@dataclass(frozen=True)
class DemoSizes:
    """Numbers of queries to learn from and to judge by, and the seed that draws them."""

    training: int = 1500
    heldout: int = 1000
    seed: int = 0


@dataclass(frozen=True)
class DemoQueries:
    """Queries: `vectors` float32 (n, d), the lexical category of each query's synset, and a topic.

    Topics are the categories of other queries, permuted at random: as skewed, but unrelated to the query.
    """

    vectors: Singles
    categories: list[str]
    topics: list[str]

    def __len__(self) -> int:
        return len(self.vectors)

    def take(self, part: slice) -> DemoQueries:
        """Return a part of the queries."""
        return DemoQueries(self.vectors[part], self.categories[part], self.topics[part])

    def filter_of(self, number: int) -> dict[str, str] | None:
        """Return the filter of a query: of five, two filter by category, one by topic, two not at all."""
        match number % 5:
            case 0 | 2:
                return {ATTRIBUTE: self.categories[number]}
            case 4:
                return {UNRELATED: self.topics[number]}
        return None


def embed_corpus(
    corpus: Corpus, embedder: StaticEmbedder, sizes: DemoSizes, console: Console
) -> tuple[Singles, DemoQueries, DemoQueries]:
    """Embed glosses and usage examples; return the rows, the training queries and the held-out queries."""
    texts = corpus.texts()
    with console.progress("embedding glosses", len(texts)) as progress:
        rows = embedder.encode(texts, progress=progress)
    drawn = draw_queries(corpus, embedder, sizes.training + sizes.heldout, sizes.seed)
    return rows, drawn.take(slice(sizes.training)), drawn.take(slice(sizes.training, None))


def draw_queries(corpus: Corpus, embedder: StaticEmbedder, count: int, seed: int) -> DemoQueries:
    """Draw usage examples and embed them as queries."""
    examples = corpus.queries()
    chosen = [examples[i] for i in np.random.default_rng(seed).permutation(len(examples))[:count]]
    category = {synset.id: synset.category for synset in corpus.synsets}
    categories = [category[example.source] for example in chosen]
    topics = [categories[i] for i in np.random.default_rng(seed + 1).permutation(len(categories))]
    return DemoQueries(embedder.encode([example.text for example in chosen]), categories, topics)


def load_table(conn: psycopg.Connection[Any], corpus: Corpus, rows: Singles, console: Console) -> None:
    """Create the table, replacing an older one, with B-tree indexes on the filtered columns."""
    table = sql.Identifier(SCHEMA, TABLE)
    conn.execute("SET client_min_messages = warning")
    for tuned in find_tuned_columns(conn):
        values = {"relation": RELATION, "column_name": tuned.column.name, "forget": True}
        execute(conn, "disable", values)
    conn.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(SCHEMA)))
    conn.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(SCHEMA)))
    create = queries()["demo_table"].format(table=table, dimensions=sql.Literal(rows.shape[1]))
    execute(conn, create)
    statement = sql.SQL("COPY {} FROM STDIN (FORMAT BINARY)").format(table)
    categories = [synset.category for synset in corpus.synsets]
    topics = [categories[i] for i in np.random.default_rng(0).permutation(len(categories))]
    with console.progress("loading rows", len(rows)) as progress, conn.cursor().copy(statement) as copy:
        copy.set_types(["text", "text", "text", "text", "text", "vector"])
        for number, (synset, topic, vector) in enumerate(zip(corpus.synsets, topics, rows, strict=True), 1):
            lemmas = ", ".join(synset.lemmas)
            copy.write_row((synset.id, synset.category, topic, lemmas, synset.gloss, Vector(vector)))
            if number % _PROGRESS_ROWS == 0:
                progress(number)
    for attribute in (ATTRIBUTE, UNRELATED):
        conn.execute(sql.SQL("CREATE INDEX ON {} ({})").format(table, sql.Identifier(attribute)))
    with console.step("VACUUM ANALYZE"):
        conn.execute(sql.SQL("VACUUM ANALYZE {}").format(table))


def build_index(
    conn: psycopg.Connection[Any],
    conninfo: str,
    shape: tuple[int, int],
    console: Console,
    limits: IndexBuildSettings = _BUILD_LIMITS,
) -> float:
    """Build an HNSW index with pgvector's defaults and return the seconds that it took.

    `shape` are the rows and the dimensions of the table.
    """
    rows, dimensions = shape
    table, index = sql.Identifier(SCHEMA, TABLE), sql.Identifier(INDEX)
    operators = sql.Identifier(fetch_value(conn, "adopt_extension_schema"), "vector_cosine_ops")
    server = read_build_server(conn, limits)
    with console.step("timing builds of a sample"):
        builds = time_sample_builds(
            conn, server, (SCHEMA, TABLE), "embedding", operators, _INDEX, rows, dimensions
        )
    plan = plan_build(server, _INDEX, rows, dimensions, builds=builds)
    announce(plan, console)
    statement = queries()["demo_index"].format(index=index, table=table)
    name = sql.Identifier(SCHEMA, INDEX)
    return build_with_progress(conn, conninfo, statement, name, plan, "building the HNSW index", console)


def find_tuned_columns(conn: psycopg.Connection[Any]) -> list[TunedColumn]:
    """Return the tuned columns of the table: one, or none before `enable`."""
    return [c for c in read_tuned_columns(conn) if (c.column.schema, c.column.table) == (SCHEMA, TABLE)]


def enable(conn: psycopg.Connection[Any], *, target: float, sample_rate: float) -> TunedColumn:
    """Tune the table for a target recall and record a share of its searches."""
    fetch_value(conn, "demo_enable", {"relation": RELATION, "target": target, "sample_rate": sample_rate})
    return find_tuned_columns(conn)[0]


def follow_advice(
    worker: Worker, tuned: TunedColumn, conninfo: str, console: Console
) -> tuple[TunedColumn, FilterAdvice]:
    """Create the indexes that vectuned advises for the filters, and learn about them.

    Returns the column with its new indexes, and the advice.
    """
    with ScratchRun.open(worker.conn, tuned) as run:
        adviser = FilterAdvisor(run, worker.settings.index_build, console)
        limit = fetch_value(worker.conn, "relation_size", {"relation": tuned.indexes[0].name})
        advice = adviser.advise(FilterBudget(limit))
        adviser.apply(advice, conninfo)
    return learn_about_indexes(worker, tuned, console), advice
