"""The embedding model of an entity store, and the texts that wait to be embedded with it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vectuned.config.errors import UsageError
from vectuned.learning.model.vectors import Vector
from vectuned.reasoning.embedding.embedder import Embedder, Vectors
from vectuned.reasoning.graph.connections import Connection

from .entities import Kind, Model, PendingTexts
from .statements import Statements

Query = npt.NDArray[np.float32] | Sequence[float]

BATCH = 512  # texts embedded and committed at a time: an interruption repeats at most these


class ModelStatements(Statements):
    """Statements about models and embeddings; base of the other parts of the store.

    With `embedder`, each vector to store is sent with the name and version of its model, and the store's
    functions reject it if they have another one.
    """

    def __init__(self, conn: Connection, embedder: Embedder | None = None) -> None:
        super().__init__(conn)
        self.embedder = embedder
        if embedder is not None:
            self.check_model(embedder)

    def get_model(self) -> Model | None:
        """Return the model of the store's vectors, None before the first one is registered."""
        (model,) = self.rows("current_model")
        return None if model.id is None else Model(*model)

    def register_model(self, embedder: Embedder) -> int:
        """Register a model and return its id; the first with the store's dimensions becomes the store's."""
        values = {"name": embedder.name, "version": embedder.version, "dimensions": embedder.dimensions}
        return int(self.value("register_model", **values))

    def check_model(self, embedder: Embedder) -> None:
        """Raise UsageError if the store has a model and it is not that of the embedder."""
        model = self.get_model()
        if model is not None and (model.name, model.version) != (embedder.name, embedder.version):
            raise UsageError(
                f"The entity store is of model {model.name} {model.version}, not {embedder.name} "
                f"{embedder.version}: embed with that one, or move it by `vectuned entities rebase --model`."
            )

    def use_model(self, embedder: Embedder) -> Model:
        """Return the store's model; a store without one takes that of the embedder.

        Raises UsageError if the store has another model, or vectors of another length.
        """
        self.register_model(embedder)
        self.check_model(embedder)
        model = self.get_model()
        if model is None:
            raise UsageError(
                f"The entity store's vectors have another length than the {embedder.dimensions} of "
                f"{embedder.name}: create it for this model, or embed with one that fits."
            )
        return model

    def update_embedding(self, entity_id: int, embedding: Query) -> None:
        """Replace the embedding of an entity; the former one goes to the history."""
        values = {"entity_id": entity_id, "embedding": to_vector(embedding)}
        self.value("update_embedding", **values, **self._model_values())

    def count_pending(self) -> int:
        """Count the texts without an up-to-date embedding."""
        return int(self.value("count_pending"))

    def next_pending(
        self,
        kind: Kind,
        batch_size: int = BATCH,
        after_id: int = 0,
        job_id: int | None = None,
        stripe: int | None = None,
    ) -> PendingTexts:
        """Return the next texts to embed, by id: those of a rebase job, or those out of date.

        With `stripe` (0 to 15) only every sixteenth id. Neighbouring rows are then updated in different
        transactions, and each finds room on its page, so that no index is touched (heap-only tuples).
        """
        values = {
            "kind": kind,
            "batch_size": batch_size,
            "after_id": after_id,
            "job_id": job_id,
            "stripe": stripe,
        }
        rows = self.rows("next_batch", **values)
        return PendingTexts(
            kind, [row.id for row in rows], [row.content for row in rows], [row.text_hash for row in rows]
        )

    def put_vectors(
        self, pending: PendingTexts, vectors: Vectors, model_id: int, job_id: int | None = None
    ) -> int:
        """Store the vectors, shape (n, dimensions), of texts that have not changed; return their number."""
        values = {
            "kind": pending.kind,
            "ids": pending.ids,
            "hashes": pending.hashes,
            "model_id": model_id,
            "embeddings": [Vector(vector) for vector in vectors],
            "job_id": job_id,
        }
        return int(self.value("put_batch", **values)) if len(pending) else 0

    def _model_values(self) -> dict[str, str | None]:
        embedder = self.embedder
        return {
            "model_name": embedder.name if embedder else None,
            "model_version": embedder.version if embedder else None,
        }


def to_vector(values: Query | None) -> Vector | None:
    """Return a query or an embedding as a parameter of type vector."""
    return None if values is None else Vector(np.asarray(values, np.float32))
