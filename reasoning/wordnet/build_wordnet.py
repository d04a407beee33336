"""Build the corpus file that `vectuned.reasoning.wordnet.corpus` reads, from WordNet 3.0's own data files.

The source is Debian's `wordnet-base`; fetching it needs no root:

    apt-get download wordnet-base
    dpkg-deb -x wordnet-base_*.deb wordnet
    python -m vectuned.reasoning.wordnet.build_wordnet --source wordnet/usr/share/wordnet \
        --output reasoning/data/wordnet-3.0.tsv.xz

The result is UTF-8 text compressed with xz: one synset for each line, ordered by part of speech (n, v, a, r)
and offset. Seven columns separated by tabs: id, part of speech, category, lemmas, gloss, examples, relations.
Several lemmas or examples are separated by `|`; relations read
`hypernym n00001740 n00002137;meronym_part ...`.

Formats: wndb(5WN) for the data files, lexnames(5WN) for the categories, wninput(5WN) for the pointers.
"""

from __future__ import annotations

import argparse
import lzma
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vectuned.config.errors import UsageError, VectunedError

FILES = {"n": "data.noun", "v": "data.verb", "a": "data.adj", "r": "data.adv"}

# Debian's package has no lexnames file; the position is the number that the data files use.
CATEGORIES = (
    "adj.all",
    "adj.pert",
    "adv.all",
    "noun.Tops",
    "noun.act",
    "noun.animal",
    "noun.artifact",
    "noun.attribute",
    "noun.body",
    "noun.cognition",
    "noun.communication",
    "noun.event",
    "noun.feeling",
    "noun.food",
    "noun.group",
    "noun.location",
    "noun.motive",
    "noun.object",
    "noun.person",
    "noun.phenomenon",
    "noun.plant",
    "noun.possession",
    "noun.process",
    "noun.quantity",
    "noun.relation",
    "noun.shape",
    "noun.state",
    "noun.substance",
    "noun.time",
    "verb.body",
    "verb.change",
    "verb.cognition",
    "verb.communication",
    "verb.competition",
    "verb.consumption",
    "verb.contact",
    "verb.creation",
    "verb.emotion",
    "verb.motion",
    "verb.perception",
    "verb.possession",
    "verb.social",
    "verb.stative",
    "verb.weather",
    "adj.ppl",
)

RELATION_NAMES = {
    "!": "antonym",
    "@": "hypernym",
    "@i": "instance_hypernym",
    "~": "hyponym",
    "~i": "instance_hyponym",
    "#m": "holonym_member",
    "#s": "holonym_substance",
    "#p": "holonym_part",
    "%m": "meronym_member",
    "%s": "meronym_substance",
    "%p": "meronym_part",
    "=": "attribute",
    "+": "derivation",
    ";c": "domain_topic",
    "-c": "member_topic",
    ";r": "domain_region",
    "-r": "member_region",
    ";u": "domain_usage",
    "-u": "member_usage",
    "*": "entailment",
    ">": "cause",
    "^": "also_see",
    "$": "verb_group",
    "&": "similar",
    "<": "participle",
    "\\": "pertainym",
}

# Counts of a complete WordNet 3.0; others mean another release or a damaged file.
EXPECTED = {
    "synsets": 117_659,
    "nouns": 82_115,
    "verbs": 13_767,
    "adjectives": 18_156,
    "adverbs": 3_621,
    "categories": 45,
    "relations": 364_552,
    "relation types": 26,
    "hypernyms": 89_089,
    "nouns with several parents": 2_213,
    "examples": 48_339,
}

_ADJECTIVE_MARKER = re.compile(r"\((?:a|p|ip)\)$")
_QUOTED = re.compile(r'"([^"]*)"')
# Separates the examples of a gloss with an unpaired quote: a semicolon, or (once) a quote inside a word.
_BROKEN_SEPARATOR = re.compile(r';|(?<=\w)"(?=\w\w)')


@dataclass(frozen=True, slots=True)
class Entry:
    """One synset of the data files.

    `relations` are distinct (name, target id) pairs between synsets, in the file's order; pointers between
    single words count as relations of their synsets.
    """

    id: str
    pos: str
    category: str
    lemmas: tuple[str, ...]
    gloss: str
    examples: tuple[str, ...]
    relations: tuple[tuple[str, str], ...]


def split_gloss(text: str) -> tuple[str, tuple[str, ...]]:
    """Split a raw gloss into its definition and its usage examples.

    A quotation is an example if it starts the gloss or follows a separator or another quotation. Other
    quotations, and those in parentheses, belong to the definition. Text after the first example that is not a
    quotation (the name of an author, a remark) is dropped.
    """
    text = text.strip()
    if text.count('"') % 2 or any(part.startswith(";") for part in _QUOTED.findall(text)):
        return _split_broken_gloss(text)
    definition: str | None = None
    examples: list[str] = []
    for match in _QUOTED.finditer(text):
        before = text[: match.start()].rstrip()
        example = match[1].strip(" ;,")
        if before.count("(") > before.count(")") and definition is None:
            continue
        if definition is None:
            if before and before[-1] not in ";:,":
                continue
            definition = before
        if example:
            examples.append(example)
    return (text if definition is None else definition).rstrip(" ;:,"), tuple(examples)


def _split_broken_gloss(text: str) -> tuple[str, tuple[str, ...]]:
    definition, *parts = _BROKEN_SEPARATOR.split(text)
    definition = definition.replace('"', "").strip()
    examples: list[str] = []
    for part in parts:
        part = part.strip()
        if '"' in part or examples:
            examples.append(part.strip("\"': ").replace('"', "'"))
        elif part:
            definition = f"{definition}; {part}"
    return definition, tuple(example for example in examples if example)


def parse_line(line: str, letter: str) -> Entry:
    """Read one line of a data file; `letter` is the file's part of speech.

    Satellite adjectives have the part of speech `s`, but ids that begin with `a`: they are in data.adj, and
    pointers use both letters.
    """
    head, separator, gloss = line.rstrip().partition(" | ")
    if not separator:
        raise ValueError("no gloss")
    fields = head.split(" ")
    offset, category, pos = fields[:3]
    words = int(fields[3], 16)
    lemmas = (_ADJECTIVE_MARKER.sub("", word).replace("_", " ") for word in fields[4 : 4 + 2 * words : 2])
    start = 5 + 2 * words
    relations = {
        (RELATION_NAMES[fields[at]], _letter(fields[at + 2]) + fields[at + 1]): None
        for at in range(start, start + 4 * int(fields[start - 1]), 4)
    }
    definition, examples = split_gloss(gloss)
    return Entry(
        id=letter + offset,
        pos=pos,
        category=CATEGORIES[int(category)],
        lemmas=tuple(dict.fromkeys(lemmas)),
        gloss=definition,
        examples=examples,
        relations=tuple(relations),
    )


def _letter(pos: str) -> str:
    return "a" if pos == "s" else pos


def read_entries(source: Path) -> Iterator[Entry]:
    """Yield every synset of the data files in `source`.

    Raises UsageError for a missing file and VectunedError, naming file and line, for one that cannot be read.
    """
    for letter, name in FILES.items():
        path = source / name
        if not path.is_file():
            raise UsageError(
                f"{path} does not exist: give --source the folder that holds WordNet's data files."
            )
        with path.open(encoding="ascii") as lines:
            for number, line in enumerate(lines, start=1):
                if line.startswith("  "):  # the licence
                    continue
                try:
                    yield parse_line(line, letter)
                except (ValueError, IndexError, KeyError) as error:
                    raise VectunedError(
                        f"{path} line {number} is not a line of WordNet data: {error}."
                    ) from error


def count_entries(entries: Sequence[Entry]) -> dict[str, int]:
    """Return the counts that `EXPECTED` lists."""
    by_letter = Counter(entry.id[0] for entry in entries)
    names = Counter(name for entry in entries for name, _ in entry.relations)
    parents = (
        sum(name in ("hypernym", "instance_hypernym") for name, _ in entry.relations)
        for entry in entries
        if entry.pos == "n"
    )
    return {
        "synsets": len(entries),
        "nouns": by_letter["n"],
        "verbs": by_letter["v"],
        "adjectives": by_letter["a"],
        "adverbs": by_letter["r"],
        "categories": len({entry.category for entry in entries}),
        "relations": names.total(),
        "relation types": len(names),
        "hypernyms": names["hypernym"],
        "nouns with several parents": sum(count > 1 for count in parents),
        "examples": sum(len(entry.examples) for entry in entries),
    }


def check_entries(entries: Sequence[Entry]) -> None:
    """Raise VectunedError if a synset is incomplete, an id occurs twice, or a relation has no target."""
    ids = {entry.id for entry in entries}
    if len(ids) != len(entries):
        raise VectunedError(f"{len(entries) - len(ids)} synset ids occur more than once.")
    for entry in entries:
        if not entry.lemmas or not entry.gloss:
            raise VectunedError(f"Synset {entry.id} has no lemma or no gloss.")
        if any(set("\t\n|") & set(text) for text in (*entry.lemmas, entry.gloss, *entry.examples)):
            raise VectunedError(f"Synset {entry.id} contains a character that separates columns.")
        for name, target in entry.relations:
            if target not in ids:
                raise VectunedError(f"Synset {entry.id} has the {name} {target}, which does not exist.")


def format_entry(entry: Entry) -> str:
    """Return the line of a synset in the corpus file, with the newline."""
    targets: dict[str, list[str]] = {}
    for name, target in sorted(entry.relations):
        targets.setdefault(name, []).append(target)
    relations = ";".join(" ".join((name, *ids)) for name, ids in targets.items())
    columns = (
        entry.id,
        entry.pos,
        entry.category,
        "|".join(entry.lemmas),
        entry.gloss,
        "|".join(entry.examples),
        relations,
    )
    return "\t".join(columns) + "\n"


def write_corpus(entries: Sequence[Entry], output: Path) -> None:
    """Write the corpus file; the same entries give the same bytes with the same liblzma."""
    text = "".join(map(format_entry, entries)).encode()
    output.write_bytes(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the corpus file and print its counts; return 1 unless they are as expected."""
    parser = argparse.ArgumentParser(
        prog="python -m vectuned.reasoning.wordnet.build_wordnet",
        description="Build the WordNet corpus file.",
    )
    parser.add_argument(
        "--source", type=Path, required=True, help="folder that holds data.noun and the others"
    )
    parser.add_argument("--output", type=Path, required=True, help="the .tsv.xz file to write")
    options = parser.parse_args(arguments)
    try:
        entries = list(read_entries(options.source))
        check_entries(entries)
    except VectunedError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    counts = count_entries(entries)
    for name, count in counts.items():
        print(f"{name:<27}{count:>8}{'' if count == EXPECTED[name] else f'  expected {EXPECTED[name]}'}")
    if counts != EXPECTED:
        print("error: this is not a complete WordNet 3.0; nothing was written.", file=sys.stderr)
        return 1
    write_corpus(entries, options.output)
    print(f"{options.output}: {options.output.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
