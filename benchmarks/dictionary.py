"""Descriptions of synsets in other words: definitions of Webster's dictionary of 1913, as Debian packages it.

The package `dict-gcide` (GNU Collaborative International Dictionary of English) is fetched when it is needed;
nothing of it is in the repository. Definitions that the dictionary took from WordNet are left out.
"""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks import packages
from benchmarks.packages import Package
from vectuned.reasoning.wordnet.corpus import Corpus, Query

PACKAGE: Final = Package(
    "debian",
    "dict-gcide",
    "usr/share/dictd",
    {"gcide.dict.dz": "3e6b2cdcbc1b3664c2f1466e3c8e44012e815c4c67fa83fa61f39777cd6e8517"},
    "0.48.5+nmu2",
)

_ENTRY: Final = re.compile(r"^([A-Za-z][a-z'-]+) \\[^\\\n]*\\(.*?)(?=^\S|\Z)", re.MULTILINE | re.DOTALL)
_SECOND_SENSE: Final = re.compile(r"^\s+(2\.|\(a\)) ", re.MULTILINE)
_ORIGIN: Final = re.compile(r"\[[^\[\]]*(?:Webster|WordNet|PJC|Century)[^\[\]]*\]")
_WEBSTER: Final = ["[1913 Webster]"]
_PART_OF_SPEECH: Final = re.compile(r"\b(n|v|a|adv)\.")
_CLASSES: Final = {"n": "n", "v": "v", "a": "as", "adv": "r"}  # its parts of speech in WordNet's letters
_ACCENT: Final = re.compile(r"\[[^\w\]]*([a-z]{1,2})[^\w\]]*\]")  # ["o] stands for o with a diaeresis
# Etymologies, marks of links, and labels of fields, such as (Zool.).
_BRACKETS: Final = re.compile(r"\[[^\[\]]*\]|\{|\}|\([A-Z][\w.&,\s]*\.?\)")
_DEFINITION: Final = re.compile(r"\n\s+([A-Z][a-z]*\b.*)", re.DOTALL)
# What follows the definition: etymologies, references, quotations and the names of their authors.
_AFTER: Final = re.compile(r"\n\s*\n|;? *--|[;.,]? *\b(?:See|Cf|Called also|Same as|as,)\b")
_MIN_WORDS: Final = 5  # a shorter definition is a synonym
_SHARED_LETTERS: Final = 4  # a word that begins with as many letters of the headword gives it away


def load_descriptions(corpus: Corpus) -> list[Query]:
    """Fetch the dictionary and return definitions with their synsets, in the order of the dictionary.

    Only words with one meaning in both, WordNet and the dictionary, and definitions that do not contain it.
    """
    with TemporaryDirectory() as folder:
        path = packages.find(PACKAGE, Path(folder)).path("gcide.dict.dz")
        with gzip.open(path, "rt", encoding="utf-8", errors="replace") as file:
            return descriptions(corpus, file.read())


def descriptions(corpus: Corpus, dictionary: str) -> list[Query]:
    """Return the definitions in a text in the format of dictd that belong to one synset each."""
    glosses = {synset.id: synset.gloss.casefold() for synset in corpus.synsets}
    synsets: dict[str, list[str]] = {}
    for synset in corpus.synsets:
        for lemma in synset.lemmas:
            synsets.setdefault(lemma.casefold(), []).append(synset.id)
    entries = [(word.casefold(), body) for word, body in _ENTRY.findall(dictionary)]
    count = Counter(word for word, _ in entries)
    queries = [
        Query(text, synsets[word][0])
        for word, body in entries
        if count[word] == 1 and len(synsets.get(word, ())) == 1
        for text in _definitions(word, body, synsets[word][0])
    ]
    seen = Counter(query.text for query in queries)
    return [
        query
        for query in queries
        if seen[query.text] == 1 and query.text.casefold().strip(".") not in glosses[query.source]
    ]


def _definitions(word: str, body: str, synset: str) -> Iterator[str]:
    """Yield the definition of an entry if it has one of use."""
    if _SECOND_SENSE.search(body) or _ORIGIN.findall(body) != _WEBSTER:
        return
    kind = _PART_OF_SPEECH.search(body)
    if kind is None or synset[0] not in _CLASSES[kind[1]]:
        return
    text = _ACCENT.sub(r"\1", body.split(_WEBSTER[0])[0])
    while (shorter := _BRACKETS.sub("", text)) != text:
        text = shorter
    if (found := _DEFINITION.search(text)) is None:
        return
    definition = " ".join(_AFTER.split(found[1], maxsplit=1)[0].split()).strip(" ;,:")
    words = re.findall(r"[a-z]+", definition.casefold())
    giveaway = word[:_SHARED_LETTERS]
    if len(words) >= _MIN_WORDS and not any(each.startswith(giveaway) for each in words):
        yield definition
