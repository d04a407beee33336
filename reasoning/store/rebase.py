"""Embed the texts of the entity store that wait for it, and move the store to another model.

Both work in batches that are committed one by one, so that an interruption costs at most one batch and the
next run resumes there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final

from psycopg.errors import LockNotAvailable

from vectuned.config.errors import UsageError, VectunedError
from vectuned.reasoning.embedding.embedder import Embedder
from vectuned.sql.entity_loader import entity_queries
from vectuned.sql.rows import execute

from .bulk import TABLES, analyze, build_index
from .entities import Kind, Model, RebaseJob
from .models import BATCH
from .store import EntityStore

log = logging.getLogger(__name__)

Stage = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Called with the label and the size of a stage; yields a function that takes how much of it is done."""

_KINDS: Final[tuple[Kind, ...]] = ("entity", "resource")
_SWITCH_ATTEMPTS: Final = 10  # with growing pauses: about 5 s of waiting, and 20 s for locks
_STRIPES: Final = 16  # as the function next_embedding_batch defines them


def hide_progress(_label: str, _total: int) -> AbstractContextManager[Callable[[int], None]]:
    """Show no progress; the default stage."""
    return nullcontext(lambda _done: None)


def embed_pending(store: EntityStore, embedder: Embedder, stage: Stage = hide_progress) -> int:
    """Embed all texts without an up-to-date embedding; return how many were stored.

    Raises UsageError if the store has another model.
    """
    model = store.use_model(embedder)
    stored = 0
    with stage("embedding what waits", store.count_pending()) as progress:
        for count in _embed(store, embedder, model.id, None):
            stored += count
            progress(stored)
    return stored


def rebase(store: EntityStore, embedder: Embedder, stage: Stage = hide_progress) -> RebaseJob:
    """Move the store to another model, or resume a move that was interrupted.

    Searches use the current model until the columns and indexes are swapped in one transaction. The
    connection must be in autocommit mode. Raises UsageError if the store has that model already or is being
    moved to a third one, VectunedError if another process is moving it.
    """
    if not store.conn.autocommit:
        raise UsageError("A rebase commits batch by batch: give the store a connection in autocommit mode.")
    with _rebase_lock(store):
        job_id = int(
            store.value(
                "rebase_start", name=embedder.name, version=embedder.version, dimensions=embedder.dimensions
            )
        )
        job = _read_job(store)
        log.info(
            "Moving the entity store to %s: %s of %s texts are embedded",
            embedder.name,
            job.embedded,
            job.total,
            extra={"action": "rebase"},
        )
        with stage(f"embedding with {embedder.name}", job.total) as progress:
            done = job.embedded
            progress(done)
            for count in _embed(store, embedder, job.model.id, job_id, range(_STRIPES)):
                done += count
                progress(done)
        (counts,) = store.rows("counts")
        for table, rows in zip(TABLES, (counts.active, counts.resources), strict=True):
            with stage(f"indexing {table.replace('_', ' ')}", rows):
                build_index(store.conn, table, "embedding_next", concurrently=True)
        _switch(store, embedder, job.model.id, job_id)
    analyze(store.conn, TABLES)
    log.info("The entity store is of %s now", embedder.name, extra={"action": "rebase"})
    return _read_job(store)


def cancel_rebase(store: EntityStore) -> RebaseJob:
    """Cancel the running rebase: the store keeps its model. Raises UsageError if none is running."""
    job = last_job(store)
    if job is None or job.state != "running":
        raise UsageError("No rebase is under way, so there is none to cancel.")
    with _rebase_lock(store):
        store.value("rebase_cancel", job_id=job.id)
    return _read_job(store)


def last_job(store: EntityStore) -> RebaseJob | None:
    """Return the running rebase, otherwise the last one, None if there never was one."""
    for row in store.rows("rebase_job"):
        return RebaseJob(
            id=row.job_id,
            model=Model(row.model_id, row.name, row.version, row.dimensions),
            state=row.state,
            total=row.total,
            embedded=row.embedded,
            started_at=row.started_at,
            progress_at=row.progress_at,
            finished_at=row.finished_at,
        )
    return None


def _read_job(store: EntityStore) -> RebaseJob:
    job = last_job(store)
    assert job is not None
    return job


def _embed(
    store: EntityStore, embedder: Embedder, model_id: int, job_id: int | None, stripes: Iterable[int] = ()
) -> Iterator[int]:
    """Embed until no text is pending, first by stripes; yield the number of texts stored after each batch."""
    for kind in _KINDS:
        for stripe in stripes:
            yield from _embed_once(store, embedder, model_id, kind, job_id, stripe)
        # Then the texts that were written or changed in the meantime, until there is none.
        found = True
        while found:
            found = False
            for count in _embed_once(store, embedder, model_id, kind, job_id, None):
                found = found or count > 0
                yield count


def _embed_once(
    store: EntityStore, embedder: Embedder, model_id: int, kind: Kind, job_id: int | None, stripe: int | None
) -> Iterator[int]:
    """Embed the pending texts of one kind in one pass over the ids; yield the number stored by batch."""
    after = 0
    while len(batch := store.next_pending(kind, BATCH, after, job_id, stripe)):
        after = batch.ids[-1]
        try:
            vectors = embedder.encode(batch.texts)
        except UsageError as error:
            raise UsageError(
                f"One of the {kind} texts {batch.ids[0]} to {after} cannot be embedded ({error}): "
                "change it, or archive it."
            ) from error
        yield store.put_vectors(batch, vectors, model_id, job_id)


def _switch(store: EntityStore, embedder: Embedder, model_id: int, job_id: int) -> None:
    """Swap the columns and indexes of the two models, after embedding what was written in the meantime."""
    for attempt in range(1, _SWITCH_ATTEMPTS + 1):
        for _ in _embed(store, embedder, model_id, job_id):
            pass
        try:
            with store.conn.transaction():
                # While this waits for an exclusive lock, every later query on the table waits behind it.
                execute(store.conn, entity_queries()["limit_lock_wait"])
                store.value("rebase_switch", job_id=job_id)
        except (LockNotAvailable, UsageError):
            # A long transaction uses the table, or a text was written after the last batch.
            if attempt == _SWITCH_ATTEMPTS:
                raise
            time.sleep(attempt / 10)
        else:
            return


@contextmanager
def _rebase_lock(store: EntityStore) -> Iterator[None]:
    """Hold the lock that lets one process at a time rebase; raises VectunedError if another one has it."""
    if not store.value("rebase_lock"):
        raise VectunedError("Another process is moving the entity store to another model: let it finish.")
    try:
        yield
    finally:
        # The server has released the lock of a connection that broke.
        if not store.conn.closed and not store.conn.broken:
            store.value("rebase_unlock")
