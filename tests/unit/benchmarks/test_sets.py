"""The benchmarks' sets are built whole or not at all, of what is defined, and read as they were built."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from benchmarks import packages, sets, wordnet_sets
from benchmarks.packages import Found, Package
from benchmarks.set_definitions import Built, Definition, definitions
from vectuned.config.errors import UsageError, VectunedError
from vectuned.daemon.console import Console
from vectuned.learning.model.arrays import Singles
from vectuned.reasoning.embedding.embedder import Progress

QUIET = Console(quiet=True)
TINY = Definition(
    name="tiny",
    kind="numbers",
    metric="l2",
    dimensions=4,
    seed=3,
    training=30,
    heldout=20,
    packages=(),
    options={},
)


class BrokenError(Exception):
    pass


def numbers(definition: Definition, kept: Path, console: Console) -> Built:
    rng = np.random.default_rng(definition.seed)
    # So few different values that many queries are equal.
    return Built(
        rows=rng.integers(0, 255, (200, 4)).astype(np.uint8),
        categories=rng.integers(0, 3, 200).astype(np.int16),
        queries=rng.integers(0, 3, (400, 4)).astype(np.uint8),
        query_categories=rng.integers(0, 3, 400).astype(np.int16),
        category_names=("a", "b", "c"),
        duplicates=0,
        sources=(),
        libraries={},
    )


def broken(definition: Definition, kept: Path, console: Console) -> Built:
    (kept / "part.npy").touch()
    raise BrokenError


def killed(cache: Path) -> None:
    def build(definition: Definition, kept: Path, console: Console) -> Built:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    sets.ensure(TINY, cache, QUIET, build)


def found(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "tiny").iterdir())


def test_queries_are_distinct_and_on_one_side(tmp_path: Path) -> None:
    tiny = sets.read(TINY, sets.ensure(TINY, tmp_path, QUIET, numbers))
    assert tiny.rows.dtype == tiny.training.dtype == np.float32
    assert (tiny.training.shape, tiny.heldout.shape) == ((30, 4), (20, 4))
    assert len(np.unique(np.concatenate([tiny.training, tiny.heldout]), axis=0)) == 50
    # Each kept the category it was drawn with: the first query of all is the first to learn from.
    drawn = numbers(TINY, tmp_path, QUIET)
    np.testing.assert_array_equal(tiny.training[0], drawn.queries[0])
    assert tiny.training_categories[0] == drawn.query_categories[0]
    last = np.flatnonzero((drawn.queries == tiny.heldout[-1]).all(axis=1))[0]
    assert tiny.heldout_categories[-1] == drawn.query_categories[last]


def test_too_few_different_queries_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(VectunedError, match="80 different queries were found, and 130 are wanted"):
        sets.ensure(dataclasses.replace(TINY, training=110), tmp_path, QUIET, numbers)


def test_first_rows_are_those_of_the_whole(tmp_path: Path) -> None:
    folder = sets.ensure(TINY, tmp_path, QUIET, numbers)
    whole, part = sets.read(TINY, folder), sets.read(TINY, folder, 50)
    np.testing.assert_array_equal(part.rows, whole.rows[:50])
    np.testing.assert_array_equal(part.categories, whole.categories[:50])
    assert isinstance(part.rows, np.memmap)
    for rows in (0, 201):
        with pytest.raises(UsageError, match="has 200 rows: take 1 to 200"):
            sets.read(TINY, folder, rows)


def test_what_is_built_is_built_once_and_described(tmp_path: Path) -> None:
    folder = sets.ensure(TINY, tmp_path, QUIET, numbers)
    assert sets.ensure(TINY, tmp_path, QUIET, broken) == folder
    description = sets.check(folder)
    assert description["definition"] == TINY.digest
    assert (description["rows"], sum(description["categories"].values())) == (200, 200)
    assert description["bytes"] == sum(file.stat().st_size for file in folder.glob("*.npy"))


def test_a_damaged_file_is_noticed(tmp_path: Path) -> None:
    folder = sets.ensure(TINY, tmp_path, QUIET, numbers)
    rows = np.load(folder / "rows.npy")
    rows[7, 1] += 1
    np.save(folder / "rows.npy", rows)
    with pytest.raises(VectunedError, match=r"rows\.npy is damaged: delete the folder"):
        sets.check(folder)


def test_a_broken_build_leaves_only_its_parts(tmp_path: Path) -> None:
    with pytest.raises(BrokenError):
        sets.ensure(TINY, tmp_path, QUIET, broken)
    assert found(tmp_path) == ["lock", "parts"]
    assert (tmp_path / "tiny" / "parts" / "part.npy").exists()
    folder = sets.ensure(TINY, tmp_path, QUIET, numbers)
    assert found(tmp_path) == sorted([folder.name, "lock"])
    assert sets.check(folder)["resumed"]


# The process that is forked runs nothing of the threads that there are.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_killed_build_is_not_taken_for_a_set(tmp_path: Path) -> None:
    process = get_context("fork").Process(target=killed, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert found(tmp_path) == ["lock", "parts", "unfinished"]
    folder = sets.ensure(TINY, tmp_path, QUIET, numbers)
    assert found(tmp_path) == sorted([folder.name, "lock"])


def test_another_definition_has_the_set_built_anew(tmp_path: Path) -> None:
    first = sets.ensure(TINY, tmp_path, QUIET, numbers)
    other = dataclasses.replace(TINY, seed=4)
    second = sets.ensure(other, tmp_path, QUIET, numbers)
    assert found(tmp_path) == sorted([second.name, "lock"])
    assert not first.exists()
    np.testing.assert_array_equal(sets.read(other, second).rows, numbers(other, tmp_path, QUIET).rows)


def test_a_wrong_checksum_is_an_error_and_keeps_nothing(tmp_path: Path) -> None:
    good = Package("python", "vectuned", "vectuned", {"sql/tuner/schema.sql": "0" * 64}, "1.0")

    def build(definition: Definition, kept: Path, console: Console) -> Built:
        packages.find(good, kept)
        raise AssertionError

    with pytest.raises(
        VectunedError, match=r"File sql/tuner/schema\.sql of package vectuned .* another checksum"
    ):
        sets.ensure(TINY, tmp_path, QUIET, build)
    assert found(tmp_path) == ["lock", "parts"]
    assert not any((tmp_path / "tiny" / "parts").iterdir())


def test_files_of_installed_packages_are_found_and_checked(tmp_path: Path) -> None:
    numpy = Path(np.__file__)
    digest = hashlib.sha256(numpy.read_bytes()).hexdigest()
    source = packages.find(Package("python", "numpy", "numpy", {numpy.name: digest}), tmp_path)
    assert isinstance(source, Found)
    assert source.path(numpy.name) == numpy
    assert json.loads(json.dumps(source.record()))["version"] == np.__version__
    with pytest.raises(VectunedError, match=r"numpy .* has no file nowhere"):
        packages.find(Package("python", "numpy", "numpy", {"nowhere": digest}), tmp_path)
    with pytest.raises(VectunedError, match="package no-such-thing is not installed"):
        packages.find(Package("python", "no-such-thing", "no_such_thing", {}, "1"), tmp_path)


class Lengths:
    """Embeds a text as its length, and breaks at a text that says so until it was told not to."""

    name, version, dimensions = "lengths", "1", 1

    def __init__(self) -> None:
        self.breaks = True
        self.embedded: list[str] = []

    def encode(self, texts: Sequence[str], progress: Progress | None = None) -> Singles:
        if self.breaks and "break" in texts:
            raise BrokenError
        self.embedded += texts
        return np.array([[len(text)] for text in texts], np.float32)


def test_embedding_goes_on_where_it_was_broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wordnet_sets, "_PART", 2)
    texts = ["a", "bb", "ccc", "break", "e"]
    embedder = Lengths()
    with pytest.raises(BrokenError):
        wordnet_sets.embed(embedder, "key", texts, tmp_path, QUIET, "embedding")
    embedder.breaks = False
    embedded = wordnet_sets.embed(embedder, "key", texts, tmp_path, QUIET, "embedding")
    assert embedder.embedded == texts
    np.testing.assert_array_equal(embedded[:, 0], [1, 2, 3, 5, 1])
    # Another model's vectors are not taken for these.
    wordnet_sets.embed(embedder, "another", texts, tmp_path, QUIET, "embedding")
    assert embedder.embedded == texts * 2


def test_without_apt_the_error_says_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(VectunedError, match=r"Debian package photos .* no apt-get and no dpkg-deb"):
        packages.find(Package("debian", "photos", "usr", {}, "1"), tmp_path)


def test_the_definitions_are_complete(tmp_path: Path) -> None:
    assert sets.names() == ("wordnet-static", "wordnet-minilm", "photos-sift")
    for definition in definitions().values():
        assert definition.metric in ("cosine", "l2")
        assert all(len(digest) == 64 for p in definition.packages for digest in p.files.values())
    photos = definitions()["photos-sift"]
    files = {file: digest for package in photos.packages for file, digest in package.files.items()}
    assert set(photos.options["query_photos"]) < set(files)
    assert len(set(files.values())) == len(files) == sum(len(p.files) for p in photos.packages)
    with pytest.raises(UsageError, match="no set 'glove' of vectors; known are wordnet-static"):
        sets.definition_of("glove")
