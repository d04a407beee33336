"""The ReasoningBank: lookup, store, consolidate, prune, save and load."""

from __future__ import annotations

import contextlib
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

from vectuned.config.errors import UsageError
from vectuned.learning.patterns.reasoning_bank import (
    Patterns,
    ReasoningBank,
    check_patterns,
    confidence_from_samples,
)

Singles = npt.NDArray[np.float32]


def patterns(count: int, seed: int, spread: float = 64.0) -> Patterns:
    """Draw patterns; with a small `spread` many of them are equally far from a signature."""
    rng = np.random.default_rng(seed)
    samples = rng.integers(1, 40, count)
    return Patterns(
        signatures(count, seed, spread),
        np.sort(rng.random((count, 14)), axis=1).astype(np.float32),
        np.cumsum(rng.random((count, 14)), axis=1).astype(np.float32),
        samples,
        rng.uniform(2, 13, count),
        rng.uniform(0.5, 1, count),
        confidence_from_samples(samples),
        rng.integers(0, 5, count).astype(np.float64),
        rng.integers(5, 100, count).astype(np.float64),
        rng.choice([0.0, 1.8e9, 1.9e9], count),
    )


def signatures(count: int, seed: int, spread: float = 64.0) -> Singles:
    """Draw signatures."""
    drawn = np.rint(np.random.default_rng(seed).normal(0, spread, (count, 4)))
    return np.clip(drawn, -1000, 1000).astype(np.float32)


def brute(bank: ReasoningBank, wanted: Singles, count: int) -> tuple[Any, Any]:
    """Look up in whole numbers, comparing with every pattern; ties by number."""
    squared = ((wanted[:, None].astype(np.int64) - bank.patterns.centroids[None].astype(np.int64)) ** 2).sum(
        2
    )
    numbers = np.lexsort((np.broadcast_to(np.arange(len(bank)), squared.shape), squared), axis=1)[:, :count]
    return numbers, np.sqrt(np.take_along_axis(squared, numbers, axis=1))


def same(one: Patterns, two: Patterns) -> bool:
    """Say whether patterns are equal, types included."""
    pairs = [(getattr(one, name), getattr(two, name)) for name in vars(one)]
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0, 64.0, 600.0])
@pytest.mark.parametrize("count", [1, 2, 3, 64, 500, 5000])
def test_lookup_is_exact_and_breaks_ties_by_number(count: int, spread: float) -> None:
    bank = ReasoningBank(patterns(count, 1, spread))
    wanted = signatures(200, 2, spread)
    for neighbours in (1, 3, 10):
        numbers, distances = bank.lookup(wanted, neighbours)
        expected = brute(bank, wanted, min(neighbours, count))
        np.testing.assert_array_equal(numbers, expected[0])
        np.testing.assert_array_equal(distances, expected[1])
        assert str(numbers.dtype) == "int64"
        assert str(distances.dtype) == "float64"


def test_lookup_distinguishes_the_farthest_signatures() -> None:
    far = replace(patterns(2, 1), centroids=np.array([[1000] * 4, [1000, 1000, 1000, 999]], np.float32))
    numbers, distances = ReasoningBank(far).lookup(np.full((1, 4), -1000, np.float32))
    assert numbers.tolist() == [[1, 0]]
    assert distances.tolist() == [[np.sqrt(3 * 2000**2 + 1999**2), 4000.0]]


def test_lookup_in_an_empty_bank_finds_nothing() -> None:
    numbers, distances = ReasoningBank().lookup(signatures(5, 1))
    assert numbers.shape == distances.shape == (5, 0)
    numbers, distances = ReasoningBank(patterns(4, 1)).lookup(signatures(0, 1))
    assert numbers.shape == distances.shape == (0, 3)


def test_store_makes_patterns_found_by_lookup() -> None:
    bank = ReasoningBank()
    assert bank.store(patterns(50, 1)).tolist() == list(range(50))
    assert bank.store(patterns(0, 1)).tolist() == []
    assert bank.store(patterns(300, 2)).tolist() == list(range(50, 350))
    assert len(bank) == 350
    assert same(bank.patterns, patterns(50, 1).concatenate(patterns(300, 2)))
    numbers, distances = bank.lookup(bank.patterns.centroids, 1)
    assert (distances == 0).all()
    np.testing.assert_array_equal(bank.patterns.centroids[numbers[:, 0]], bank.patterns.centroids)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"effort": np.array([1.0, np.nan])}, "Pattern 1 has a effort that is not a finite number"),
        ({"effort": np.array([1.0, 13.5])}, "effort outside 0 to 13"),
        ({"effort": np.array([1.0])}, r"effort of shape \(1,\): \(2,\) is needed"),
        ({"recall": np.full((2, 14), 1.5, np.float32)}, "recall outside 0 to 1"),
        ({"recall": np.zeros((2, 13), np.float32)}, r"recall of shape \(2, 13\)"),
        ({"cost": np.full((2, 14), -1, np.float32)}, "cost outside 0"),
        ({"cost": np.zeros((2, 14))}, "cost of type float64: float32"),
        ({"samples": np.array([1, -1])}, "samples outside 0"),
        ({"usage": np.array([1, 2])}, "usage of type int64: float64"),
        ({"usage": np.array(["1", "2"])}, "usage of type <U1"),
        ({"chances": np.array([-1.0, 2.0])}, "chances outside 0"),
        ({"born": np.array([0.0, np.nan])}, "Pattern 1 has a born that is not a finite number"),
        ({"centroids": np.full((2, 4), 0.5, np.float32)}, "not whole numbers"),
        ({"centroids": np.full((2, 4), 1001, np.float32)}, "not whole numbers between -1000 and 1000"),
        ({"centroids": np.full((2, 3), 1, np.float32)}, r"centroids of shape \(2, 3\)"),
    ],
)
def test_check_patterns_refuses_unusable_ones(change: dict[str, Any], words: str) -> None:
    bad = replace(patterns(2, 1), **change)
    for refuse in (check_patterns, ReasoningBank, ReasoningBank(patterns(3, 2)).store):
        with pytest.raises(UsageError, match=words):
            refuse(bad)


def test_store_of_refused_patterns_changes_nothing() -> None:
    bank = ReasoningBank(patterns(3, 2))
    with pytest.raises(UsageError):
        bank.store(replace(patterns(2, 1), effort=np.full(2, np.inf)))
    assert same(bank.patterns, patterns(3, 2))


def test_count_usage_counts_repeats() -> None:
    bank = ReasoningBank(replace(patterns(4, 1), usage=np.zeros(4), chances=np.array([0.0, 0, 1, 2.5])))
    bank.count_usage([1, 1, 3])
    bank.count_usage([])
    bank.count_usage(np.array([3]))
    assert bank.patterns.usage.tolist() == [0, 2, 0, 2]
    assert bank.patterns.chances.tolist() == [4, 4, 5, 6.5]


@pytest.mark.parametrize("radius", [0.0, 2.0, 6.0, 1e9])
def test_consolidate_never_lowers_effort_or_raises_expected_recall(radius: float) -> None:
    before = patterns(400, 3, spread=2.0)
    bank = ReasoningBank(before)
    merged = bank.consolidate(radius)
    after = bank.patterns
    check_patterns(after)
    assert len(after) == 400 - merged
    assert merged > 0
    # Every old pattern lies within the radius of the best supported of its group, and the group's mean too.
    numbers, distances = bank.lookup(before.centroids, len(bank))
    for i in range(400):
        near = numbers[i][distances[i] <= 2 * radius + 1]
        assert after.effort[near].max() >= before.effort[i]
        assert after.expected_recall[near].min() <= before.expected_recall[i]
    assert after.samples.sum() == before.samples.sum()
    assert after.usage.sum() == before.usage.sum()
    np.testing.assert_array_equal(after.confidence, confidence_from_samples(after.samples))
    for name in ("recall", "cost"):
        old, new = getattr(before, name).astype(float), getattr(after, name).astype(float)
        np.testing.assert_allclose(before.samples @ old, after.samples @ new, rtol=1e-4)


def test_consolidate_merges_as_computed_by_hand() -> None:
    two = patterns(3, 1)
    two = replace(
        two,
        centroids=np.array([[0, 0, 0, 0], [4, 0, 0, 0], [900, 0, 0, 0]], np.float32),
        samples=np.array([10, 30, 5]),
        effort=np.array([5.0, 4.0, 1.0]),
        expected_recall=np.array([0.97, 0.95, 0.9]),
        usage=np.array([1.0, 2.5, 4.0]),
        chances=np.array([10.0, 20.0, 30.0]),
        born=np.array([0.0, 1.8e9, 0.0]),
    )
    bank = ReasoningBank(two)
    assert bank.consolidate(5.0) == 1
    assert bank.patterns.centroids.tolist() == [[3, 0, 0, 0], [900, 0, 0, 0]]
    assert bank.patterns.samples.tolist() == [40, 5]
    assert bank.patterns.effort.tolist() == [5.0, 1.0]
    assert bank.patterns.expected_recall.tolist() == [0.95, 0.9]
    assert bank.patterns.usage.tolist() == [3.5, 4]
    assert bank.patterns.chances.tolist() == [20, 30]
    assert bank.patterns.born.tolist() == [1.8e9, 0]
    np.testing.assert_allclose(bank.patterns.recall[0], (two.recall[0] + 3 * two.recall[1]) / 4, rtol=1e-6)
    assert bank.lookup(np.array([[3, 0, 0, 0]], np.float32), 1)[0].tolist() == [[0]]


def test_consolidate_without_near_patterns_merges_nothing() -> None:
    bank = ReasoningBank(patterns(20, 1, spread=300.0))
    assert bank.consolidate(0.5) == 0
    assert same(bank.patterns, patterns(20, 1, spread=300.0))
    assert ReasoningBank().consolidate(10.0) == 0
    for radius in (-1.0, float("nan")):
        with pytest.raises(UsageError, match="radius"):
            bank.consolidate(radius)


def test_prune_deletes_only_unused_and_unsupported_patterns() -> None:
    four = replace(patterns(4, 1), usage=np.array([0.0, 0, 9, 9]), confidence=np.array([0.1, 0.9, 0.1, 0.9]))
    bank = ReasoningBank(four)
    assert bank.prune(min_usage=1, min_confidence=0.5) == 1
    assert same(bank.patterns, four.take([1, 2, 3]))
    assert bank.prune(min_usage=1, min_confidence=0.5) == 0
    assert bank.lookup(four.centroids[2:3], 1)[0].tolist() == [[1]]
    assert bank.prune(min_usage=100, min_confidence=1.1) == 3
    assert bank.lookup(four.centroids, 3)[0].shape == (4, 0)


def test_prune_keeps_patterns_with_few_chances() -> None:
    unused = replace(patterns(3, 1), usage=np.zeros(3), chances=np.zeros(3), confidence=np.full(3, 0.1))
    bank = ReasoningBank(unused)
    assert bank.prune(1, 0.5, chances=100) == 0
    bank.count_usage([0] * 60)
    bank.store(unused)
    bank.count_usage([0] * 50)
    assert bank.prune(1, 0.5, chances=100) == 2  # of the three old ones two were never used
    assert bank.patterns.usage.tolist() == [110, 0, 0, 0]
    bank.count_usage([0] * 50)
    assert bank.prune(1, 0.5, chances=100) == 3


def test_consolidate_keeps_the_oldest_age() -> None:
    old = replace(patterns(1, 1), usage=np.zeros(1), chances=np.zeros(1), confidence=np.zeros(1))
    bank = ReasoningBank(old)
    bank.count_usage(np.zeros(0, dtype=np.int64))
    bank.store(patterns(1, 2, spread=300.0))
    bank.count_usage([1] * 10)
    bank.store(replace(old, samples=np.array([0])))
    assert bank.consolidate(1.0) == 1
    assert bank.prune(1, 1.0, chances=5) == 1


def test_load_returns_what_was_saved(tmp_path: Path) -> None:
    for count in (0, 1, 300):
        bank = ReasoningBank(patterns(count, count))
        bank.save(tmp_path / "bank.npz")
        again = ReasoningBank.load(tmp_path / "bank.npz")
        assert same(again.patterns, bank.patterns)
        wanted = signatures(50, 9)
        np.testing.assert_array_equal(again.lookup(wanted)[0], bank.lookup(wanted)[0])
    assert [file.name for file in tmp_path.iterdir()] == ["bank.npz"]


def test_load_returns_the_saved_age(tmp_path: Path) -> None:
    unused = replace(patterns(2, 1), usage=np.zeros(2), chances=np.zeros(2), confidence=np.zeros(2))
    bank = ReasoningBank(unused)
    bank.count_usage([0] * 100)
    bank.store(unused)
    bank.save(tmp_path / "bank")
    again = ReasoningBank.load(tmp_path / "bank")
    assert again.prune(1, 0.5, chances=50) == 1
    assert len(again) == 3


def test_save_writes_no_pickle(tmp_path: Path) -> None:
    path = tmp_path / "bank.npz"
    ReasoningBank(patterns(5, 1)).save(path)
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as member:
                assert member.read(6) == b"\x93NUMPY"
    np.savez(path, head=np.array([{"format": 1}], dtype=object))
    with pytest.raises(UsageError, match="not a ReasoningBank, or is damaged"):
        ReasoningBank.load(path)


def test_save_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "bank.npz"
    bank = ReasoningBank(patterns(5, 1))
    bank.save(path)
    # Not an array on purpose: it fails where a full disk would, in the middle of the file.
    bank.patterns = replace(bank.patterns, usage=cast(Any, Unwritable()))
    with pytest.raises(OSError, match="no space"):
        bank.save(path)
    assert same(ReasoningBank.load(path).patterns, patterns(5, 1))
    assert list(tmp_path.iterdir()) == [path]


class Unwritable:
    """Data that fails while it is being written."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise OSError("no space")


def test_load_refuses_every_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "bank.npz"
    ReasoningBank(patterns(40, 1)).save(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(4)
    for length in [0, 1, 10, *rng.integers(11, len(whole) - 1, 20).tolist()]:
        path.write_bytes(whole[:length])
        with pytest.raises(UsageError, match="is not a ReasoningBank, or is damaged"):
            ReasoningBank.load(path)
    # One flipped byte is either noticed or harmless (a date in the archive): never another bank.
    for place in rng.integers(0, len(whole), 200).tolist():
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :])
        with contextlib.suppress(UsageError):
            assert same(ReasoningBank.load(path).patterns, patterns(40, 1))


def test_load_of_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"There is no ReasoningBank at .*nowhere"):
        ReasoningBank.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ({"format": 3, "rungs": [10, 1000]}, "another version of vectuned"),
        ({"format": 1, "rungs": [10, 1000]}, "another version of vectuned"),
        ({"format": 2}, "not a ReasoningBank"),
        ([], "not a ReasoningBank"),
        ("{", "not a ReasoningBank"),
    ],
)
def test_load_refuses_other_versions(tmp_path: Path, head: Any, words: str) -> None:
    path = tmp_path / "bank.npz"
    ReasoningBank(patterns(5, 1)).save(path)
    rewrite(path, head=np.frombuffer(json.dumps(head).encode(), dtype=np.uint8))
    with pytest.raises(UsageError, match=words):
        ReasoningBank.load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"effort": np.full(5, np.nan)},
        {"effort": np.array(list("abcde"))},
        {"samples": np.zeros(4, dtype=np.int64)},
        {"born": np.zeros(3)},
    ],
)
def test_load_refuses_unusable_content(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "bank.npz"
    ReasoningBank(patterns(5, 1)).save(path)
    rewrite(path, **change)
    with pytest.raises(UsageError):
        ReasoningBank.load(path)


def rewrite(path: Path, **change: Any) -> None:
    """Replace arrays in a saved bank."""
    with np.load(path) as file:
        arrays = dict(file)
    with path.open("wb") as out:
        np.savez(out, **(arrays | change))
