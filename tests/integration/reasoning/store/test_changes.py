"""Changes of the entity store: usage, archiving and pruning, outdated texts, and a move to another model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

import numpy as np
import psycopg
import pytest
from tests.integration.table_helpers import enable, one, scans

from vectuned.config.errors import UsageError, VectunedError
from vectuned.reasoning.embedding.embedder import Progress, StaticEmbedder, Vectors
from vectuned.reasoning.store.bulk import build_index
from vectuned.reasoning.store.entities import RebaseJob
from vectuned.reasoning.store.rebase import cancel_rebase, embed_pending, last_job, rebase
from vectuned.reasoning.store.statements import EntityNotFoundError
from vectuned.reasoning.store.store import EntityStore
from vectuned.reasoning.wordnet import loading
from vectuned.reasoning.wordnet.corpus import Corpus

TABLE = "vectuned_entities.entities"


class ObservedEmbedder:
    """An embedder of another model that runs a callback before each batch and records its texts."""

    def __init__(
        self, dimensions: int = 64, version: str = "1", before: Callable[[int], None] | None = None
    ) -> None:
        self._inner = StaticEmbedder(dimensions)
        self.name, self.version, self.dimensions = self._inner.name, version, dimensions
        self._before = before
        self.batches = 0
        self.texts: list[str] = []

    def encode(self, texts: Sequence[str], progress: Progress | None = None) -> Vectors:
        """Embed texts by the wrapped model."""
        self.batches += 1
        if self._before is not None:
            self._before(self.batches)
        self.texts += texts
        return self._inner.encode(texts, progress)


def test_load_rejects_another_part_of_wordnet(
    store: EntityStore, synsets: Corpus, embedder: StaticEmbedder
) -> None:
    loaded = loading.read_stages(store)
    with pytest.raises(UsageError, match=r"synsets of WordNet are loaded, not .*: use --drop"):
        loading.load(store, loading.sample_corpus(synsets, 500), embedder)
    assert loading.load(store, synsets, embedder) == loaded


# Usage, archiving and pruning


def test_touch_counts_uses(store: EntityStore) -> None:
    assert store.touch([1, 2, 2, 999_999]) == 2
    assert store.touch([2]) == 1
    assert store.touch([]) == 0
    assert [(hot.id, hot.usage_count) for hot in store.find_hot()] == [(2, 3), (1, 1)]
    assert store.get_entities([2, 1, 999_999])[0].usage_count == 3


def test_archive_hides_an_entity_until_restore(store: EntityStore, embedder: StaticEmbedder) -> None:
    (query,) = embedder.encode(["a large dog"])
    first = store.find_similar(query, 1)[0]
    known = store.get_relationships(first.id, direction="both")
    assert store.archive(first.id)
    assert not store.archive(first.id)
    assert first.id not in {m.id for m in store.find_similar(query, 1000)}
    assert first.id not in {m.id for m in store.hybrid_search(first.name, query, text_weight=1)}
    assert all(
        first.id not in {r.entity_id for r in store.get_relationships(k.entity_id, direction="both")}
        for k in known
    )
    assert store.count_pending() == 0
    with pytest.raises(UsageError, match=r"is archived and has no embedding \(SELECT .*restore_entity"):
        store.update_embedding(first.id, query)
    assert store.restore(first.id)
    assert not store.restore(first.id)
    assert store.find_similar(query, 1)[0] == first
    assert store.get_relationships(first.id, direction="both") == known
    # After a change while archived, the previous embedding would be of another text.
    store.archive(first.id)
    store.update_entity(first.id, description="something else")
    store.restore(first.id)
    assert store.get_entities([first.id])[0].needs_embedding
    assert store.count_pending() == 1


def test_prune_deletes_everything_but_the_name(store: EntityStore) -> None:
    store.touch([5])
    store.archive(5)
    name = store.get_entities([5])[0].name
    assert store.prune(5)
    assert not store.prune(5)
    (entity,) = store.get_entities([5])
    assert (entity.status, entity.name, entity.description) == ("pruned", name, "")
    for table in (
        "entity_attribute_link",
        "entity_resource_link",
        "entity_paths",
        "reference_tracking",
        "embedding_history",
    ):
        assert one(store.conn, f"SELECT count(*) FROM vectuned_entities.{table} WHERE entity_id = 5") == 0
    assert (
        one(
            store.conn,
            "SELECT count(*) FROM vectuned_entities.relationships WHERE 5 IN (source_id, target_id)",
        )
        == 0
    )
    for refused in (store.restore, store.archive, store.get_relationships):
        with pytest.raises(
            EntityNotFoundError, match=r"there is no entity 5 \(It was never stored, or it was pruned"
        ):
            refused(5)


def test_archive_inactive_and_prune_archived_work_in_batches(store: EntityStore) -> None:
    store.conn.execute("ALTER TABLE vectuned_entities.entities DISABLE TRIGGER entity_changed")
    store.conn.execute(
        "UPDATE vectuned_entities.entities SET updated_at = now() - interval '100 days' WHERE entity_id <= 5"
    )
    store.conn.execute("ALTER TABLE vectuned_entities.entities ENABLE TRIGGER entity_changed")
    store.touch([2])
    assert store.archive_inactive(timedelta(days=90), batch_size=3) == 3
    assert store.archive_inactive(timedelta(days=90)) == 1
    assert store.archive_inactive(timedelta(days=90)) == 0
    assert [e.status for e in store.get_entities([1, 2, 3, 4, 5])] == [
        "archived",
        "active",
        *["archived"] * 3,
    ]
    assert store.prune_archived(timedelta(days=1)) == 0
    assert store.prune_archived(timedelta(microseconds=1)) == 4


# Texts and embeddings


def test_count_pending_counts_changed_and_new_texts(store: EntityStore, embedder: StaticEmbedder) -> None:
    new = store.insert_entity("bathysphere", "a submersible lowered on a cable")
    store.update_entity(7, description="a text it did not have")
    store.set_attribute(8, "colour", "red")
    resource = store.insert_resource("urn:x", "page", "they lowered the bathysphere")
    store.insert_resource("urn:nothing", "page")
    assert store.count_pending() == 3
    assert store.next_pending("entity").ids == [7, new]
    assert embed_pending(store, embedder) == 3
    assert store.count_pending() == 0
    (query,) = embedder.encode(["bathysphere: a submersible lowered on a cable"])
    assert store.find_similar(query, 1)[0].id == new
    assert store.find_similar_resources(query, 1)[0].id == resource
    # Writing the same text again is no change.
    store.update_entity(7, description="a text it did not have")
    store.insert_resource("urn:x", "page", "they lowered the bathysphere")
    assert store.count_pending() == 0


def test_put_vectors_skips_a_text_that_changed_meanwhile(
    store: EntityStore, embedder: StaticEmbedder
) -> None:
    new = store.insert_entity("first words")
    batch = store.next_pending("entity")
    store.update_entity(new, name="other words")
    model = store.get_model()
    assert model is not None
    assert store.put_vectors(batch, embedder.encode(batch.texts), model.id) == 0
    assert store.next_pending("entity").texts == ["other words"]


def test_update_embedding_keeps_the_history(store: EntityStore, embedder: StaticEmbedder) -> None:
    before = one(store.conn, "SELECT embedding FROM vectuned_entities.entities WHERE entity_id = 3")
    (vector,) = embedder.encode(["something else altogether"])
    store.update_embedding(3, vector)
    store.update_embedding(3, vector)
    kept = store.conn.execute(
        "SELECT entity_id, embedding, model_id, reason FROM vectuned_entities.embedding_history"
    ).fetchall()
    assert [(row[0], row[2], row[3]) for row in kept] == [(3, 1, "updated")]
    assert np.array_equal(kept[0][1], before)


def test_store_rejects_vectors_of_another_model(store: EntityStore) -> None:
    other = ObservedEmbedder(256, version="2")
    (vector,) = other.encode(["dog"])
    with pytest.raises(UsageError, match=r"is of model wordllama.*not wordllama.* 2: embed with that one"):
        EntityStore(store.conn, other)
    store.embedder = other
    for refused in (
        lambda: store.insert_entity("dog", embedding=vector),
        lambda: store.update_embedding(1, vector),
        lambda: store.insert_resource("urn:x", "page", "dog", vector),
    ):
        with pytest.raises(UsageError, match=r"embedding is of model .* 2, but those of the store are of"):
            refused()
    # Plain SQL is rejected too.
    assert store.register_model(other) == 2
    for table in ("entities", "external_resources"):
        with pytest.raises(psycopg.errors.CheckViolation, match=f"{table}_one_model"):
            store.conn.execute(f"UPDATE vectuned_entities.{table} SET embedding_model = 2".encode())
    with pytest.raises(psycopg.errors.CheckViolation, match="entities_embedding_check"):
        store.conn.execute("UPDATE vectuned_entities.entities SET embedding_model = NULL")
    with pytest.raises(UsageError, match="is registered with 256 dimensions, not 64"):
        store.value("register_model", name=other.name, version="2", dimensions=64)


# Another model


def test_rebase_resumes_after_being_killed(store: EntityStore, embedder: StaticEmbedder) -> None:
    (query,) = embedder.encode(["a large dog"])
    before = store.find_similar(query, 10)
    enable(store.conn, TABLE)
    dsn = store.conn.info.dsn

    def kill(batch: int) -> None:
        if batch == 4:
            with psycopg.connect(dsn, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s)", (doomed.info.backend_pid,))

    with psycopg.connect(dsn, autocommit=True) as doomed, pytest.raises(psycopg.OperationalError):
        rebase(EntityStore(doomed), ObservedEmbedder(before=kill))
    job = last_job(store)
    assert job is not None
    total = one(
        store.conn,
        "SELECT (SELECT count(*) FROM vectuned_entities.entities) "
        "+ (SELECT count(*) FROM vectuned_entities.external_resources)",
    )
    assert (job.state, job.embedded, job.total) == ("running", 375, total)
    # Meanwhile searches return the same, and new texts wait for both models.
    assert [m.id for m in store.find_similar(query, 10)] == [m.id for m in before]
    with pytest.raises(UsageError, match=r"\d+ of \d+ texts are not yet embedded with the next model"):
        store.value("rebase_switch", job_id=job.id)
    with pytest.raises(UsageError, match="being moved to another model by rebase 1"):
        rebase(store, ObservedEmbedder(128))
    store.update_entity(1, description="changed after it was embedded")
    new = store.insert_entity("newcomer", "written meanwhile")
    store.archive(2)

    progress_values: list[int] = []
    again = ObservedEmbedder()
    done = rebase(store, again, lambda label, total: _RecordedStage(progress_values))
    assert (done.id, done.state, done.embedded) == (job.id, "done", total)
    # 375 were embedded; since then one of them changed, one was archived, and a new one was added.
    assert len(again.texts) == total - 375 + 1 + 1
    assert progress_values[0] == 373
    model = store.get_model()
    assert model is not None
    assert (model.name, model.dimensions) == ("wordllama-l2-supercat-64", 64)
    assert store.count_pending() == 0
    (small,) = StaticEmbedder(64).encode(["newcomer: written meanwhile"])
    with scans(store.conn, TABLE) as used:
        found = store.find_similar(small, 3)
    assert found[0].id == new
    assert found[0].query_id is not None
    assert used == {"entities_embedding_idx": 1}
    assert one(store.conn, "SELECT dimensions FROM vectuned.tuned_column") == 64
    with pytest.raises(UsageError, match="query has 256 dimensions, but those of the store have 64"):
        store.find_similar(query)
    # The restored entity's embedding is of the previous model, so it waits to be embedded.
    store.restore(2)
    assert store.next_pending("entity").ids == [2]
    with pytest.raises(UsageError, match="already uses model wordllama-l2-supercat-64 1"):
        rebase(store, again)


class _RecordedStage:
    """A stage that records its progress."""

    def __init__(self, progress_values: list[int]) -> None:
        self._shown = progress_values

    def __enter__(self) -> Callable[[int], None]:
        return self._shown.append

    def __exit__(self, *_: object) -> None:
        return None


def test_rebase_can_be_cancelled_and_reverted(store: EntityStore, embedder: StaticEmbedder) -> None:
    store.conn.execute("DELETE FROM vectuned_entities.entities WHERE entity_id > 600")
    store.conn.execute("DELETE FROM vectuned_entities.external_resources WHERE resource_id > 100")
    (query,) = embedder.encode(["a large dog"])
    before = store.find_similar(query, 10, ef_search=1000)
    constraints = (
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE connamespace = 'vectuned_entities'::regnamespace AND conname !~ '_one_model' ORDER BY 1"
    )
    made = store.conn.execute(constraints.encode()).fetchall()

    class EnoughError(Exception):
        pass

    def stop(batch: int) -> None:
        if batch == 2:
            raise EnoughError

    with pytest.raises(EnoughError):
        rebase(store, ObservedEmbedder(before=stop))
    assert cancel_rebase(store).state == "cancelled"
    with pytest.raises(UsageError, match="No rebase is under way"):
        cancel_rebase(store)
    assert store.conn.execute(constraints.encode()).fetchall() == made
    assert rebase(store, ObservedEmbedder(128)).state == "done"
    assert rebase(store, embedder).state == "done"
    assert store.find_similar(query, 10, ef_search=1000) == before
    assert store.conn.execute(constraints.encode()).fetchall() == made
    models = store.conn.execute("SELECT dimensions, status FROM vectuned_entities.embedding_model_versions")
    assert sorted(models.fetchall()) == [(64, "registered"), (128, "retired"), (256, "current")]


def test_rebase_requires_the_lock_and_autocommit(store: EntityStore) -> None:
    with psycopg.connect(store.conn.info.dsn, autocommit=True) as other:
        assert EntityStore(other).value("rebase_lock")
        with pytest.raises(VectunedError, match="Another process is moving the entity store"):
            rebase(store, ObservedEmbedder())
    with psycopg.connect(store.conn.info.dsn) as other, pytest.raises(UsageError, match="autocommit"):
        rebase(EntityStore(other), ObservedEmbedder())


def test_build_index_rebuilds_an_invalid_index(store: EntityStore) -> None:
    store.conn.execute(
        "UPDATE pg_index SET indisvalid = false "
        "WHERE indexrelid = 'vectuned_entities.entities_embedding_idx'::regclass"
    )
    build_index(store.conn, "entities", concurrently=True)
    assert one(
        store.conn,
        "SELECT indisvalid FROM pg_index "
        "WHERE indexrelid = 'vectuned_entities.entities_embedding_idx'::regclass",
    )
    assert one(store.conn, "SHOW maintenance_work_mem") == "256MB"


@pytest.mark.parametrize("dimensions", [64, 128, 256])
def test_rebase_updates_are_mostly_heap_only(store: EntityStore, dimensions: int) -> None:
    class EnoughError(Exception):
        pass

    def stop(_: int) -> None:
        if job().embedded >= 1500:
            raise EnoughError

    def job() -> RebaseJob:
        found = last_job(store)
        assert found is not None
        return found

    with pytest.raises(EnoughError):
        rebase(store, ObservedEmbedder(dimensions, "2", stop))
    store.conn.execute("SELECT pg_stat_force_next_flush()")
    updated, hot = store.conn.execute(
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables "
        "WHERE relid = 'vectuned_entities.entities'::regclass"
    ).fetchall()[0]
    assert updated == job().embedded
    assert hot > 0.75 * updated
