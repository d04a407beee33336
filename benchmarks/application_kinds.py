"""Applications that search by SQL of their own: vector stores of frameworks, and plain statements.

All search two tables with the same rows, as LangChain's and LlamaIndex's vector stores create them, each with
the usual index on the vectors and an index for its filter. Needs the extra `frameworks`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import psycopg
from pgvector.psycopg import register_vector
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.json import Jsonb

from benchmarks.sets import VectorSet
from vectuned import client
from vectuned.config.errors import VectunedError
from vectuned.daemon.console import Console
from vectuned.learning.model.arrays import Bools, Floats
from vectuned.learning.model.vectors import Vector
from vectuned.sql.client.snapshot import Snapshot

try:
    from langchain_core.embeddings import DeterministicFakeEmbedding
    from langchain_postgres import Column, PGEngine, PGVectorStore
    from llama_index.core.vector_stores import MetadataFilter, MetadataFilters, VectorStoreQuery
    from llama_index.vector_stores.postgres import PGVectorStore as LlamaStore
except ModuleNotFoundError as error:
    raise VectunedError(f'The applications need {error.name}: pip install ".[frameworks]".') from error

K: Final = 10
LANGCHAIN_TABLE: Final = "documents"
LLAMAINDEX_TABLE: Final = "data_documents"
_GROUPS: Final = 8  # of categories, for the join
_ENDINGS: Final = 100  # two digits that the content of a row ends with: a hundredth of the rows each
_SHOWN_ROWS: Final = 5000  # rows between two updates of the progress bar
_DISTANCE: Final = "embedding <=> %(vector)s AS distance"
_ORDER: Final = "ORDER BY embedding <=> %(vector)s LIMIT 10"
# The plain statements. Tables, columns and values are those that `load` writes.
_PLAIN: Final = {
    "psycopg, filter": f"SELECT id, {_DISTANCE} FROM documents WHERE category = %(category)s {_ORDER}",
    "psycopg, @>": (
        f"SELECT node_id, {_DISTANCE} FROM data_documents WHERE metadata_ @> %(contained)s::jsonb {_ORDER}"
    ),
    "psycopg, OR and LIKE": (
        f"SELECT id, {_DISTANCE} FROM documents "
        f"WHERE category = %(category)s OR content LIKE %(pattern)s {_ORDER}"
    ),
    "psycopg, join": (
        f"SELECT d.id, d.{_DISTANCE} FROM documents d JOIN categories c ON c.name = d.category "
        f"WHERE c.grouping = %(group)s {_ORDER.replace('BY ', 'BY d.')}"
    ),
    "psycopg, threshold": (
        f"SELECT id, {_DISTANCE} FROM documents WHERE embedding <=> %(vector)s < %(within)s {_ORDER}"
    ),
}
KINDS: Final = ("LangChain, filter", "LlamaIndex, jsonb filter", *_PLAIN)
"""The statements that are measured; a statement's key is found in its normalised text."""
_KEYS: Final = {
    "LangChain, filter": r"langchain_metadata",
    "LlamaIndex, jsonb filter": r"->>",
    "psycopg, filter": r"^select id, .* where category = \? order",
    "psycopg, @>": r"@>",
    "psycopg, OR and LIKE": r" like ",
    "psycopg, join": r" join ",
    "psycopg, threshold": r"< \?",
}

Search = Callable[["Question"], list[float]]
"""Returns the distances found, at most K."""


@dataclass(frozen=True)
class Question:
    """A query with the values of all statements' conditions; `within` is a distance."""

    vector: list[float]
    category: int
    ending: int
    within: float

    def values(self) -> dict[str, Any]:
        """Return the parameters of the plain statements."""
        return {
            "vector": Vector(self.vector).to_text(),
            "category": name_of(self.category),
            "contained": Jsonb({"category": name_of(self.category)}),
            "pattern": f"%{self.ending:02}",
            "group": self.category % _GROUPS,
            "within": self.within,
        }


def name_of(category: int) -> str:
    """Return the name of a category."""
    return f"c{category}"


def is_of_kind(text: str, kind: str) -> bool:
    """Say whether the normalised text of a statement is that of a kind."""
    return re.search(_KEYS[kind], text) is not None


def matching(kind: str, question: Question, data: VectorSet, distances: Floats) -> Bools:
    """Say of every row, at `distances` float64 (n,) from the query, whether it meets the condition."""
    if kind == "psycopg, threshold":
        return np.asarray(distances < question.within)
    if kind == "psycopg, join":
        return np.asarray(data.categories % _GROUPS == question.category % _GROUPS)
    is_member = np.asarray(data.categories == question.category)
    if kind == "psycopg, OR and LIKE":
        return np.asarray(is_member | (np.arange(len(data.rows)) % _ENDINGS == question.ending))
    return is_member


@dataclass(frozen=True)
class Place:
    """A database, whose roles enter without a password."""

    conninfo: str

    def dsn(self, role: str) -> str:
        """Return how a role connects."""
        found = conninfo_to_dict(self.conninfo)
        return f"host={found['host']} port={found['port']} dbname={found['dbname']} user={role}"

    def url(self, driver: str, role: str) -> str:
        """Return the same for SQLAlchemy."""
        found = conninfo_to_dict(self.conninfo)
        return f"postgresql+{driver}://{role}@/{found['dbname']}?host={found['host']}&port={found['port']}"


def open_search(
    kind: str, place: Place, role: str, stack: ExitStack, snapshot: Snapshot | None = None
) -> Search:
    """Open an application of a kind; with a snapshot, its connections are tuned by the one line."""
    if kind == "LangChain, filter":
        return _open_langchain(place, role, stack, snapshot)
    if kind == "LlamaIndex, jsonb filter":
        return _open_llamaindex(place, role, stack, snapshot)
    conn = stack.enter_context(psycopg.connect(place.dsn(role), autocommit=True))
    if snapshot is not None:
        client.tune(conn, snapshot=snapshot)
    statement = _PLAIN[kind].encode()

    def search(question: Question) -> list[float]:
        return [row[1] for row in conn.execute(statement, question.values()).fetchall()]

    return search


def _open_langchain(place: Place, role: str, stack: ExitStack, snapshot: Snapshot | None) -> Search:
    engine = PGEngine.from_connection_string(place.url("psycopg", role))
    stack.callback(lambda: engine._run_as_sync(engine.close()))
    if snapshot is not None:
        client.tune(engine, snapshot=snapshot)
    embeddings = DeterministicFakeEmbedding(size=1)  # unused: vectors are given
    store = PGVectorStore.create_sync(
        engine, embeddings, LANGCHAIN_TABLE, id_column="id", metadata_columns=["category"]
    )

    def search(question: Question) -> list[float]:
        found = store.similarity_search_with_score_by_vector(
            question.vector, k=K, filter={"category": name_of(question.category)}
        )
        return [distance for _, distance in found]

    return search


def _open_llamaindex(place: Place, role: str, stack: ExitStack, snapshot: Snapshot | None) -> Search:
    store = _llama_store(place, role, 1, perform_setup=False)
    store._initialize()
    stack.callback(store.client.dispose)
    if snapshot is not None:
        client.tune(store, snapshot=snapshot)

    def search(question: Question) -> list[float]:
        wanted = MetadataFilter(key="category", value=name_of(question.category))
        query = VectorStoreQuery(
            query_embedding=question.vector,
            similarity_top_k=K,
            filters=MetadataFilters(filters=[wanted]),
        )
        return [1.0 - similarity for similarity in store.query(query).similarities or ()]

    return search


def _llama_store(place: Place, role: str, dimensions: int, **options: Any) -> LlamaStore:
    return LlamaStore.from_params(
        connection_string=place.url("psycopg2", role),
        async_connection_string=place.url("asyncpg", role),
        table_name="documents",
        embed_dim=dimensions,
        use_jsonb=True,
        indexed_metadata_keys={("category", "text")},
        **options,
    )


def load(place: Place, owner: str, data: VectorSet, console: Console) -> None:
    """Create both tables by their frameworks, fill them, and index vectors and filters."""
    dimensions = data.rows.shape[1]
    engine = PGEngine.from_connection_string(place.url("psycopg", owner))
    column = Column("category", "text")
    engine.init_vectorstore_table(
        LANGCHAIN_TABLE, dimensions, metadata_columns=[column], id_column=Column("id", "text")
    )
    engine._run_as_sync(engine.close())
    store = _llama_store(place, owner, dimensions)
    store._initialize()
    store.client.dispose()
    with psycopg.connect(place.dsn(owner), autocommit=True) as conn:
        register_vector(conn)
        conn.execute("CREATE TABLE categories (name text PRIMARY KEY, grouping int NOT NULL)")
        with conn.cursor().copy("COPY categories FROM STDIN") as copy:
            for category in sorted({*data.categories.tolist(), *data.heldout_categories.tolist()}):
                copy.write_row((name_of(category), category % _GROUPS))
        with console.progress("loading rows", 2 * len(data.rows)) as progress:
            _copy(conn, f"{LANGCHAIN_TABLE} (id, content, embedding, category)", "text", data, progress)
            _copy(conn, f"{LLAMAINDEX_TABLE} (node_id, text, embedding, metadata_)", "jsonb", data, progress)
        console.say("indexing")
        for statement in (
            "CREATE INDEX ON documents USING hnsw (embedding vector_cosine_ops)",
            "CREATE INDEX ON data_documents USING hnsw (embedding vector_cosine_ops)",
            "CREATE INDEX ON documents (category)",
            "CREATE INDEX ON data_documents USING gin (metadata_ jsonb_path_ops)",
            "VACUUM ANALYZE",
        ):
            conn.execute(statement.encode())


def _copy(
    conn: psycopg.Connection[Any], table: str, kind: str, data: VectorSet, progress: Callable[[int], None]
) -> None:
    """Fill a table whose last column, of type text or jsonb, holds the category."""
    with conn.cursor().copy(f"COPY {table} FROM STDIN (FORMAT BINARY)".encode()) as copy:
        copy.set_types(["text", "text", "vector", kind])
        for number, (category, vector) in enumerate(zip(data.categories, data.rows, strict=True)):
            name = name_of(int(category))
            told = Jsonb({"category": name}) if kind == "jsonb" else name
            copy.write_row((str(number), f"text {number % _ENDINGS:02}", Vector(vector), told))
            if number % _SHOWN_ROWS == 0:
                progress(number + (len(data.rows) if kind == "jsonb" else 0))
