"""Which index a column should have: candidates, which of them are tried further, and what they promise.

Candidates are built over growing samples of the rows, and most of them dropped after each (successive
halving; Jamieson & Talwalkar, 2016, "Non-stochastic best arm identification and hyperparameter
optimization"). What is seen at several sizes is carried on to all rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import numpy as np

from vectuned.learning.model.arrays import Floats, Ints
from vectuned.learning.model.column import VectorType
from vectuned.learning.model.ladder import RUNGS, interpolate, position_of, probe_rungs

Method = Literal["hnsw", "ivfflat"]
Form = Literal["plain", "halfvec", "bits"]

LEAST_ROWS: Final = 4000
GROWTH: Final = 3
WORTHWHILE_SHARE: Final = 0.9
"""A change is worth it where a search takes less than this share of what it takes now."""

_DIMENSIONS: Final[dict[str, int]] = {"vector": 2000, "halfvec": 4000, "bit": 64000}
_PAGE: Final = 8192
_CERTAIN: Final = 0.985


@dataclass(frozen=True)
class Definition:
    """What an index is built as: of HNSW `m` and `ef_construction`, of IVFFlat `lists`.

    The `lists` are those for all rows; a sample gets fewer, by the square root of the rows.
    """

    method: Method
    form: Form
    m: int = 0
    ef_construction: int = 0
    lists: int = 0

    def __str__(self) -> str:
        """Name it as people do."""
        return f"{self.method} {self.form} {self.options}"

    @property
    def options(self) -> str:
        """Return what stands in WITH (...)."""
        if self.method == "hnsw":
            return f"m = {self.m}, ef_construction = {self.ef_construction}"
        return f"lists = {self.lists}"

    @property
    def rungs(self) -> tuple[int, ...]:
        """Return the efforts that it is measured at: ef_search, or probes."""
        return RUNGS if self.method == "hnsw" else probe_rungs(self.lists)

    @property
    def effort_name(self) -> str:
        """Name what its effort is set by."""
        return "ef_search" if self.method == "hnsw" else "probes"

    def over(self, share: float) -> Definition:
        """Return what stands for it over a share of the rows."""
        if self.method == "hnsw":
            return self
        return replace(self, lists=max(1, round(self.lists * math.sqrt(min(share, 1.0)))))


@dataclass(frozen=True)
class Trial:
    """What one candidate showed over so many rows.

    `recall` float64 (rungs,), the mean over the queries at the rungs of the definition for all rows; `blocks`
    (rungs,), index buffers a search; `timed`, for some efforts those buffers and the time that a client
    waits, in units of a search through the current index done at the same time; `bytes` of the index, and
    `build_seconds`. `ms` (rungs,) in the same units, see `fit_times`.
    """

    definition: Definition
    rows: int
    recall: Floats
    blocks: Floats
    timed: tuple[tuple[float, float], ...]
    bytes: int
    build_seconds: float
    ms: Floats = field(default_factory=lambda: np.full(len(RUNGS), np.nan))

    @property
    def kind(self) -> tuple[Method, Form]:
        """Return what of an index decides what a buffer costs."""
        return self.definition.method, self.definition.form


@dataclass(frozen=True)
class Point:
    """An effort, and the recall and cost expected there."""

    effort: int
    recall: float
    blocks: float
    ms: float


@dataclass(frozen=True)
class Forecast:
    """What a candidate promises over all rows: as a `Trial`, with the number of sizes it is known from.

    `extrapolated`: none of these sizes was that of the table.
    """

    definition: Definition
    recall: Floats
    blocks: Floats
    ms: Floats
    bytes: int
    build_seconds: float
    sizes: tuple[int, ...]
    extrapolated: bool

    def at(self, chosen: int) -> Point:
        """Return what is expected at an effort."""
        place = position_of(np.array([chosen]), self.definition.rungs)
        recall, blocks, ms = (
            float(interpolate(curve[None], place)[0, 0]) for curve in (self.recall, self.blocks, self.ms)
        )
        return Point(chosen, recall, blocks, ms)

    def at_target(self, target: float, k: int) -> Point | None:
        """Return the smallest effort whose expected recall reaches the target, None if none does."""
        choices = self._choices(k)
        reached = interpolate(self.recall[None], position_of(choices, self.definition.rungs))[0] >= target
        return self.at(int(choices[np.argmax(reached)])) if reached.any() else None

    def _choices(self, k: int) -> Ints:
        rungs = self.definition.rungs
        least = max(rungs[0], k if self.definition.method == "hnsw" else 1)
        return np.unique(np.rint(np.geomspace(least, max(rungs[-1], least), 160)).astype(np.int64))


def initial_candidates(vector_type: VectorType, dimensions: int, rows: int) -> list[Definition]:
    """Return what is tried first: each form as everybody builds it, and IVFFlat of fewer and more lists."""
    forms = [form for form in _forms(vector_type) if indexable(form, vector_type, dimensions)]
    found = [Definition("hnsw", form, m=16, ef_construction=64) for form in forms]
    root = math.sqrt(max(rows, 1))
    smallest = [form for form in forms if form != "bits"][-1:]
    return found + [
        Definition("ivfflat", form, lists=max(1, round(root * times)))
        for form in smallest
        for times in (1, 3)
    ]


def refine(definition: Definition) -> list[Definition]:
    """Return what is tried of a form that did well: of HNSW a graph that is built with more care."""
    if definition.method == "ivfflat":
        return [replace(definition, lists=max(1, round(definition.lists * times))) for times in (0.5, 2)]
    return [
        replace(definition, m=m, ef_construction=breadth)
        for m, breadth in ((16, 200), (16, 400), (24, 200), (24, 400))
        if (m, breadth) != (definition.m, definition.ef_construction)
    ]


def _forms(vector_type: VectorType) -> tuple[Form, ...]:
    return ("bits", "plain", "halfvec") if vector_type == "vector" else ("bits", "plain")


def indexable(form: Form, vector_type: VectorType, dimensions: int) -> bool:
    """Say whether pgvector can index a form of vectors that wide."""
    kind = {"plain": vector_type, "halfvec": "halfvec", "bits": "bit"}[form]
    return dimensions <= _DIMENSIONS[kind]


def sample_sizes(sample_rows: int, rows: int) -> list[int]:
    """Return how many rows each round has, at most three times as many as the one before, ascending.

    What is to be carried on to more rows takes two sizes at least; small ones tell builds hardly apart.
    """
    last = max(1, min(sample_rows, rows))
    found = [last]
    while len(found) < 3 and found[0] // GROWTH >= LEAST_ROWS:
        found.insert(0, found[0] // GROWTH)
    if len(found) == 1 and last < rows:
        found.insert(0, max(1, last // GROWTH))
    return found


def keep_cheapest(costs: Sequence[tuple[Definition, float]], keep: int) -> list[Definition]:
    """Return the cheapest candidates.

    Those that do not reach the target have infinite costs, and survive only where nothing else does.
    """
    ranked = [definition for definition, _ in sorted(costs, key=lambda each: each[1])]
    finite = sum(math.isfinite(cost) for _, cost in costs)
    return ranked[: min(keep, max(finite, 1))]


def resample_on_rungs(definition: Definition, efforts: Sequence[int], curve: Floats) -> Floats:
    """Bring a curve (efforts,) of an index over fewer rows to the rungs of its definition for all rows.

    With as many probes as there are lists an IVFFlat index has found everything there is.
    """
    return np.interp(np.asarray(definition.rungs, dtype=np.float64), efforts, curve)


def forecast(trials: Sequence[Trial], rows: int, growth: float | None = None) -> Forecast:
    """Carry on what trials of one candidate showed to all rows.

    The effort that a recall takes is taken to grow by a power of the rows, `growth`, by default as it did
    between the last two sizes. Buffers and times at an effort are taken as they are over the most rows: HNSW
    was seen to fetch no more of a table of nine times as many. Bytes grow in proportion to the rows, and the
    time to build a little faster. A trial over all rows is taken as it is.
    """
    ordered = sorted(trials, key=lambda trial: trial.rows)
    last = ordered[-1]
    extrapolated = last.rows < rows
    recall = last.recall
    if extrapolated:
        power = estimate_growth(ordered) if growth is None else growth
        rungs = np.asarray(last.definition.rungs, dtype=np.float64)
        recall = np.interp(rungs / (rows / last.rows) ** (power or 0.0), rungs, last.recall)
    share = rows / last.rows
    return Forecast(
        last.definition,
        recall,
        last.blocks,
        last.ms,
        round(last.bytes * share),
        last.build_seconds * share**1.1,
        tuple(trial.rows for trial in ordered),
        extrapolated,
    )


def estimate_growth(trials: Sequence[Trial]) -> float | None:
    """Return the power of the rows by which the effort for a recall grew between the last two trials.

    The median over recalls of at least 0.7 that both reached; None where there is but one trial, or none
    such.
    """
    if len(trials) < 2 or trials[-2].rows == trials[-1].rows:
        return None
    few, many = trials[-2:]
    curves = [np.maximum.accumulate(trial.recall) for trial in (few, many)]
    low = max(0.7, *(float(curve[0]) for curve in curves))
    high = min(_CERTAIN, *(float(curve[-1]) for curve in curves))
    if low >= high:
        return None
    levels = np.linspace(low, high, 30)
    rungs = np.log(np.asarray(many.definition.rungs, dtype=np.float64))
    # Where a curve is flat the first of its rungs is meant: a hair of slope makes it so.
    before, after = (np.interp(levels, curve + 1e-9 * np.arange(len(curve)), rungs) for curve in curves)
    return float(np.clip(np.median(after - before) / math.log(many.rows / few.rows), 0.0, 1.0))


def growth_beyond(tried: Sequence[Trial], base: Sequence[Trial], real: Trial) -> float | None:
    """Guess the power of the rows by which the effort of a candidate grows from its last sample on.

    `base` are the trials of the current index, `real` that over the whole table, so that its growth is known.
    A candidate's is taken to be half that, and half what its own between samples suggests, by how much that
    of the current one was more beyond them. Another method grows as it does by itself.
    """
    known = estimate_growth([base[-1], real])
    own, usual = estimate_growth(tried), estimate_growth(base)
    if known is None or (own is not None and tried[-1].definition.method != base[-1].definition.method):
        return own
    if not own or not usual:
        return known
    return 0.5 * known + 0.5 * min(own * known / usual, 2.0 * known)


def fit_times(trials: Sequence[Trial]) -> list[Trial]:
    """Set the milliseconds of trials over as many rows by what was timed of all that are of one kind.

    A search takes a time to begin with and one for each buffer, which is a matter of the kind of index and
    not of how carefully it was built: a line through all that was timed, which tells builds apart by their
    buffers, free of noise.
    """
    kinds = {(trial.definition.method, trial.definition.form) for trial in trials}
    lines = {kind: _line([point for t in trials if t.kind == kind for point in t.timed]) for kind in kinds}
    return [replace(trial, ms=lines[trial.kind][0] + lines[trial.kind][1] * trial.blocks) for trial in trials]


def _line(timed: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return start and slope, neither below 0, of the line through points of buffers and milliseconds."""
    blocks, ms = np.array(timed, dtype=np.float64).T
    slope, start = 0.0, float(ms.mean())
    if np.ptp(blocks) > 0:
        slope, start = (float(x) for x in np.polyfit(blocks, ms, 1))
    if start < 0:
        return 0.0, float((blocks @ ms) / (blocks @ blocks))
    return (float(ms.mean()), 0.0) if slope < 0 else (start, slope)


def choose_best(forecasts: Iterable[Forecast], target: float, k: int) -> tuple[Forecast, Point] | None:
    """Return the forecast that reaches the target at least cost, and where; None if none reaches it."""
    reached = [(each, point) for each in forecasts if (point := each.at_target(target, k)) is not None]
    return min(reached, key=lambda pair: pair[1].ms, default=None)


def estimate_index_bytes(definition: Definition, rows: int, dimensions: int) -> int:
    """Estimate the size of an index, page by page as pgvector lays it out."""
    value = {"plain": 4 * dimensions, "halfvec": 2 * dimensions, "bits": dimensions // 8}[
        definition.form
    ] + 16
    if definition.method == "ivfflat":
        return _pages(rows, value + 8) + definition.lists * _PAGE
    # An element with its ten row pointers, and its neighbours: 2 m on the lowest level, m on those above.
    levels = 1.0 + 1.0 / max(definition.m - 1, 1)
    neighbours_bytes = 6 * definition.m * (1.0 + levels) + 8
    return _pages(rows, round(value + 80 + neighbours_bytes))


def estimate_build_bytes(definition: Definition, rows: int, dimensions: int) -> int:
    """Estimate what an index takes in memory while it is built."""
    value = {"plain": 4 * dimensions, "halfvec": 2 * dimensions, "bits": dimensions // 8}[definition.form]
    if definition.method == "ivfflat":
        return rows * (value + 32) // 4
    return rows * (value + 250 + 34 * definition.m)


def _pages(rows: int, entry: int) -> int:
    if entry >= _PAGE:
        return rows * (math.ceil(entry / _PAGE) * _PAGE)
    return math.ceil(rows / max(_PAGE // (entry + 4), 1)) * _PAGE


def estimate_build_seconds(
    built: Sequence[tuple[Definition, int, float]], definition: Definition, rows: int
) -> float:
    """Guess how many seconds a build takes by those before it."""

    def work(each: Definition) -> float:
        return each.ef_construction + 2.0 * each.m if each.method == "hnsw" else 30.0

    def grown(n: int) -> float:
        return math.pow(n, 1.1)

    if not built:
        return 0.0
    rates = [seconds / (grown(n) * work(each)) for each, n, seconds in built[-6:]]
    return float(np.median(rates) * grown(rows) * work(definition))
