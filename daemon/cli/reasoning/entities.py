"""The command `vectuned entities`: create the entity store, show it, and move it to another model."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from vectuned.config.errors import UsageError
from vectuned.daemon.cli.command import Command, Context
from vectuned.daemon.cli.reasoning.entity_store import connect_installed, enable_tuning, progress_stages
from vectuned.sql.entity_loader import entity_queries, install_entities, stored_dimensions
from vectuned.sql.rows import fetch_dicts, fetch_value

if TYPE_CHECKING:
    from vectuned.reasoning.embedding.embedder import Embedder
    from vectuned.reasoning.store.entities import Model, RebaseJob
    from vectuned.reasoning.store.store import EntityStore

# Columns of the statement `counts`, and what the status calls them.
_COUNT_LABELS: Final = {
    "active": "entities",
    "archived": "archived entities",
    "pruned": "pruned entities",
    "attributes": "attributes of entities",
    "relationships": "relationships",
    "paths": "paths in hierarchies",
    "resources": "external resources",
    "history": "former embeddings",
}


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=tuple(_ACTIONS))
    parser.add_argument(
        "--dimensions",
        type=int,
        metavar="N",
        help="create: length of the vectors, 1 to 2000 (default: 256, that of the static embedder)",
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="rebase: the new model, such as wordllama-l2-supercat-128, or `configured` for that of "
        "[reasoning] (default: that of the interrupted rebase)",
    )
    parser.add_argument("--cancel", action="store_true", help="rebase: cancel the one that is under way")


def _run(context: Context) -> None:
    options = context.options
    for flag, action in (("dimensions", "create"), ("model", "rebase"), ("cancel", "rebase")):
        if getattr(options, flag) and options.action != action:
            raise UsageError(f"--{flag} goes with `vectuned entities {action}`, not {options.action}.")
    if options.model and options.cancel:
        raise UsageError("--cancel cancels the rebase under way, whatever its model: leave --model out.")
    _ACTIONS[options.action](context)


def _create(context: Context) -> None:
    # Imported here and below because the embedders take a moment to import.
    from vectuned.reasoning.embedding.embedder import StaticEmbedder
    from vectuned.reasoning.store.bulk import TABLES, build_index

    console, dimensions = context.console, context.options.dimensions
    with connect_installed(context) as conn:
        if dimensions is None:
            dimensions = stored_dimensions(conn) or StaticEmbedder.dimensions
        store = install_entities(conn, dimensions)
        for table in TABLES if store.created else ():
            build_index(conn, table, limits=context.settings.index_build)
        enable_tuning(conn)
        database = conn.info.dbname
    if console.as_json:
        console.document({"database": database, **asdict(store)})
    outcome = "created" if store.created else "exists already, its functions are up to date"
    console.line(f"entity store in database {database}: {outcome}; vectors of {store.dimensions} dimensions")


def _status(context: Context) -> None:
    from vectuned.reasoning.store.rebase import last_job
    from vectuned.reasoning.store.store import EntityStore
    from vectuned.reasoning.wordnet import loading

    with context.session() as conn:
        store = EntityStore(conn)
        (counts,) = fetch_dicts(conn, entity_queries()["counts"])
        model, waiting = store.get_model(), store.count_pending()
        tuned = bool(fetch_value(conn, entity_queries()["tuned"]))
        job, stages = last_job(store), loading.read_stages(store)
    console = context.console
    if console.as_json:
        console.document(
            {
                **counts,
                "model": asdict(model) if model else model,
                "waiting": waiting,
                "tuned": tuned,
                "rebase": asdict(job) if job else job,
                "wordnet": stages,
            }
        )
        return
    description = f"{model.name} {model.version}, {model.dimensions} dimensions" if model else "none yet"
    console.line(f"model: {description}; {waiting:,} texts wait to be embedded")
    for name, label in _COUNT_LABELS.items():
        console.line(f"{label}: {counts[name]:,}")
    console.line(f"size: {counts['size']}")
    console.line(f"tuned by vectuned: {'yes' if tuned else 'no'}")
    if job is not None:
        console.line(_describe_job(job))
    for stage, rows in stages.items():
        console.line(f"WordNet, {stage}: {rows:,}")


def _rebase(context: Context) -> None:
    from vectuned.reasoning.embedding.embedder import models
    from vectuned.reasoning.store.rebase import cancel_rebase, last_job
    from vectuned.reasoning.store.store import EntityStore

    options, console = context.options, context.console
    with context.session() as conn:
        store = EntityStore(conn)
        job = last_job(store)
        running = job if job is not None and job.state == "running" else None
        if options.cancel:
            canceled = cancel_rebase(store)
            result, message = asdict(canceled), _describe_job(canceled)
        else:
            name = options.model or (running.model.name if running else None)
            if name is None:
                raise UsageError(f"No rebase is under way: choose --model, one of {', '.join(models())}.")
            result, message = _embed_with(context, store, name, resume=running is not None)
    if console.as_json:
        console.document(result)
    console.line(message)


def _embed_with(
    context: Context, store: EntityStore, name: str, *, resume: bool
) -> tuple[dict[str, Any], str]:
    """Rebase the store to a model, or embed what waits if that is its model; return the report and a message.

    `resume`: a rebase is under way. It continues, or raises UsageError if `name` is another model.
    """
    from vectuned.reasoning.store.rebase import embed_pending, rebase

    embedder, current = _open_embedder(context, name), store.get_model()
    with progress_stages(context.console, store.conn) as stage:
        if not resume and current is not None and _is_model_of(embedder, current):
            embedded = embed_pending(store, embedder, stage)
            return (
                {"model": asdict(current), "embedded": embedded},
                f"the store uses {name} already; {embedded:,} waiting texts were embedded",
            )
        job = rebase(store, embedder, stage)
        return asdict(job), _describe_job(job)


def _is_model_of(embedder: Embedder, model: Model) -> bool:
    return (model.name, model.version) == (embedder.name, embedder.version)


def _open_embedder(context: Context, name: str) -> Embedder:
    """Open a model by name; that of [reasoning] also by the name `configured`."""
    from vectuned.reasoning.embedding.embedder import models, open_embedder

    settings = context.settings.reasoning
    if name not in models() and (name == "configured" or settings.embedder != "static"):
        from vectuned.reasoning.embedding.embedders import make_embedder

        configured = make_embedder(settings)
        if name in ("configured", configured.name):
            return configured
    return open_embedder(name)


def _describe_job(job: RebaseJob) -> str:
    return (
        f"rebase {job.id} to {job.model.name} {job.model.version}: {job.state}, "
        f"{job.embedded:,} of {job.total:,} embedded"
    )


_ACTIONS: Final = {"create": _create, "status": _status, "rebase": _rebase}

COMMAND: Final = Command(
    name="entities",
    summary="create the entity store, show it, or move it to another embedding model",
    description="create: creates the schema vectuned_entities, or brings its functions up to date. status: "
    "shows what the store holds. rebase: embeds everything with another model, batch by batch, while "
    "searches continue with the current one, then switches; after an interruption, run it again to resume. "
    "With the current model it embeds the texts that wait.",
    example="vectuned entities rebase --model wordllama-l2-supercat-128",
    run=_run,
    add_arguments=_add_arguments,
)
