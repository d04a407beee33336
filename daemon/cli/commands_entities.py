"""The commands of the entity store: create it, move it to another model, load WordNet into it."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import psycopg
from pgvector.psycopg import register_vector
from psycopg.rows import dict_row

from vectuned.config.errors import UsageError
from vectuned.daemon.console import Console
from vectuned.daemon.database.connect import connect
from vectuned.daemon.database.index_build import read_index_progress
from vectuned.sql.entity_loader import entity_queries, install_entities, stored_dimensions
from vectuned.sql.files import queries
from vectuned.sql.install import migrate

from .command import Command, Context

if TYPE_CHECKING:
    from vectuned.reasoning.embedding.embedder import Embedder
    from vectuned.reasoning.store.entities import RebaseJob

Connection = psycopg.Connection[Any]


@contextmanager
def _installing(context: Context) -> Iterator[Connection]:
    """Yield a connection to the database, vectuned being installed there if it was not."""
    with (
        context.database() as conninfo,
        connect(conninfo, context.settings.database) as conn,
    ):
        row = conn.execute(queries()["installed"]).fetchone()
        if row is None or not row[0]:
            migrate(conn)
            context.console.say(f"Installed vectuned in database {conn.info.dbname}.")
        register_vector(conn)
        yield conn


def _create(context: Context) -> None:
    # Here and below: what embeds takes a moment to import, which other commands need not wait for.
    from vectuned.reasoning.embedding.embedder import StaticEmbedder
    from vectuned.reasoning.store.bulk import TABLES, build_index

    dimensions = context.options.dimensions
    with _installing(context) as conn:
        if dimensions is None:
            dimensions = stored_dimensions(conn) or StaticEmbedder.dimensions
        done = install_entities(conn, dimensions)
        for table in TABLES if done.created else ():
            build_index(conn, table)
        _tune(conn)
        name = conn.info.dbname
    if context.console.as_json:
        context.console.document({"database": name, **asdict(done)})
    made = "created" if done.created else "is there already, its functions are up to date"
    context.console.line(f"entity store in database {name}: {made}; vectors of {done.dimensions} dimensions")


def _tune(conn: Connection) -> None:
    # Once; somebody may have disabled it since.
    row = conn.execute(entity_queries()["tuning_known"]).fetchone()
    if row is not None and not row[0]:
        conn.execute(entity_queries()["enable_tuning"])


def _status(context: Context) -> None:
    from vectuned.reasoning.store.rebase import last_job
    from vectuned.reasoning.store.store import EntityStore
    from vectuned.reasoning.wordnet import loading

    with context.session() as conn:
        store = EntityStore(conn)
        counts = conn.cursor(row_factory=dict_row).execute(entity_queries()["counts"]).fetchone()
        tuned = conn.execute(entity_queries()["tuned"]).fetchone()
        report: dict[str, Any] = {
            **(counts or {}),
            "model": store.model(),
            "waiting": store.waiting_count(),
            "tuned": bool(tuned and tuned[0]),
            "rebase": last_job(store),
            "wordnet": loading.stages(store),
        }
    console = context.console
    if console.as_json:
        console.document(
            {
                key: asdict(value) if key in ("model", "rebase") and value else value
                for key, value in report.items()
            }
        )
        return
    model = report["model"]
    said = f"{model.name} {model.version}, {model.dimensions} dimensions" if model else "none yet"
    console.line(f"model: {said}; {report['waiting']:,} texts wait to be embedded")
    for name, title in _TITLES.items():
        console.line(f"{title}: {report[name]:,}")
    console.line(f"size: {report['size']}")
    console.line(f"tuned by vectuned: {'yes' if report['tuned'] else 'no'}")
    if report["rebase"] is not None:
        console.line(_of_job(report["rebase"]))
    for stage, rows in report["wordnet"].items():
        console.line(f"WordNet, {stage}: {rows:,}")


_TITLES: Final = {
    "active": "entities",
    "archived": "archived entities",
    "pruned": "pruned entities",
    "attributes": "attributes of entities",
    "relationships": "relationships",
    "paths": "paths in hierarchies",
    "resources": "external resources",
    "history": "former embeddings",
}


def _of_job(job: RebaseJob) -> str:
    return (
        f"rebase {job.id} to {job.model.name} {job.model.version}: {job.state}, "
        f"{job.embedded:,} of {job.total:,} embedded"
    )


def _embedder(context: Context, name: str) -> Embedder:
    """Open the model of a name, or that of [reasoning], which is called "configured" or as it is."""
    from vectuned.reasoning.embedding.embedder import models, open_embedder

    chosen = context.settings.reasoning
    if name not in models() and (name == "configured" or chosen.embedder != "static"):
        from vectuned.reasoning.embedding.embedders import make_embedder

        configured = make_embedder(chosen)
        if name in ("configured", configured.name):
            return configured
    return open_embedder(name)


def _rebase(context: Context) -> None:
    from vectuned.reasoning.embedding.embedder import models
    from vectuned.reasoning.store.rebase import cancel, embed_waiting, last_job, rebase
    from vectuned.reasoning.store.store import EntityStore

    options, console = context.options, context.console
    with context.session() as conn:
        store = EntityStore(conn)
        job = last_job(store)
        running = job if job is not None and job.state == "running" else None
        if options.cancel:
            result: dict[str, Any] = asdict(done := cancel(store))
            text = _of_job(done)
        else:
            name = options.model or (running.model.name if running else None)
            if name is None:
                raise UsageError(f"No rebase is under way: say which --model, one of {', '.join(models())}.")
            embedder, current = _embedder(context, name), store.model()
            with _watched(console, conn) as stage:
                if (
                    running is None
                    and current is not None
                    and (current.name, current.version)
                    == (
                        embedder.name,
                        embedder.version,
                    )
                ):
                    stored = embed_waiting(store, embedder, stage)
                    result = {"model": asdict(current), "embedded": stored}
                    text = f"the store is of {name} already; {stored:,} texts that waited were embedded"
                else:
                    result = asdict(done := rebase(store, embedder, stage))
                    text = _of_job(done)
    if console.as_json:
        console.document(result)
    console.line(text)


_ACTIONS: Final = {"create": _create, "status": _status, "rebase": _rebase}


def _entities_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=tuple(_ACTIONS))
    parser.add_argument(
        "--dimensions",
        type=int,
        metavar="N",
        help="create: length of the vectors, 1 to 2000 (default 256, that of the static embedder)",
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="rebase: to which model, such as wordllama-l2-supercat-128, or configured for that of "
        "[reasoning]; without it the one begun",
    )
    parser.add_argument("--cancel", action="store_true", help="rebase: give up the one that was begun")


def _entities(context: Context) -> None:
    options = context.options
    for flag, action in (("dimensions", "create"), ("model", "rebase"), ("cancel", "rebase")):
        if getattr(options, flag) and options.action != action:
            raise UsageError(f"--{flag} goes with `vectuned entities {action}`, not {options.action}.")
    if options.model and options.cancel:
        raise UsageError(
            "--cancel gives up the rebase that was begun, whatever its model: leave --model out."
        )
    _ACTIONS[options.action](context)


def _wordnet_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("load",))
    parser.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help="load at most N synsets, spread evenly, with all they are kinds of",
    )
    parser.add_argument(
        "--drop", action="store_true", help="drop the entity store first, if it holds nothing but WordNet"
    )


def _wordnet(context: Context) -> None:
    from vectuned.reasoning.embedding.embedder import StaticEmbedder
    from vectuned.reasoning.store.store import EntityStore
    from vectuned.reasoning.wordnet import loading
    from vectuned.reasoning.wordnet.corpus import load_wordnet

    options, console = context.options, context.console
    if options.limit is not None and options.limit < 100:
        raise UsageError(f"--limit must be at least 100, not {options.limit}: fewer are no hierarchy.")
    with _installing(context) as conn:
        if options.drop:
            _check_nothing_else(conn)
        embedder, corpus = StaticEmbedder(), load_wordnet()
        if options.limit is not None and options.limit < len(corpus.synsets):
            corpus = loading.part_of(corpus, options.limit)
        if options.drop and stored_dimensions(conn) is not None:
            with conn.transaction():
                conn.execute(entity_queries()["forget_tuning"])
                conn.execute(entity_queries()["drop_store"])
        install_entities(conn, stored_dimensions(conn) or embedder.dimensions)
        store = EntityStore(conn)
        before = loading.stages(store)
        with _watched(console, conn) as stage:
            rows = loading.load(store, corpus, embedder, stage)
        if rows != before:
            for table in (
                "entities",
                "relationships",
                "entity_paths",
                "external_resources",
                "entity_attribute_link",
            ):
                conn.execute(f"VACUUM ANALYZE vectuned_entities.{table}".encode())
        _tune(conn)
    if console.as_json:
        console.document({"loaded": rows != before, **rows})
    console.line(
        f"WordNet {'is loaded' if rows != before else 'was there already'}: {rows['entities']:,} entities, "
        f"{rows['relationships']:,} relationships, {rows['paths']:,} paths, "
        f"{rows['resources']:,} usage examples"
    )


def _check_nothing_else(conn: Connection) -> None:
    from vectuned.reasoning.store.store import EntityStore
    from vectuned.reasoning.wordnet import loading

    if stored_dimensions(conn) is None:
        return
    store = EntityStore(conn)
    loaded, row = loading.stages(store), store.rows("counts")[0]
    if sum(row[:3]) > loaded.get("entities", 0) or row[7] > loaded.get("resources", 0):
        raise UsageError(
            "The entity store holds more than WordNet, so --drop leaves it alone: "
            "DROP SCHEMA vectuned_entities CASCADE if you mean it."
        )


@contextmanager
def _watched(console: Console, conn: Connection) -> Iterator[Callable[[str, int], Any]]:
    """Yield the console's progress bars, which follow an index that the connection builds by themselves."""
    with connect(conn.info.dsn) as watcher:

        @contextmanager
        def stage(label: str, total: int) -> Iterator[Callable[[int], None]]:
            with console.progress(label, total) as progress:
                finished = threading.Event()
                pid = conn.info.backend_pid

                def follow() -> None:
                    while not finished.wait(0.25):
                        if done := read_index_progress(watcher, pid):
                            progress(done)

                thread = threading.Thread(target=follow, name="index-progress")
                if label.startswith("indexing"):
                    thread.start()
                try:
                    yield progress
                finally:
                    finished.set()
                    if thread.is_alive():
                        thread.join()

        yield stage


COMMANDS: Final = (
    Command(
        "entities",
        "create the entity store, show it, or move it to another embedding model",
        "create: makes the schema vectuned_entities, or brings its functions up to date. status: what it "
        "holds. rebase: embeds everything with another model, batch by batch, while searches go on with the "
        "current one, then switches; run again after an interruption it goes on from there. With the current "
        "model it embeds what waits.",
        _entities_arguments,
        _entities,
    ),
    Command(
        "wordnet",
        "load WordNet into the entity store",
        "load: 117,659 synsets with their attributes, relations, hypernym paths and (but for a held-out "
        "fifth) usage examples, embedded, indexed and tuned, in one to two minutes. Run again it "
        "finishes what was interrupted.",
        _wordnet_arguments,
        _wordnet,
    ),
)
