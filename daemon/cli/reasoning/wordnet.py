"""The command `vectuned wordnet`: load WordNet into the entity store."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

from psycopg import sql

from vectuned.config.errors import UsageError
from vectuned.daemon.cli.command import Command, Connection, Context
from vectuned.daemon.cli.reasoning.entity_store import connect_installed, enable_tuning, progress_stages
from vectuned.sql.entity_loader import SCHEMA, entity_queries, install_entities, stored_dimensions
from vectuned.sql.rows import execute, fetch_row

if TYPE_CHECKING:
    from vectuned.reasoning.wordnet.corpus import Corpus

# Synsets: fewer make no hierarchy.
_SMALLEST_LIMIT: Final = 100
# Tables that loading fills.
_TABLES: Final = (
    "entities",
    "relationships",
    "entity_paths",
    "external_resources",
    "entity_attribute_link",
)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("load",))
    parser.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help="load at most N synsets, spread evenly, with all their hypernyms",
    )
    parser.add_argument(
        "--drop", action="store_true", help="drop the entity store first, if it holds nothing but WordNet"
    )


def _run(context: Context) -> None:
    from vectuned.reasoning.embedding.embedder import StaticEmbedder
    from vectuned.reasoning.store.store import EntityStore
    from vectuned.reasoning.wordnet import loading

    options, console = context.options, context.console
    if options.limit is not None and options.limit < _SMALLEST_LIMIT:
        raise UsageError(
            f"--limit must be at least {_SMALLEST_LIMIT}, not {options.limit}: fewer make no hierarchy."
        )
    with connect_installed(context) as conn:
        if options.drop:
            _require_only_wordnet(conn)
        embedder, corpus = StaticEmbedder(), _read_corpus(options.limit)
        if options.drop:
            _drop_store(conn)
        install_entities(conn, stored_dimensions(conn) or embedder.dimensions)
        store = EntityStore(conn)
        rows_before = loading.read_stages(store)
        with progress_stages(console, conn) as stage:
            rows = loading.load(store, corpus, embedder, stage)
        if rows != rows_before:
            _vacuum(conn)
        enable_tuning(conn)
    if console.as_json:
        console.document({"loaded": rows != rows_before, **rows})
    console.line(
        f"WordNet {'is loaded' if rows != rows_before else 'was loaded already'}: "
        f"{rows['entities']:,} entities, {rows['relationships']:,} relationships, {rows['paths']:,} paths, "
        f"{rows['resources']:,} usage examples"
    )


def _read_corpus(limit: int | None) -> Corpus:
    from vectuned.reasoning.wordnet import loading
    from vectuned.reasoning.wordnet.corpus import load_wordnet

    corpus = load_wordnet()
    if limit is not None and limit < len(corpus.synsets):
        return loading.sample_corpus(corpus, limit)
    return corpus


def _require_only_wordnet(conn: Connection) -> None:
    """Raise UsageError if the entity store holds anything that WordNet did not bring."""
    from vectuned.reasoning.store.store import EntityStore
    from vectuned.reasoning.wordnet import loading

    if stored_dimensions(conn) is None:
        return
    loaded = loading.read_stages(EntityStore(conn))
    counts = fetch_row(conn, entity_queries()["counts"])
    entities = counts.active + counts.archived + counts.pruned
    if entities > loaded.get("entities", 0) or counts.resources > loaded.get("resources", 0):
        raise UsageError(
            "The entity store holds more than WordNet, so --drop leaves it alone: run "
            "DROP SCHEMA vectuned_entities CASCADE yourself if you want to delete it."
        )


def _drop_store(conn: Connection) -> None:
    if stored_dimensions(conn) is not None:
        with conn.transaction():
            execute(conn, entity_queries()["forget_tuning"])
            execute(conn, entity_queries()["drop_store"])


def _vacuum(conn: Connection) -> None:
    for table in _TABLES:
        execute(conn, sql.SQL("VACUUM ANALYZE {}").format(sql.Identifier(SCHEMA, table)))


COMMAND: Final = Command(
    name="wordnet",
    summary="load WordNet into the entity store",
    description="load: loads 117,659 synsets with their attributes, relations, hypernym paths and four "
    "fifths of their usage examples (the rest is held out), embeds, indexes and tunes them, in one to two "
    "minutes. After an interruption, run it again to finish.",
    example="vectuned wordnet load --limit 10000",
    run=_run,
    add_arguments=_add_arguments,
)
