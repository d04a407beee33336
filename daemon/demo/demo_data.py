"""What the demonstration searches: WordNet's glosses in a tuned table, its usage examples as queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import psycopg
from pgvector import Vector
from psycopg import sql
from psycopg.rows import dict_row

from vectuned.daemon.console import Console
from vectuned.daemon.database.index_build import build_with_progress
from vectuned.daemon.service.worker import Worker
from vectuned.learning.model.arrays import Singles
from vectuned.learning.model.tuned_columns import TunedColumn, read_tuned_columns
from vectuned.reasoning.embedding.embedder import StaticEmbedder
from vectuned.reasoning.wordnet.corpus import Corpus
from vectuned.sql.files import queries

SCHEMA: Final = "vectuned_demo"
TABLE: Final = "wordnet"
RELATION: Final = f"{SCHEMA}.{TABLE}"
INDEX: Final = "wordnet_embedding"
ATTRIBUTE: Final = "category"
UNRELATED: Final = "topic"


@dataclass(frozen=True)
class DemoSizes:
    """How many queries the demonstration learns from and how many it is judged by, and the seed."""

    training: int = 3000
    heldout: int = 1600
    seed: int = 0


@dataclass(frozen=True)
class DemoQueries:
    """Queries: `vectors` float32 (n, d), the lexical category of what each was written for, and a topic.

    Topics are the categories of other queries, drawn at random: as skewed, but unrelated to the query.
    """

    vectors: Singles
    categories: list[str]
    topics: list[str]

    def __len__(self) -> int:
        return len(self.vectors)

    def take(self, part: slice) -> DemoQueries:
        """Return a part of the queries."""
        return DemoQueries(self.vectors[part], self.categories[part], self.topics[part])

    def filtered_by(self, number: int) -> dict[str, str] | None:
        """Say what the search for a query is filtered by: of five two by category, one by topic, two not."""
        match number % 5:
            case 0 | 2:
                return {ATTRIBUTE: self.categories[number]}
            case 4:
                return {UNRELATED: self.topics[number]}
        return None


def embed_corpus(
    corpus: Corpus, embedder: StaticEmbedder, sizes: DemoSizes, console: Console
) -> tuple[Singles, DemoQueries, DemoQueries]:
    """Embed the glosses, and usage examples as queries: rows, queries to learn from, and held-out ones."""
    texts = corpus.texts()
    with console.progress("embedding glosses", len(texts)) as progress:
        rows = embedder.encode(texts, progress=progress)
    asked = draw_queries(corpus, embedder, sizes.training + sizes.heldout, sizes.seed)
    return rows, asked.take(slice(sizes.training)), asked.take(slice(sizes.training, None))


def draw_queries(corpus: Corpus, embedder: StaticEmbedder, count: int, seed: int) -> DemoQueries:
    """Draw usage examples and embed them as queries."""
    examples = corpus.queries()
    chosen = [examples[i] for i in np.random.default_rng(seed).permutation(len(examples))[:count]]
    category = {synset.id: synset.category for synset in corpus.synsets}
    categories = [category[example.source] for example in chosen]
    topics = [categories[i] for i in np.random.default_rng(seed + 1).permutation(len(categories))]
    return DemoQueries(embedder.encode([example.text for example in chosen]), categories, topics)


def load_table(conn: psycopg.Connection[Any], corpus: Corpus, rows: Singles, console: Console) -> None:
    """Make the table anew, with ordinary indexes on what is filtered by."""
    table = sql.Identifier(SCHEMA, TABLE)
    conn.execute("SET client_min_messages = warning")
    for tuned in find_tuned_columns(conn):
        values = {"relation": RELATION, "column_name": tuned.column.name, "forget": True}
        conn.execute(queries()["disable"], values)
    conn.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(SCHEMA)))
    conn.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(SCHEMA)))
    conn.execute(
        sql.SQL(
            "CREATE TABLE {} (id text PRIMARY KEY, category text NOT NULL, topic text NOT NULL,"
            " lemmas text NOT NULL, gloss text NOT NULL, embedding vector({}) NOT NULL)"
        ).format(table, sql.Literal(rows.shape[1]))
    )
    statement = sql.SQL("COPY {} FROM STDIN (FORMAT BINARY)").format(table)
    categories = [synset.category for synset in corpus.synsets]
    topics = [categories[i] for i in np.random.default_rng(0).permutation(len(categories))]
    with console.progress("loading rows", len(rows)) as progress, conn.cursor().copy(statement) as copy:
        copy.set_types(["text", "text", "text", "text", "text", "vector"])
        for number, (synset, topic, vector) in enumerate(zip(corpus.synsets, topics, rows, strict=True), 1):
            lemmas = ", ".join(synset.lemmas)
            copy.write_row((synset.id, synset.category, topic, lemmas, synset.gloss, Vector(vector)))
            if number % 2000 == 0:
                progress(number)
    for attribute in (ATTRIBUTE, UNRELATED):
        conn.execute(sql.SQL("CREATE INDEX ON {} ({})").format(table, sql.Identifier(attribute)))
    conn.execute(sql.SQL("VACUUM ANALYZE {}").format(table))


def build_index(conn: psycopg.Connection[Any], conninfo: str, total: int, console: Console) -> float:
    """Build the usual HNSW index, m = 16 and ef_construction = 64, and say how many seconds it took."""
    statement = sql.SQL("CREATE INDEX {} ON {} USING hnsw (embedding vector_cosine_ops)").format(
        sql.Identifier(INDEX), sql.Identifier(SCHEMA, TABLE)
    )
    return build_with_progress(conn, conninfo, statement, "building the HNSW index", total, console)


def find_tuned_columns(conn: psycopg.Connection[Any]) -> list[TunedColumn]:
    """Return the columns of the table that vectuned knows: one, or none before `enable`."""
    return [c for c in read_tuned_columns(conn) if (c.column.schema, c.column.table) == (SCHEMA, TABLE)]


def enable(conn: psycopg.Connection[Any], *, target: float, sample_rate: float) -> TunedColumn:
    """Have vectuned tune the table for a target, and record that share of its searches."""
    conn.execute(
        "SELECT vectuned.enable(%s::regclass, 'embedding', target_recall => %s, sample_rate => %s)",
        (RELATION, target, sample_rate),
    )
    return find_tuned_columns(conn)[0]


def follow_advice(worker: Worker, tuned: TunedColumn, console: Console) -> tuple[TunedColumn, list[str]]:
    """Create the indexes that vectuned recommends and learn about them.

    Returns the column with its new indexes, and the statements that made them.
    """
    values = {"relation": RELATION, "column_name": tuned.column.name}
    rows = worker.conn.cursor(row_factory=dict_row).execute(queries()["recommend"], values).fetchall()
    statements = [str(row["statement"]) for row in rows if row["kind"] == "index"]
    with console.progress("creating the recommended indexes", len(statements)) as progress:
        for number, statement in enumerate(statements, 1):
            worker.conn.execute(statement.encode())
            progress(number)
    tuned = worker.refresh(tuned)
    waiting = worker.conn.execute(
        "SELECT awaiting_replay FROM vectuned.stats(%s::regclass)", (RELATION,)
    ).fetchall()[0][0]
    with console.progress("replaying through them", waiting) as progress:
        worker.replay(tuned, waiting, progress)
    worker.learn(tuned)
    return tuned, statements
