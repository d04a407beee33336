"""Embed what waits in the entity store, and move it to another model.

That goes in batches, each committed: whatever ends the process costs one batch, and the next run goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final

import psycopg

from vectuned.config.errors import UsageError, VectunedError
from vectuned.reasoning.embedding.embedder import Embedder

from .bulk import TABLES, analyze, build_index
from .entities import Kind, Model, RebaseJob
from .store import BATCH, EntityStore

logger = logging.getLogger(__name__)

Stage = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Called with what begins and how much it is, yields a function that takes how much is done so far."""

_KINDS: Final[tuple[Kind, ...]] = ("entity", "resource")
_PATIENCE: Final = 10
_STRIPES: Final = 16


def quietly(_label: str, _total: int) -> AbstractContextManager[Callable[[int], None]]:
    """Show no progress."""
    return nullcontext(lambda _done: None)


def embed_waiting(store: EntityStore, embedder: Embedder, stage: Stage = quietly) -> int:
    """Embed all texts that have no embedding or another text since; return how many were stored.

    Raises UsageError if the store is of another model.
    """
    model = store.use_model(embedder)
    stored = 0
    with stage("embedding what waits", store.waiting_count()) as progress:
        for done in _embed(store, embedder, model.id, None):
            stored += done
            progress(stored)
    return stored


def rebase(store: EntityStore, embedder: Embedder, stage: Stage = quietly) -> RebaseJob:
    """Move the store to another model, going on with what an earlier run began.

    Searches use the current model all the while; then columns and indexes change places in one moment. The
    connection must be in autocommit mode. Raises UsageError if the store is of that model, or being moved to
    a third, VectunedError if another process is at it.
    """
    if not store.conn.autocommit:
        raise UsageError("A rebase commits batch by batch: give the store a connection in autocommit mode.")
    with _alone(store):
        job_id = int(
            store.value(
                "rebase_start", name=embedder.name, version=embedder.version, dimensions=embedder.dimensions
            )
        )
        begun = _job(store)
        logger.info(
            "Moving the entity store to %s: %s of %s texts are embedded",
            embedder.name,
            begun.embedded,
            begun.total,
            extra={"action": "rebase"},
        )
        with stage(f"embedding with {embedder.name}", begun.total) as progress:
            done = begun.embedded
            progress(done)
            for stored in _embed(store, embedder, begun.model.id, job_id, range(_STRIPES)):
                done += stored
                progress(done)
        counts = store.rows("counts")[0]
        for table, rows in zip(TABLES, (counts[0], counts[7]), strict=True):
            with stage(f"indexing {table.replace('_', ' ')}", rows):
                build_index(store.conn, table, "embedding_next", concurrently=True)
        _switch(store, embedder, begun.model.id, job_id)
    analyze(store.conn, TABLES)
    logger.info("The entity store is of %s now", embedder.name, extra={"action": "rebase"})
    return _job(store)


def cancel(store: EntityStore) -> RebaseJob:
    """Give up the rebase that runs: the store stays with its model. Raises UsageError where none runs."""
    job = last_job(store)
    if job is None or job.state != "running":
        raise UsageError("No rebase is under way, so there is none to cancel.")
    with _alone(store):
        store.value("rebase_cancel", job_id=job.id)
    return _job(store)


def last_job(store: EntityStore) -> RebaseJob | None:
    """Return the rebase that runs, else the last one, None if there never was any."""
    for number, name, version, dimensions, model_id, *rest in store.rows("rebase_job"):
        return RebaseJob(number, Model(model_id, name, version, dimensions), *rest)
    return None


def _job(store: EntityStore) -> RebaseJob:
    job = last_job(store)
    assert job is not None
    return job


def _embed(
    store: EntityStore, embedder: Embedder, model_id: int, job_id: int | None, stripes: Iterable[int] = ()
) -> Iterator[int]:
    """Embed until nothing waits, first by stripes; yields how many were stored, batch by batch."""
    for kind in _KINDS:
        for stripe in stripes:
            yield from _pass(store, embedder, model_id, kind, job_id, stripe)
        # Then what was written or changed behind our back, until there is none.
        found = True
        while found:
            found = False
            for stored in _pass(store, embedder, model_id, kind, job_id, None):
                found = found or stored > 0
                yield stored


def _pass(
    store: EntityStore, embedder: Embedder, model_id: int, kind: Kind, job_id: int | None, stripe: int | None
) -> Iterator[int]:
    after = 0
    while len(batch := store.waiting(kind, BATCH, after, job_id, stripe)):
        after = batch.ids[-1]
        try:
            vectors = embedder.encode(batch.texts)
        except UsageError as error:
            raise UsageError(
                f"One of the {kind} texts {batch.ids[0]} to {after} cannot be embedded ({error}): "
                "change it, or archive it."
            ) from error
        yield store.put(batch, vectors, model_id, job_id)


def _switch(store: EntityStore, embedder: Embedder, model_id: int, job_id: int) -> None:
    for attempt in range(1, _PATIENCE + 1):
        for _ in _embed(store, embedder, model_id, job_id):
            pass
        try:
            with store.conn.transaction():
                # Whoever waits for a table has everybody else wait behind him.
                store.conn.execute("SET LOCAL lock_timeout = '2s'")
                store.value("rebase_switch", job_id=job_id)
        except (psycopg.errors.LockNotAvailable, UsageError):
            # Somebody reads for long, or wrote in between.
            if attempt == _PATIENCE:
                raise
            time.sleep(attempt / 10)
        else:
            return


@contextmanager
def _alone(store: EntityStore) -> Iterator[None]:
    if not store.value("rebase_lock"):
        raise VectunedError("Another process is moving the entity store to another model: let it finish.")
    try:
        yield
    finally:
        # A connection that broke has no lock any more.
        if not store.conn.closed and not store.conn.broken:
            store.value("rebase_unlock")
