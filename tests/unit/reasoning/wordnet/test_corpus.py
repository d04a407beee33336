"""The packaged WordNet is complete, and the script that builds it reads all irregularities of the format."""

from __future__ import annotations

import lzma
import re
from collections import Counter
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from vectuned.config.errors import UsageError, VectunedError
from vectuned.reasoning.wordnet import build_wordnet
from vectuned.reasoning.wordnet.build_wordnet import (
    Entry,
    parse_line,
    read_entries,
    split_gloss,
    write_corpus,
)
from vectuned.reasoning.wordnet.corpus import Corpus, held_out, load_wordnet, read_corpus
from vectuned.reasoning.wordnet.loading import sample_corpus

ABLE = (
    "00001740 00 a 01 able 0 002 ! 00002098 a 0101 ! 00002098 a 0102 | having the necessary means; "
    '"able to swim"; "she was able to program her computer"  '
)
UNABLE = "00002098 00 s 01 unable(p) 0 001 ! 00001740 a 0101 | lacking the means  "
LICENCE = "  1 This software and database is being provided to you, the LICENSEE, by  "


@pytest.fixture(scope="module")
def wordnet() -> Corpus:
    return load_wordnet()


def test_load_wordnet_returns_every_synset(wordnet: Corpus) -> None:
    assert Counter(synset.pos for synset in wordnet.synsets) == {
        "n": 82_115,
        "v": 13_767,
        "a": 7_463,
        "s": 10_693,
        "r": 3_621,
    }
    assert len({synset.id for synset in wordnet.synsets}) == 117_659
    assert all(synset.gloss and all(synset.lemmas) and all(synset.examples) for synset in wordnet.synsets)
    assert sum(len(synset.examples) for synset in wordnet.synsets) == 48_339


def test_categories_are_45_of_skewed_size(wordnet: Corpus) -> None:
    sizes = Counter(synset.category for synset in wordnet.synsets)
    assert set(sizes) == set(build_wordnet.CATEGORIES)
    assert sizes.most_common(1) == [("adj.all", 14_435)]
    assert sizes["noun.motive"] == min(sizes.values()) == 42


def test_relations_are_distinct_typed_edges(wordnet: Corpus) -> None:
    relations = wordnet.relations
    assert (len(relations), len(relations.names)) == (364_552, 26)
    assert set(relations.names) == set(build_wordnet.RELATION_NAMES.values())
    edges = np.column_stack([relations.kinds, relations.sources, relations.targets])
    assert len(np.unique(edges, axis=0)) == len(edges)
    assert (np.diff(relations.sources) >= 0).all()


@pytest.mark.parametrize(
    ("name", "inverse", "count"),
    [
        ("hypernym", "hyponym", 89_089),
        ("instance_hypernym", "instance_hyponym", 8_577),
        ("meronym_part", "holonym_part", 9_097),
        ("domain_topic", "member_topic", 6_653),
    ],
)
def test_relations_have_their_inverse(wordnet: Corpus, name: str, inverse: str, count: int) -> None:
    sources, targets = wordnet.relations.of(name)
    back_sources, back_targets = wordnet.relations.of(inverse)
    assert len(sources) == count
    assert set(zip(sources.tolist(), targets.tolist(), strict=True)) == set(
        zip(back_targets.tolist(), back_sources.tolist(), strict=True)
    )


def test_load_wordnet_returns_a_known_synset_in_full(wordnet: Corpus) -> None:
    (dog,) = (synset for synset in wordnet.synsets if synset.id == "n02084071")
    assert dog.lemmas == ("dog", "domestic dog", "Canis familiaris")
    assert dog.category == "noun.animal"
    assert dog.examples == ("the dog barked all night",)
    assert dog.text.startswith("dog, domestic dog, Canis familiaris: a member of the genus Canis")
    at = wordnet.synsets.index(dog)
    sources, targets = wordnet.relations.of("hypernym")
    parents = {wordnet.synsets[target].lemmas[0] for target in targets[sources == at]}
    assert parents == {"canine", "domestic animal"}


def test_lemmas_carry_no_markup(wordnet: Corpus) -> None:
    marked = re.compile(r"_|\((?:a|p|ip)\)$")
    assert not [lemma for synset in wordnet.synsets for lemma in synset.lemmas if marked.search(lemma)]


def test_queries_have_one_source_and_are_not_embedded(wordnet: Corpus) -> None:
    queries = wordnet.queries()
    assert len(queries) == 42_432
    assert len({query.text for query in queries}) == len(queries)
    assert min(len(query.text.split()) for query in queries) == 3
    by_id = {synset.id: synset for synset in wordnet.synsets}
    assert all(query.text in by_id[query.source].examples for query in queries)
    texts = wordnet.texts()
    assert len(texts) == len(wordnet.synsets)
    assert not [query for query in queries if query.text in by_id[query.source].text]


def test_held_out_takes_a_fifth_of_the_examples_by_their_words(wordnet: Corpus) -> None:
    queries, training = wordnet.held_out_queries(), wordnet.training_examples()
    assert len(queries) == 8_689
    assert len(training) == 38_342
    assert not {query.text for query in queries} & training.keys()
    spelt = ("the dog barked all night", "The dog  barked, all night!")
    assert len({held_out(text) for text in spelt}) == 1


def test_sample_corpus_contains_all_hypernyms(wordnet: Corpus) -> None:
    part = sample_corpus(wordnet, 500)
    assert 480 < len(part.synsets) <= 500
    assert {synset.pos for synset in part.synsets} == {"n", "v", "a", "s", "r"}
    whole = {synset.id: at for at, synset in enumerate(wordnet.synsets)}
    for name in ("hypernym", "instance_hypernym"):
        sources, _ = wordnet.relations.of(name)
        kept = np.array([whole[synset.id] for synset in part.synsets])
        assert np.isin(sources, kept).sum() == len(part.relations.of(name)[0])


def test_data_is_small_and_has_its_licence() -> None:
    data = resources.files("vectuned.reasoning") / "data"
    assert len((data / "wordnet-3.0.tsv.xz").read_bytes()) < 6_000_000
    licence = (data / "WORDNET-LICENSE.txt").read_text(encoding="utf-8")
    assert "WordNet 3.0 Copyright 2006 by Princeton University" in licence


def test_parse_line_strips_markers_and_joins_satellites_to_the_letter_a() -> None:
    assert parse_line(UNABLE, "a") == Entry(
        "a00002098", "s", "adj.all", ("unable",), "lacking the means", (), (("antonym", "a00001740"),)
    )


def test_parse_line_counts_words_in_hexadecimal_and_keeps_a_relation_once() -> None:
    words = " ".join(f"word_{number} 0" for number in range(16))
    line = f"00000001 05 n 10 {words} 002 @ 00000002 n 0000 @ 00000002 n 0101 | many words"
    entry = parse_line(line, "n")
    assert entry.lemmas == tuple(f"word {number}" for number in range(16))
    assert entry.relations == (("hypernym", "n00000002"),)


@pytest.mark.parametrize(
    ("raw", "definition", "examples"),
    [
        ("having no examples  ", "having no examples", ()),
        ('easy; "an easy job"; "easy money"', "easy", ("an easy job", "easy money")),
        ('first; second; "the third"- Shakespeare', "first; second", ("the third",)),
        (
            'progress (as in "make strides"); "they made big strides"',
            'progress (as in "make strides")',
            ("they made big strides",),
        ),
        ('a workplace; as in "on the job"; ', 'a workplace; as in "on the job"', ()),
        ('utter casually; "drop a hint"; drop names"', "utter casually", ("drop a hint", "drop names")),
        ('a notice; "an obituary"; "a notice of sale', "a notice", ("an obituary", "a notice of sale")),
        ('a branch office"', "a branch office", ()),
        ('side; "I"m siding against him"', "side", ("I'm siding against him",)),
        ('buy; "into the car"women carrying bags"', "buy", ("into the car", "women carrying bags")),
        ('sigh; "the depth of his sighs," "the depth"', "sigh", ("the depth of his sighs", "the depth")),
    ],
)
def test_split_gloss_handles_quotes_of_all_kinds(
    raw: str, definition: str, examples: tuple[str, ...]
) -> None:
    assert split_gloss(raw) == (definition, examples)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name in build_wordnet.FILES.values():
        (tmp_path / name).write_text(LICENCE + "\n", encoding="ascii")
    (tmp_path / "data.adj").write_text("\n".join([LICENCE, ABLE, UNABLE, ""]), encoding="ascii")
    return tmp_path


def test_write_corpus_is_read_back_and_its_bytes_are_stable(source: Path) -> None:
    entries = list(read_entries(source))
    write_corpus(entries, source / "one.xz")
    write_corpus(list(read_entries(source)), source / "two.xz")
    assert (source / "one.xz").read_bytes() == (source / "two.xz").read_bytes()
    with lzma.open(source / "one.xz", "rt", encoding="utf-8") as lines:
        corpus = read_corpus(lines)
    assert [synset.id for synset in corpus.synsets] == ["a00001740", "a00002098"]
    assert corpus.synsets[0].examples == ("able to swim", "she was able to program her computer")
    assert corpus.relations.names == ("antonym",)
    assert corpus.relations.sources.tolist() == [0, 1]
    assert corpus.relations.targets.tolist() == [1, 0]


def test_main_rejects_an_incomplete_wordnet(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = source / "corpus.xz"
    assert build_wordnet.main(["--source", str(source), "--output", str(output)]) == 1
    assert not output.exists()
    assert "expected 117659" in capsys.readouterr().out


def test_read_entries_names_a_damaged_or_missing_file(source: Path) -> None:
    (source / "data.verb").write_text(LICENCE + "\n00001740 29 v zz breathe\n", encoding="ascii")
    with pytest.raises(VectunedError, match=r"data\.verb line 2 is not a line of WordNet data"):
        list(read_entries(source))
    (source / "data.verb").unlink()
    with pytest.raises(UsageError, match=r"data\.verb does not exist"):
        list(read_entries(source))


def test_check_entries_rejects_a_relation_without_target(source: Path) -> None:
    (entry, _) = read_entries(source)
    with pytest.raises(VectunedError, match="antonym a00002098, which does not exist"):
        build_wordnet.check_entries([entry])
