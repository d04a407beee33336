"""The ReasoningBank: learned patterns, looked up by signature."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

import hnswlib
import numpy as np
import numpy.typing as npt

from vectuned.config.atomic_file import replace_file
from vectuned.config.errors import UsageError
from vectuned.learning.model.arrays import Floats, Ints, Singles
from vectuned.learning.model.ladder import HIGHEST_POSITION, RUNGS

from .signature import COMPONENTS, GRID_LIMIT

NEIGHBOURS: Final = 3  # patterns that a lookup interpolates between
# Added to distances, in grid steps of signatures, before they are inverted to weights, so that no pattern
# takes all the weight.
SOFTENING: Final = 8.0
_FORMAT: Final = 2  # version of the layout of saved files
_HALF_CONFIDENCE: Final = 10.0  # replays that give a confidence of one half


@dataclass(frozen=True)
class Patterns:
    """Hold p learned patterns, each a cluster of signatures and what was learned about its searches.

    `centroids` float32 (p, 4), whole numbers; `recall` and `cost` float32 (p, rungs), cost in index buffers;
    `samples` int64 (p,), the number of replays behind the curves; `effort` float64 (p,), the position on the
    ladder to search with, and `expected_recall` there; `confidence` float64 (p,) from 0 to 1, growing with
    samples; `usage` float64 (p,), how many lookups found the pattern nearest, out of `chances`, all lookups
    since it was stored, older ones counting less (learning/patterns/lineage.py); `born` float64 (p,), when
    the pattern or the first one that it inherits from was published, in seconds since 1970, 0 before.
    """

    centroids: Singles
    recall: Singles
    cost: Singles
    samples: Ints
    effort: Floats
    expected_recall: Floats
    confidence: Floats
    usage: Floats
    chances: Floats
    born: Floats

    def __len__(self) -> int:
        return len(self.centroids)

    def take(self, rows: npt.ArrayLike) -> Patterns:
        """Return the patterns at `rows`, indices or a mask."""
        chosen = np.asarray(rows)
        return Patterns(*(getattr(self, name)[chosen] for name in _FIELDS))

    def concatenate(self, other: Patterns) -> Patterns:
        """Return these patterns followed by others."""
        return Patterns(*(np.concatenate([getattr(self, n), getattr(other, n)]) for n in _FIELDS))

    @classmethod
    def at_centroids(cls, centroids: Singles) -> Patterns:
        """Return new patterns of which only the centroids are known."""
        curve, one = np.zeros((len(centroids), len(RUNGS)), np.float32), np.zeros(len(centroids))
        count = np.zeros(len(centroids), dtype=np.int64)
        return cls(centroids, curve, curve, count, one, one, one, one, one, one)

    @classmethod
    def empty(cls) -> Patterns:
        """Return no patterns."""
        return cls.at_centroids(np.zeros((0, COMPONENTS), np.float32))


_FIELDS: Final = tuple(field.name for field in fields(Patterns))
_TYPES: Final = {name: getattr(Patterns.empty(), name).dtype for name in _FIELDS}


def check_patterns(patterns: Patterns) -> None:
    """Raise UsageError for patterns that no search could use, saying which and why."""
    count = len(patterns)
    shapes = {"centroids": (count, COMPONENTS), "recall": (count, len(RUNGS)), "cost": (count, len(RUNGS))}
    limits = {"effort": HIGHEST_POSITION, "expected_recall": 1.0, "confidence": 1.0, "recall": 1.0}
    for name in _FIELDS:
        values = np.asarray(getattr(patterns, name))
        if values.shape != shapes.get(name, (count,)):
            raise UsageError(
                f"Patterns with {name} of shape {values.shape}: {shapes.get(name, (count,))} is needed."
            )
        if values.dtype != _TYPES[name]:
            raise UsageError(f"Patterns with {name} of type {values.dtype}: {_TYPES[name]} is needed.")
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            raise UsageError(f"Pattern {bad[0][0]} has a {name} that is not a finite number.")
        if name != "centroids" and ((values < 0) | (values > limits.get(name, np.inf))).any():
            raise UsageError(f"Patterns with a {name} outside 0 to {limits.get(name, np.inf):g}.")
    if (np.rint(patterns.centroids) != patterns.centroids).any() or (
        np.abs(patterns.centroids) > GRID_LIMIT
    ).any():
        raise UsageError(
            f"Patterns whose centroids are not whole numbers between {-GRID_LIMIT:g} and {GRID_LIMIT:g}."
        )


class ReasoningBank:
    """Hold learned patterns and look them up by signature, through hnswlib.

    The index is hnswlib's exhaustive one. In four dimensions a lookup takes 1 microsecond among 64 patterns
    and 16 among 10,000, where the graph takes 6 and 12, and unlike the graph it never misses a pattern.
    Squared distances of whole numbers this small are exact in float32, and ties are broken by the pattern's
    number: a lookup orders patterns exactly as the database does.
    """

    def __init__(self, patterns: Patterns | None = None) -> None:
        self.patterns = patterns if patterns is not None else Patterns.empty()
        check_patterns(self.patterns)
        self._build()

    def __len__(self) -> int:
        return len(self.patterns)

    def lookup(self, signatures: Singles, count: int = NEIGHBOURS) -> tuple[Ints, Floats]:
        """Find the nearest patterns of each signature (n, 4), nearest first.

        Returns pattern numbers int64 (n, m) and distances float64 (n, m), m being `count` or all there are.
        """
        count = min(count, len(self))
        if count == 0 or len(signatures) == 0:
            empty = (len(signatures), count)
            return np.zeros(empty, dtype=np.int64), np.zeros(empty)
        labels, squared = self._index.knn_query(signatures, count)
        return labels.astype(np.int64), np.sqrt(squared.astype(np.float64))

    def store(self, patterns: Patterns) -> Ints:
        """Add patterns and return their numbers, int64."""
        check_patterns(patterns)
        first = len(self)
        self.patterns = self.patterns.concatenate(patterns)
        self._build()
        return np.arange(first, len(self), dtype=np.int64)

    def count_usage(self, numbers: npt.ArrayLike) -> None:
        """Count one lookup for each element of `numbers`, the pattern that the lookup found nearest.

        Each lookup counts as a chance for every pattern.
        """
        nearest = np.asarray(numbers, dtype=np.int64)
        old = self.patterns
        usage = old.usage + np.bincount(nearest, minlength=len(self))
        self.patterns = replace(old, usage=usage, chances=old.chances + len(nearest))

    def consolidate(self, radius: float) -> int:
        """Merge patterns closer than `radius` to one with more samples; return how many were merged away.

        A merged pattern has the mean curves of those it replaces, weighted by samples, until its curves are
        estimated again (learning/patterns/distillation.py). Its effort is the highest and its expected recall
        the lowest of them: a merge may cost work, never recall. It is as old as the oldest. Since the
        interpolation between patterns may change, consolidate before efforts are proven, not after.
        """
        if not radius >= 0:
            raise UsageError(
                f"Patterns cannot be merged within a radius of {radius}: give one of at least 0."
            )
        old = self.patterns
        centroids = old.centroids.astype(np.float64)
        owner = np.full(len(self), -1, dtype=np.int64)
        for number in np.argsort(-old.samples, kind="stable"):  # patterns, not rows: a bank has hundreds
            if owner[number] < 0:
                near = np.linalg.norm(centroids - centroids[number], axis=1) <= radius
                owner[near & (owner < 0)] = number
        owners, group = np.unique(owner, return_inverse=True)
        merged = len(self) - len(owners)
        if merged == 0:
            return 0
        weight = np.maximum(old.samples, 1).astype(np.float64)
        total = np.bincount(group, weights=weight)

        def mean(values: Singles) -> Singles:
            sums = np.zeros((len(owners), values.shape[1]))
            np.add.at(sums, group, values * weight[:, None])
            return (sums / total[:, None]).astype(np.float32)

        def gather(how: np.ufunc, values: Ints | Floats, start: float = 0.0) -> Any:
            result = np.full(len(owners), start, dtype=values.dtype)
            how.at(result, group, values)
            return result

        samples = gather(np.add, old.samples)
        born = gather(np.minimum, np.where(old.born > 0, old.born, np.inf), np.inf)
        self.patterns = Patterns(
            np.rint(mean(old.centroids)),
            np.minimum(mean(old.recall), np.float32(1)),
            mean(old.cost),
            samples,
            gather(np.maximum, old.effort),
            gather(np.minimum, old.expected_recall, 1.0),
            confidence_from_samples(samples),
            gather(np.add, old.usage),
            gather(np.maximum, old.chances),
            np.where(np.isfinite(born), born, 0.0),
        )
        self._build()
        return merged

    def prune(self, min_usage: float, min_confidence: float, chances: float = 0) -> int:
        """Delete patterns that are both hardly used and hardly supported; return how many were deleted.

        A pattern with fewer than `chances` lookups since it was stored stays: it is too new to be judged.
        """
        too_new = self.patterns.chances < chances
        keep = too_new | (self.patterns.usage >= min_usage) | (self.patterns.confidence >= min_confidence)
        dropped = int((~keep).sum())
        if dropped:
            self.patterns = self.patterns.take(keep)
            self._build()
        return dropped

    def save(self, path: Path) -> None:
        """Write the bank to `path` in numpy's .npz format, replacing the file atomically."""
        arrays = {name: getattr(self.patterns, name) for name in _FIELDS}
        head = json.dumps({"format": _FORMAT, "rungs": RUNGS})
        with replace_file(path) as file:
            np.savez_compressed(file, head=np.frombuffer(head.encode(), dtype=np.uint8), **arrays)

    @classmethod
    def load(cls, path: Path) -> ReasoningBank:
        """Read a bank that `save` wrote; UsageError if the file is not one or is damaged."""
        try:
            # Opened here because numpy leaves a damaged file open.
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                head = json.loads(file["head"].tobytes())
                version = (head["format"], tuple(head["rungs"]))
                if version == (_FORMAT, RUNGS):
                    arrays = [file[name] for name in _FIELDS]
        except FileNotFoundError as error:
            raise UsageError(f"There is no ReasoningBank at {path}.") from error
        except Exception as error:  # numpy, zipfile, zlib and json each raise their own
            raise UsageError(f"{path} is not a ReasoningBank, or is damaged ({error}).") from error
        if version != (_FORMAT, RUNGS):
            raise UsageError(f"{path} was written by another version of vectuned: learn again to replace it.")
        return cls(Patterns(*arrays))

    def _build(self) -> None:
        self._index = hnswlib.BFIndex(space="l2", dim=COMPONENTS)
        self._index.init_index(max(len(self), 1))
        self._index.set_num_threads(1)
        if len(self):
            self._index.add_items(self.patterns.centroids, np.arange(len(self)))


def confidence_from_samples(samples: Ints) -> Floats:
    """Return the confidence, from 0 to 1, that n samples give: n / (n + 10)."""
    return samples / (samples + _HALF_CONFIDENCE)
