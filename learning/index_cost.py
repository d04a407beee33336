"""What an index costs: its bytes, the memory that building it takes, and the seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from vectuned.learning.model.column import VectorType

from .advisor import Definition

_PAGE: Final = 8192  # bytes of a page of PostgreSQL
_SAMPLES_A_LIST: Final = 50  # vectors that pgvector draws for k-means, for each list
_LEAST_SAMPLES: Final = 10_000  # vectors that it draws at the least
_ELEMENT_BYTES: Final = 128  # of a row in a graph that is built in memory, beside its vector and neighbours
_CANDIDATE_BYTES: Final = 16  # of one neighbour in such a graph
_CHUNK_BYTES: Final = 8  # that the allocator adds to each of the parts of an element
_BUILD_POWER: Final = 1.1  # of the rows, by which the time of a build grows where nothing else is known
_POWERS: Final = (1.1, 1.3)  # bounds of the power that two builds show: few rows fit the processor's cache
_DISK_SLOWDOWN: Final = 5.5  # times longer that a row takes which is inserted after memory is full
_IVFFLAT_WORK: Final = 30.0  # of an IVFFlat build in units of ef_construction + 2 m, where none was measured
_RECENT: Final = 6  # builds of other kinds that an estimate rests on
_KMEANS_ROUNDS: Final = 10.0  # passes over the sample that k-means takes in effect


@dataclass(frozen=True)
class Build:
    """A build that was measured; `definition` with the lists that were built over `rows` rows."""

    definition: Definition
    rows: int
    seconds: float


def estimate_index_bytes(
    definition: Definition, rows: int, dimensions: int, vector_type: VectorType = "vector"
) -> int:
    """Estimate the bytes of an index from pgvector's layout of its pages."""
    value = _value_bytes(definition, dimensions, vector_type) + 16
    if definition.method == "ivfflat":
        return _pages(rows, value + 8) + definition.lists * _PAGE
    # An element has ten row pointers; its neighbours are 2 m on the lowest level and m on each level above.
    levels = 1.0 + 1.0 / max(definition.m - 1, 1)
    neighbours_bytes = 6 * definition.m * (1.0 + levels) + 8
    return _pages(rows, round(value + 80 + neighbours_bytes))


def estimate_build_bytes(
    definition: Definition, rows: int, dimensions: int, vector_type: VectorType = "vector"
) -> int:
    """Estimate the bytes of maintenance_work_mem that a build takes.

    An HNSW graph is built in memory as far as it fits. IVFFlat refuses to build unless its k-means fits:
    a distance of every sampled vector to every centre, some 200 x lists^2 bytes.
    """
    value = _value_bytes(definition, dimensions, vector_type) + 8
    if definition.method == "ivfflat":
        lists = definition.lists
        samples = max(_SAMPLES_A_LIST * lists, _LEAST_SAMPLES)
        vectors = (samples + 2 * lists) * (8 * math.ceil(value / 8))
        drawn = min(samples, rows)
        return vectors + 4 * drawn * (lists + 2) + 4 * lists * (lists + 3)
    m = definition.m
    neighbours = 16 + 2 * m * _CANDIDATE_BYTES + (16 + m * _CANDIDATE_BYTES) / max(m - 1, 1)
    return round(rows * (value + _ELEMENT_BYTES + neighbours + 4 * _CHUNK_BYTES))


def estimate_build_seconds(builds: Sequence[Build], definition: Definition, rows: int) -> float:
    """Estimate the seconds of a build that fits into memory, from earlier builds; 0 without any.

    Builds like it count alone, and two of these over different numbers of rows show how the time grows.
    Without any, the newest builds of other kinds are scaled by what an insert costs.
    """
    alike = [each for each in builds if _is_alike(each.definition, definition)]
    if alike:
        most = max(each.rows for each in alike)
        last = [each for each in alike if each.rows == most][-1]
        if definition.method == "hnsw":
            return last.seconds * math.pow(rows / last.rows, _growth_power(alike))
        return last.seconds * _kmeans_work(definition, rows) / _kmeans_work(last.definition, last.rows)
    if not builds:
        return 0.0
    rates = [
        each.seconds / (_insert_work(each.definition) * each.rows**_BUILD_POWER) for each in builds[-_RECENT:]
    ]
    return float(np.median(rates) * rows**_BUILD_POWER * _insert_work(definition))


def slow_down(definition: Definition, needed_bytes: int, memory_bytes: int) -> float:
    """Return how many times longer a build takes in the memory that it gets than in what it needs."""
    if definition.method == "ivfflat" or needed_bytes <= memory_bytes:
        return 1.0
    fitting = memory_bytes / needed_bytes
    return fitting + (1.0 - fitting) * _DISK_SLOWDOWN


def _value_bytes(definition: Definition, dimensions: int, vector_type: VectorType) -> int:
    plain = (4 if vector_type == "vector" else 2) * dimensions
    return {"plain": plain, "halfvec": 2 * dimensions, "bits": dimensions // 8}[definition.form]


def _is_alike(one: Definition, other: Definition) -> bool:
    """Say whether two builds differ only by the rows, and by the lists that these call for."""
    if one.method == other.method == "ivfflat":
        return one.form == other.form
    return one == other


def _insert_work(definition: Definition) -> float:
    """Return what a row costs, relative to rows of other indexes."""
    if definition.method == "ivfflat":
        return _IVFFLAT_WORK
    return definition.ef_construction + 2.0 * definition.m


def _kmeans_work(definition: Definition, rows: int) -> float:
    """Return the number of distances to centres that an IVFFlat build computes."""
    samples = max(_SAMPLES_A_LIST * definition.lists, _LEAST_SAMPLES)
    return definition.lists * (rows + _KMEANS_ROUNDS * min(samples, rows))


def _growth_power(builds: Sequence[Build]) -> float:
    few, many = min(builds, key=lambda each: each.rows), max(builds, key=lambda each: each.rows)
    if many.rows < 1.5 * few.rows or few.seconds <= 0:
        return _BUILD_POWER
    power = math.log(many.seconds / few.seconds) / math.log(many.rows / few.rows)
    return float(np.clip(power, *_POWERS))


def _pages(rows: int, entry: int) -> int:
    if entry >= _PAGE:
        return rows * (math.ceil(entry / _PAGE) * _PAGE)
    return math.ceil(rows / max(_PAGE // (entry + 4), 1)) * _PAGE
