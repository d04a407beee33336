"""WordNet 3.0 as a corpus: synsets to search, a skewed category to filter by, and held-out queries."""

from __future__ import annotations

import hashlib
import io
import lzma
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources

import numpy as np
import numpy.typing as npt

from vectuned.config.errors import VectunedError

_FILE = "wordnet-3.0.tsv.xz"
_MIN_QUERY_WORDS = 3  # shorter usage examples are collocations, such as "able child"
_HELD_OUT_OF = 5  # one usage example of five is held out


@dataclass(frozen=True, slots=True)
class Synset:
    """A set of synonyms and their meaning.

    `id` is a letter and an offset (`n00001740`); `pos` is n, v, a, s or r (s is a satellite adjective, whose
    id begins with a); `category` is one of 45 lexical categories (`noun.animal`).
    """

    id: str
    pos: str
    category: str
    lemmas: tuple[str, ...]
    gloss: str
    examples: tuple[str, ...]

    @property
    def text(self) -> str:
        """The text that is embedded: lemmas and gloss, without the examples, which serve as queries."""
        return f"{', '.join(self.lemmas)}: {self.gloss}"


@dataclass(frozen=True, slots=True, eq=False)
class SynsetRelations:
    """Typed edges between synsets, as columns of equal length.

    Edge i leads from synset `sources[i]` to synset `targets[i]` (int32, positions in `Corpus.synsets`); its
    type is `names[kinds[i]]` (uint8). Edges are distinct and sorted by source.
    """

    names: tuple[str, ...]
    kinds: npt.NDArray[np.uint8]
    sources: npt.NDArray[np.int32]
    targets: npt.NDArray[np.int32]

    def __len__(self) -> int:
        """Return the number of edges."""
        return len(self.kinds)

    def of(self, name: str) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Return sources and targets of one type of relation; raises ValueError for an unknown name."""
        chosen = self.kinds == self.names.index(name)
        return self.sources[chosen], self.targets[chosen]


@dataclass(frozen=True, slots=True)
class Query:
    """A usage example and the id of its synset."""

    text: str
    source: str


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """All synsets, in the order of the file (n, v, a, r, then offset), and their relations."""

    synsets: tuple[Synset, ...]
    relations: SynsetRelations

    def texts(self) -> list[str]:
        """Return the text to embed of every synset, in order."""
        return [synset.text for synset in self.synsets]

    def queries(self) -> list[Query]:
        """Return the usage examples that can serve as queries, in the order of the synsets.

        They have at least three words and belong to one synset. Two that repeat their gloss, which is
        embedded, are left out.
        """
        owners = Counter(text for synset in self.synsets for text in dict.fromkeys(synset.examples))
        return [
            Query(text, synset.id)
            for synset in self.synsets
            for text in dict.fromkeys(synset.examples)
            if owners[text] == 1 and len(text.split()) >= _MIN_QUERY_WORDS and text not in synset.gloss
        ]

    def held_out_queries(self) -> list[Query]:
        """Return the queries that are held out: for evaluating what was trained on `training_examples`."""
        return [query for query in self.queries() if held_out(query.text)]

    def training_examples(self) -> dict[str, list[str]]:
        """Return the usage examples that are not held out, with the ids of their synsets."""
        owners: dict[str, list[str]] = {}
        for synset in self.synsets:
            for text in dict.fromkeys(synset.examples):
                if not held_out(text):
                    owners.setdefault(text, []).append(synset.id)
        return owners


def held_out(text: str) -> bool:
    """Say whether a usage example is in the fifth that is held out from training and from the entity store.

    This depends on the words alone, not on case, punctuation or spacing, so that variants of a text are on
    the same side.
    """
    words = "".join(c if c.isalnum() else " " for c in text.casefold()).split()
    return hashlib.blake2b(" ".join(words).encode(), digest_size=8).digest()[0] % _HELD_OUT_OF == 0


def load_wordnet() -> Corpus:
    """Read the corpus that the package contains; takes about a second and 130 MB.

    Raises VectunedError if the file is missing or damaged.
    """
    file = resources.files("vectuned.reasoning") / "data" / _FILE
    try:
        with file.open("rb") as packed, lzma.open(packed) as data:
            return read_corpus(io.TextIOWrapper(data, encoding="utf-8", newline="\n"))
    except (OSError, EOFError, lzma.LZMAError, ValueError, KeyError) as error:
        raise VectunedError(
            f"The package's own WordNet corpus {_FILE} cannot be read ({error}): reinstall vectuned."
        ) from error


def read_corpus(lines: Iterable[str]) -> Corpus:
    """Read the lines that `build_wordnet` writes; raises ValueError or KeyError for anything else."""
    synsets = []
    edges = []
    # One string object for each category instead of 117,659.
    categories: dict[str, str] = {}
    for line in lines:
        id_, pos, category, lemmas, gloss, examples, relations = line.rstrip("\n").split("\t")
        synsets.append(
            Synset(
                id_,
                pos,
                categories.setdefault(category, category),
                tuple(lemmas.split("|")),
                gloss,
                tuple(examples.split("|")) if examples else (),
            )
        )
        edges.append(relations)
    return Corpus(tuple(synsets), _read_relations(synsets, edges))


def _read_relations(synsets: list[Synset], edges: list[str]) -> SynsetRelations:
    position = {synset.id: at for at, synset in enumerate(synsets)}
    kind_of: dict[str, int] = {}
    kinds: list[int] = []
    sources: list[int] = []
    targets: list[int] = []
    for source, groups in enumerate(edges):
        for group in groups.split(";") if groups else ():
            name, *ids = group.split(" ")
            kind = kind_of.setdefault(name, len(kind_of))
            targets += [position[id_] for id_ in ids]
            kinds += [kind] * len(ids)
            sources += [source] * len(ids)
    return SynsetRelations(
        tuple(kind_of), np.array(kinds, np.uint8), np.array(sources, np.int32), np.array(targets, np.int32)
    )
