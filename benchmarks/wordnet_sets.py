"""A set from WordNet: glosses as rows, usage examples as queries, lexical categories for filters."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks import packages
from benchmarks.set_definitions import Built, Definition
from vectuned.config.errors import VectunedError
from vectuned.daemon.console import Console
from vectuned.learning.model.arrays import Singles
from vectuned.reasoning.embedding.embedder import Embedder, Progress, StaticEmbedder
from vectuned.reasoning.embedding.embedders import MiniLMEmbedder
from vectuned.reasoning.wordnet.corpus import load_wordnet

_PART: Final = 10_000  # texts per part, which survives an interrupted build
_SPARE: Final = 100  # one spare query is drawn for this many, to replace repeated ones


def build(definition: Definition, kept: Path, console: Console) -> Built:
    """Embed glosses and usage examples; the folder `kept` caches the vectors part by part.

    The queries are drawn first by a generator with the set's seed, as in the demonstration, then the order of
    the rows.
    """
    # Python packages are read in place; nothing is unpacked.
    sources = tuple(packages.find(package, kept) for package in definition.packages)
    corpus = load_wordnet()
    names = tuple(sorted({synset.category for synset in corpus.synsets}))
    number = {name: at for at, name in enumerate(names)}
    category = {synset.id: number[synset.category] for synset in corpus.synsets}

    rng = np.random.default_rng(definition.seed)
    examples = corpus.queries()
    wanted = definition.queries + definition.queries // _SPARE
    asked = [examples[at] for at in rng.permutation(len(examples))[:wanted]]
    synsets = [corpus.synsets[at] for at in rng.permutation(len(corpus.synsets))]

    embedder = _embedder(definition)
    of_files = "".join(sha for package in definition.packages for sha in package.files.values())
    key = f"{embedder.name} {embedder.version} {of_files}"
    return Built(
        rows=embed(embedder, key, [s.text for s in synsets], kept, console, "embedding glosses"),
        categories=np.array([category[synset.id] for synset in synsets], np.int16),
        queries=embed(embedder, key, [a.text for a in asked], kept, console, "embedding usage examples"),
        query_categories=np.array([category[example.source] for example in asked], np.int16),
        category_names=names,
        duplicates=0,  # none is left out: the few equal vectors belong to different synsets
        sources=sources,
        libraries={embedder.name: embedder.version, "numpy": np.__version__},
    )


def _embedder(definition: Definition) -> Embedder:
    match definition.options["embedder"]:
        case "static":
            return StaticEmbedder(definition.dimensions)
        case "minilm":
            return MiniLMEmbedder()
        case other:
            raise VectunedError(f"Set {definition.name}: embedder is static or minilm, not {other!r}.")


def embed(
    embedder: Embedder, key: str, texts: Sequence[str], kept: Path, console: Console, label: str
) -> Singles:
    """Embed texts in parts; each part is cached under a hash of the model and its texts."""
    vectors = np.empty((len(texts), embedder.dimensions), np.float32)
    with console.progress(label, len(texts)) as progress:
        for first in range(0, len(texts), _PART):
            part = texts[first : first + _PART]
            digest = hashlib.blake2b("\0".join([key, *part]).encode(), digest_size=16)
            file = kept / f"{digest.hexdigest()}.npy"
            if not file.exists():
                found = embedder.encode(part, partial(_report, progress, first))
                unfinished = file.with_suffix(".tmp")
                with unfinished.open("wb") as out:
                    np.save(out, found)
                unfinished.rename(file)
            vectors[first : first + len(part)] = np.load(file)
            progress(first + len(part))
    return vectors


def _report(progress: Progress, before: int, done: int) -> None:
    progress(before + done)
