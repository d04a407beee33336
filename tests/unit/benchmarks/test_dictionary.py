"""Definitions taken from a dictionary as descriptions of synsets."""

from __future__ import annotations

import numpy as np

from benchmarks.dictionary import descriptions
from vectuned.reasoning.wordnet.corpus import Corpus, Query, Synset, SynsetRelations

DICTIONARY = """\
Teapot \\Tea"pot`\\, n.
   A vessel with a spout, in which infusions are made, and from
   which they are poured into cups.
   [1913 Webster]

Kettle \\Ket"tle\\, n. [OE. ketel; cf. L. catillus, dim. of
   catinus.] (Cookery)
   1. A metallic vessel in which food is boiled over a fire.
      [1913 Webster]

   2. (Mil.) Another vessel, with other uses in the army.
      [1913 Webster]

Gamely \\Game"ly\\, adv.
   In a game and plucky manner, without fear.
   [1913 Webster]

Samovar \\Sam"o*var\\, n. [Russ. samovar' .] (Cookery)
   A metal urn used in Russia for heating water; -- so called
   from its fire. See {Urn}.
   [1913 Webster]

Urn \\Urn\\, n.
   a large vase that usually has a pedestal or feet.
   [WordNet 1.5]
"""


def make_corpus(*lemmas: str) -> Corpus:
    synsets = tuple(
        Synset(f"{'r' if lemma == 'gamely' else 'n'}{at:08}", "n", "noun.artifact", (lemma,), "a gloss", ())
        for at, lemma in enumerate(lemmas)
    )
    nothing = np.zeros(0, np.int32)
    return Corpus(synsets, SynsetRelations((), np.zeros(0, np.uint8), nothing, nothing))


def test_descriptions_are_definitions_of_one_sense_without_the_word() -> None:
    corpus = make_corpus("teapot", "kettle", "gamely", "samovar", "urn")
    # Kettle has two senses, gamely gives its word away, and the urn is WordNet's own gloss.
    assert descriptions(corpus, DICTIONARY) == [
        Query(
            "A vessel with a spout, in which infusions are made, and from which they are poured into cups.",
            "n00000000",
        ),
        Query("A metal urn used in Russia for heating water", "n00000003"),
    ]


def test_descriptions_skip_words_of_several_synsets() -> None:
    assert descriptions(make_corpus("teapot", "teapot"), DICTIONARY) == []
