"""Load WordNet into the entity store: synsets as entities, their relations, usage examples as resources.

A fifth of the usage examples is not loaded (`corpus.held_out`). They serve to evaluate the store, and an
example that the store contains, with a link to its synset, would give the answer away.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from vectuned.config.errors import UsageError
from vectuned.reasoning.embedding.embedder import Embedder
from vectuned.reasoning.store.bulk import (
    TABLES,
    analyze,
    build_index,
    drop_indexes_of_empty_tables,
    load_entities,
    load_relationships,
    load_resources,
)
from vectuned.reasoning.store.entities import Model, NewEntity, NewResource
from vectuned.reasoning.store.rebase import Stage, hide_progress
from vectuned.reasoning.store.store import EntityStore
from vectuned.sql.entity_loader import entity_queries
from vectuned.sql.rows import execute

from .corpus import Corpus, Synset, SynsetRelations

CORPUS: Final = "wordnet-3.0"
HIERARCHY: Final = ("hypernym", "instance_hypernym")
_GOLDEN_RATIO: Final = 0.6180339887498949  # fractional part
PARTS_OF_SPEECH: Final = {
    "n": "noun",
    "v": "verb",
    "a": "adjective",
    "s": "satellite adjective",
    "r": "adverb",
}


def load(
    store: EntityStore, corpus: Corpus, embedder: Embedder, stage: Stage = hide_progress
) -> dict[str, int]:
    """Load the stages that are missing, each in one transaction; return the rows of every stage.

    Raises UsageError if another number of synsets was loaded before, or the store has another model.
    """
    done = read_stages(store)
    if done.get("entities", len(corpus.synsets)) != len(corpus.synsets):
        raise UsageError(
            f"{done['entities']:,} synsets of WordNet are loaded, not {len(corpus.synsets):,}: "
            "use --drop to load it again."
        )
    model = store.use_model(embedder)
    work: dict[str, Callable[[], int]] = {
        "entities": lambda: _load_entities(store, model, corpus, embedder, stage),
        "relationships": lambda: _load_relationships(store, corpus, stage),
        "paths": lambda: _build_paths(store, stage),
        "resources": lambda: _load_resources(store, model, corpus, embedder, stage),
    }
    if "entities" not in done:
        drop_indexes_of_empty_tables(store.conn)
    for name, task in work.items():
        if name not in done:
            with store.conn.transaction():
                done[name] = task()
                finished = {"corpus": CORPUS, "stage": name, "rows": done[name]}
                execute(store.conn, entity_queries()["finish_stage"], finished)
            # The plans of the next stage depend on the statistics.
            analyze(store.conn, ("entities", "relationships", "entity_paths"))
    for table in TABLES:
        with stage(
            f"indexing {table.replace('_', ' ')}", done["entities" if table == "entities" else "resources"]
        ):
            build_index(store.conn, table)
    return done


def read_stages(store: EntityStore) -> dict[str, int]:
    """Return the rows of each stage that was loaded."""
    return {row.stage: row.rows for row in store.rows("stages", corpus=CORPUS)}


def sample_corpus(corpus: Corpus, limit: int) -> Corpus:
    """Return a corpus of at most `limit` synsets, evenly spread, with all their hypernyms and relations."""
    parents: dict[int, list[int]] = {}
    for name in HIERARCHY:
        if name in corpus.relations.names:
            for source, target in zip(*(side.tolist() for side in corpus.relations.of(name)), strict=True):
                parents.setdefault(source, []).append(target)
    chosen: set[int] = set()
    # Multiples of the golden ratio, modulo 1, spread any number of starts evenly over the file.
    for number in range(len(corpus.synsets)):
        added, waiting = set[int](), [int(number * _GOLDEN_RATIO % 1 * len(corpus.synsets))]
        while waiting:
            if (at := waiting.pop()) not in chosen | added:
                added.add(at)
                waiting += parents.get(at, ())
        if len(chosen) + len(added) > limit:
            break
        chosen |= added
    positions = np.array(sorted(chosen), np.int32)
    relations = corpus.relations
    inside = np.isin(relations.sources, positions) & np.isin(relations.targets, positions)
    return Corpus(
        tuple(corpus.synsets[at] for at in positions),
        SynsetRelations(
            relations.names,
            relations.kinds[inside],
            np.searchsorted(positions, relations.sources[inside]).astype(np.int32),
            np.searchsorted(positions, relations.targets[inside]).astype(np.int32),
        ),
    )


def _entity(synset: Synset) -> NewEntity:
    attributes = [
        ("part_of_speech", PARTS_OF_SPEECH[synset.pos]),
        ("lexical_category", synset.category),
        ("gloss", synset.gloss),
        *(("lemma", lemma) for lemma in synset.lemmas),
    ]
    # Name and description together are `synset.text`, which is embedded.
    return NewEntity(synset.id, ", ".join(synset.lemmas), synset.gloss, tuple(attributes))


def _load_entities(store: EntityStore, model: Model, corpus: Corpus, embedder: Embedder, stage: Stage) -> int:
    with stage("embedding glosses", len(corpus.synsets)) as progress:
        vectors = embedder.encode(corpus.texts(), progress=progress)
    with stage("loading entities", len(corpus.synsets)) as progress:
        load_entities(store.conn, [_entity(s) for s in corpus.synsets], vectors, model.id, progress)
    return len(corpus.synsets)


def _load_relationships(store: EntityStore, corpus: Corpus, stage: Stage) -> int:
    known = store.find_ids([synset.id for synset in corpus.synsets])
    ids = [known[synset.id] for synset in corpus.synsets]
    relations = corpus.relations
    edges = [
        (ids[source], ids[target], relations.names[kind])
        for source, target, kind in zip(
            relations.sources.tolist(), relations.targets.tolist(), relations.kinds.tolist(), strict=True
        )
    ]
    with stage("loading relationships", len(edges)) as progress:
        load_relationships(store.conn, edges, progress)
    return len(edges)


def _build_paths(store: EntityStore, stage: Stage) -> int:
    known = {row.name for row in store.rows("relationship_types")}
    types = [name for name in HIERARCHY if name in known]
    if not types:
        return 0
    with stage("working out hypernym paths", 1):
        return store.rebuild_paths(types)


def _load_resources(
    store: EntityStore, model: Model, corpus: Corpus, embedder: Embedder, stage: Stage
) -> int:
    known = store.find_ids([synset.id for synset in corpus.synsets])
    examples = corpus.training_examples()
    resources = [
        NewResource(
            f"urn:{CORPUS}:example:{number}", "usage example", text, tuple(known[owner] for owner in owners)
        )
        for number, (text, owners) in enumerate(examples.items(), 1)
    ]
    with stage("embedding usage examples", len(examples)) as progress:
        vectors = embedder.encode(list(examples), progress=progress)
    with stage("loading usage examples", len(examples)) as progress:
        load_resources(store.conn, resources, vectors, model.id, progress)
    return len(resources)
