"""The ReasoningBank: learned patterns, found again by what a probe saw."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import hnswlib
import numpy as np
import numpy.typing as npt

from vectuned.config.errors import UsageError

from .ladder import HIGHEST, RUNGS
from .neighbors import Floats, Ints, Singles
from .signature import COMPONENTS, LIMIT

NEIGHBOURS: Final = 3
SOFTENING: Final = 8.0
_FORMAT: Final = 1
_ROOM: Final = 64


@dataclass(frozen=True)
class Patterns:
    """Hold p learned patterns, each a cluster of signatures and what was learned of its searches.

    `centroids` float32 (p, 4), whole numbers; `recall` and `cost` float64 (p, rungs), cost in index buffers;
    `samples` int64 (p,), replays behind the curves; `effort` float64 (p,), the position on the ladder to
    search with; `expected_recall` there; `confidence` float64 (p,) from 0 to 1, growing with samples;
    `usage` int64 (p,), how often a lookup met the pattern first.
    """

    centroids: Singles
    recall: Floats
    cost: Floats
    samples: Ints
    effort: Floats
    expected_recall: Floats
    confidence: Floats
    usage: Ints

    def __len__(self) -> int:
        return len(self.centroids)

    def take(self, rows: npt.ArrayLike) -> Patterns:
        """Return the patterns at `rows`, indices or a mask."""
        chosen = np.asarray(rows)
        return Patterns(*(getattr(self, name)[chosen] for name in _FIELDS))

    def joined(self, other: Patterns) -> Patterns:
        """Return these patterns followed by others."""
        return Patterns(*(np.concatenate([getattr(self, n), getattr(other, n)]) for n in _FIELDS))

    @classmethod
    def none(cls) -> Patterns:
        """Return no patterns."""
        curve, one = np.zeros((0, len(RUNGS))), np.zeros(0)
        count = np.zeros(0, dtype=np.int64)
        return cls(np.zeros((0, COMPONENTS), np.float32), curve, curve, count, one, one, one, count)


_FIELDS: Final = ("centroids", "recall", "cost", "samples", "effort", "expected_recall", "confidence", "usage")


def check(patterns: Patterns) -> None:
    """Refuse patterns that no search could use: UsageError says what is wrong with which."""
    count = len(patterns)
    shapes = {"centroids": (count, COMPONENTS), "recall": (count, len(RUNGS)), "cost": (count, len(RUNGS))}
    for name in _FIELDS:
        values = np.asarray(getattr(patterns, name), dtype=np.float64)
        if values.shape != shapes.get(name, (count,)):
            raise UsageError(f"Patterns with {name} of shape {values.shape}: {shapes.get(name, (count,))} is needed.")
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            raise UsageError(f"Pattern {bad[0][0]} has a {name} that is not a finite number.")
    limits = {"effort": HIGHEST, "expected_recall": 1.0, "confidence": 1.0, "recall": 1.0}
    for name, highest in limits.items():
        values = getattr(patterns, name)
        if ((values < 0) | (values > highest)).any():
            raise UsageError(f"Patterns with a {name} outside 0 to {highest:g}.")
    if (np.rint(patterns.centroids) != patterns.centroids).any() or (np.abs(patterns.centroids) > LIMIT).any():
        raise UsageError(f"Patterns whose centroids are not whole numbers between {-LIMIT:g} and {LIMIT:g}.")


class ReasoningBank:
    """Remember learned patterns and look them up by signature, through an hnswlib index.

    Squared distances of whole numbers this small are exact in float32, so a lookup orders patterns just as
    the database does. Equal distances are told apart by the pattern's number.
    """

    def __init__(self, patterns: Patterns | None = None, *, seed: int = 0) -> None:
        self.patterns = patterns if patterns is not None else Patterns.none()
        self._seed = seed
        check(self.patterns)
        self._build()

    def __len__(self) -> int:
        return len(self.patterns)

    def lookup(self, signatures: Singles, count: int = NEIGHBOURS) -> tuple[Ints, Floats]:
        """Find the nearest patterns of each signature (n, 4), nearest first.

        Returns pattern numbers int64 (n, m) and distances float64 (n, m), m being `count` or all there are.
        """
        count = min(count, len(self))
        if count == 0:
            empty = (len(signatures), 0)
            return np.zeros(empty, dtype=np.int64), np.zeros(empty)
        # A few more than asked for, so that ties at the end are settled by number and not by chance.
        wide = min(len(self), count + 13)
        self._index.set_ef(max(2 * wide, 64))
        labels, squared = self._index.knn_query(signatures, wide)
        order = np.lexsort((labels, squared), axis=1)[:, :count]
        numbers = np.take_along_axis(labels.astype(np.int64), order, axis=1)
        return numbers, np.sqrt(np.take_along_axis(squared, order, axis=1).astype(np.float64))

    def store(self, patterns: Patterns) -> Ints:
        """Add patterns and return their numbers, int64."""
        check(patterns)
        first = len(self)
        self.patterns = self.patterns.joined(patterns)
        numbers = np.arange(first, len(self), dtype=np.int64)
        if len(self) > self._index.get_max_elements():
            self._index.resize_index(2 * len(self))
        if len(patterns):
            self._index.add_items(patterns.centroids, numbers)
        return numbers

    def note_usage(self, numbers: npt.ArrayLike) -> None:
        """Count one more use of each of the patterns in `numbers`, repeats counting again."""
        usage = self.patterns.usage + np.bincount(np.asarray(numbers, dtype=np.int64), minlength=len(self))
        self.patterns = replace(self.patterns, usage=usage)

    def consolidate(self, radius: float) -> int:
        """Merge patterns closer than `radius` to a better supported one; return how many went.

        A merged pattern's curves are the means by samples of those it replaces, its effort the highest and
        its expected recall the lowest among them: a merge may cost work, never recall.
        """
        if len(self) < 2:
            return 0
        order = np.lexsort((np.arange(len(self)), -self.patterns.samples))
        centroids = self.patterns.centroids.astype(np.float64)
        owner = np.full(len(self), -1, dtype=np.int64)
        for number in order:  # patterns, not rows: a bank has hundreds
            if owner[number] < 0:
                near = np.linalg.norm(centroids - centroids[number], axis=1) <= radius
                owner[near & (owner < 0)] = number
        kept, group = np.unique(owner, return_inverse=True)
        merged = len(self) - len(kept)
        if merged == 0:
            return 0
        old = self.patterns
        weight = np.maximum(old.samples, 1).astype(np.float64)
        total = np.bincount(group, weights=weight)

        def mean(values: Floats) -> Floats:
            sums = np.zeros((len(kept), values.shape[1]))
            np.add.at(sums, group, values * weight[:, None])
            return sums / total[:, None]

        effort, expected = np.zeros(len(kept)), np.ones(len(kept))
        np.maximum.at(effort, group, old.effort)
        np.minimum.at(expected, group, old.expected_recall)
        samples = np.bincount(group, weights=old.samples).astype(np.int64)
        self.patterns = Patterns(
            np.rint(mean(old.centroids.astype(np.float64))).astype(np.float32),
            mean(old.recall), mean(old.cost), samples, effort, expected, support(samples),
            np.bincount(group, weights=old.usage).astype(np.int64),
        )  # fmt: skip
        self._build()
        return merged

    def prune(self, min_usage: int, min_confidence: float) -> int:
        """Drop patterns that are both hardly used and hardly supported; return how many went."""
        keep = (self.patterns.usage >= min_usage) | (self.patterns.confidence >= min_confidence)
        dropped = int((~keep).sum())
        if dropped:
            self.patterns = self.patterns.take(keep)
            self._build()
        return dropped

    def save(self, path: Path) -> None:
        """Write the bank to `path`, arrays in numpy's own format, replacing the file at once."""
        partial = path.with_name(path.name + ".part")
        arrays = {name: getattr(self.patterns, name) for name in _FIELDS}
        head = np.frombuffer(json.dumps({"format": _FORMAT, "rungs": RUNGS}).encode(), dtype=np.uint8)
        with partial.open("wb") as file:
            np.savez_compressed(file, head=head, **arrays)
        partial.replace(path)

    @classmethod
    def load(cls, path: Path, *, seed: int = 0) -> ReasoningBank:
        """Read a bank that `save` wrote; UsageError if the file is not one or is damaged."""
        try:
            with np.load(path, allow_pickle=False) as file:
                head = json.loads(file["head"].tobytes())
                arrays = [file[name] for name in _FIELDS]
        except FileNotFoundError as error:
            raise UsageError(f"There is no ReasoningBank at {path}.") from error
        except Exception as error:  # numpy, zipfile and json each raise their own
            raise UsageError(f"{path} is not a ReasoningBank, or is damaged ({error}).") from error
        if head.get("format") != _FORMAT or tuple(head.get("rungs", ())) != RUNGS:
            raise UsageError(f"{path} was written by another version of vectuned: export and import it instead.")
        return cls(Patterns(*arrays), seed=seed)

    def _build(self) -> None:
        self._index = hnswlib.Index(space="l2", dim=COMPONENTS)
        self._index.init_index(max(2 * len(self), _ROOM), M=16, ef_construction=200, random_seed=self._seed)
        self._index.set_num_threads(1)
        if len(self):
            self._index.add_items(self.patterns.centroids, np.arange(len(self)))


def support(samples: Ints) -> Floats:
    """Return the confidence, 0 to 1, that so many samples give: n / (n + 10)."""
    return samples / (samples + 10.0)

