"""Which index a column should have: candidates, which of them to try further, and forecasts for all rows.

Candidates are built over samples of growing size, and after each size only the best go on (successive
halving; Jamieson & Talwalkar, 2016, "Non-stochastic best arm identification and hyperparameter
optimization"). What was measured at several sizes is extrapolated to all rows.
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

LEAST_ROWS: Final = 4000  # of a sample: over fewer, builds hardly differ
GROWTH: Final = 3  # times the rows of the sample before
WORTHWHILE_SHARE: Final = 0.9  # of the present time of a search: a change that leaves more is not worth it

# The largest vectors that pgvector can index, by type.
_DIMENSIONS: Final[dict[str, int]] = {"vector": 2000, "halfvec": 4000, "bit": 64000}
_TIME_POWERS: Final = (
    0.0,
    0.35,
)  # of the rows, by which the time at an effort grows: noise shows more at times
_HIGHEST_RECALL: Final = 0.985  # at which growth is measured: nearer to 1 a few queries decide the curve


@dataclass(frozen=True)
class Definition:
    """How an index is built: `m` and `ef_construction` for HNSW, `lists` for IVFFlat.

    `lists` is the number for all rows; over a sample it shrinks with the square root of the rows.
    """

    method: Method
    form: Form
    m: int = 0
    ef_construction: int = 0
    lists: int = 0

    def __str__(self) -> str:
        """Name the index for people, as in "hnsw halfvec m = 16, ef_construction = 64"."""
        return f"{self.method} {self.form} {self.options}"

    @property
    def options(self) -> str:
        """Return the storage parameters, as in WITH (...)."""
        if self.method == "hnsw":
            return f"m = {self.m}, ef_construction = {self.ef_construction}"
        return f"lists = {self.lists}"

    @property
    def rungs(self) -> tuple[int, ...]:
        """Return the settings that the index is measured at: ef_search, or probes."""
        return RUNGS if self.method == "hnsw" else probe_rungs(self.lists)

    @property
    def effort_name(self) -> str:
        """Name the parameter that sets the effort."""
        return "ef_search" if self.method == "hnsw" else "probes"

    def over(self, share: float) -> Definition:
        """Return the definition to build over a share of the rows."""
        if self.method == "hnsw":
            return self
        return replace(self, lists=max(1, round(self.lists * math.sqrt(min(share, 1.0)))))


@dataclass(frozen=True)
class Trial:
    """What one candidate was measured to give over a number of rows.

    `recall` float64 (rungs,), the mean over the queries at the rungs of the definition for all rows; `blocks`
    (rungs,), index buffers per search; `timed`, for some efforts, those buffers and the time that a client
    waits, relative to a search through the current index at the same time; `bytes` of the index and
    `build_seconds`; `ms` (rungs,) in the same unit as the times, see `fit_times`.
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
        """Return the properties of an index that decide what a buffer costs."""
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
    """What a candidate is forecast to give over all rows; figures as in `Trial`.

    `sizes` are the numbers of rows that it was measured over; `extrapolated` if none of them is all rows.
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
    """Return the first candidates: each form with pgvector's defaults, and IVFFlat with few or many lists."""
    forms = [form for form in _forms(vector_type) if indexable(form, vector_type, dimensions)]
    graphs = [Definition("hnsw", form, m=16, ef_construction=64) for form in forms]
    root = math.sqrt(max(rows, 1))
    smallest = [form for form in forms if form != "bits"][-1:]
    return graphs + [
        Definition("ivfflat", form, lists=max(1, round(root * times)))
        for form in smallest
        for times in (1, 3)
    ]


def refine(definition: Definition) -> list[Definition]:
    """Return variants of a definition that did well: denser HNSW graphs, or other numbers of lists."""
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
    """Say whether pgvector can index a form of vectors with so many dimensions."""
    kind = {"plain": vector_type, "halfvec": "halfvec", "bits": "bit"}[form]
    return dimensions <= _DIMENSIONS[kind]


def sample_sizes(sample_rows: int, rows: int) -> list[int]:
    """Return the numbers of rows of the rounds, ascending, each at most three times the one before.

    Extrapolation needs at least two sizes. Over small ones, builds hardly differ.
    """
    last = max(1, min(sample_rows, rows))
    sizes = [last]
    while len(sizes) < 3 and sizes[0] // GROWTH >= LEAST_ROWS:
        sizes.insert(0, sizes[0] // GROWTH)
    if len(sizes) == 1 and last < rows:
        sizes.insert(0, max(1, last // GROWTH))
    return sizes


def keep_cheapest(costs: Sequence[tuple[Definition, float]], keep: int) -> list[Definition]:
    """Return the cheapest candidates.

    Candidates that do not reach the target have infinite costs, and are kept only if no other is left.
    """
    ranked = [definition for definition, _ in sorted(costs, key=lambda each: each[1])]
    finite = sum(math.isfinite(cost) for _, cost in costs)
    return ranked[: min(keep, max(finite, 1))]


def resample_on_rungs(definition: Definition, efforts: Sequence[int], curve: Floats) -> Floats:
    """Interpolate a curve (efforts,) of an index over fewer rows at the rungs of its definition for all rows.

    Beyond the last effort the curve stays constant: with as many probes as lists, IVFFlat finds all rows.
    """
    return np.interp(np.asarray(definition.rungs, dtype=np.float64), efforts, curve)


def forecast(trials: Sequence[Trial], rows: int, growth: float | None = None) -> Forecast:
    """Extrapolate the trials of one candidate to all rows.

    The effort needed for a recall is assumed to grow by a power of the rows, `growth`, by default the power
    between the last two sizes. Buffers and times at an effort are assumed to be those over the most rows:
    HNSW was measured to fetch no more buffers in a table nine times as large. Bytes and the time of a build
    grow in proportion to the rows here; `index_cost` forecasts builds by more. A trial over all rows is not
    changed.
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
        last.build_seconds * share,
        tuple(trial.rows for trial in ordered),
        extrapolated,
    )


def estimate_growth(trials: Sequence[Trial]) -> float | None:
    """Return the power of the rows by which the effort for a recall grew between the last two trials.

    That is the median over recalls of at least 0.7 that both trials reached; None if there are none, or if
    there is only one trial.
    """
    if len(trials) < 2 or trials[-2].rows == trials[-1].rows:
        return None
    few, many = trials[-2:]
    curves = [np.maximum.accumulate(trial.recall) for trial in (few, many)]
    low = max(0.7, *(float(curve[0]) for curve in curves))
    high = min(_HIGHEST_RECALL, *(float(curve[-1]) for curve in curves))
    if low >= high:
        return None
    levels = np.linspace(low, high, 30)
    rungs = np.log(np.asarray(many.definition.rungs, dtype=np.float64))
    # Where a curve is flat the first of its rungs counts: a tiny slope makes interp choose it.
    before, after = (np.interp(levels, curve + 1e-9 * np.arange(len(curve)), rungs) for curve in curves)
    return float(np.clip(np.median(after - before) / math.log(many.rows / few.rows), 0.0, 1.0))


def time_growth(tried: Sequence[Trial], rows: int) -> float:
    """Return how many times longer a search at the same effort takes over all rows than over the last sample.

    The time grows by the power of the rows by which it grew between the last two samples, within limits: a
    larger index hits the processor's caches less. 1 with a single trial.
    """
    if len(tried) < 2 or tried[-2].rows == tried[-1].rows:
        return 1.0
    few, many = tried[-2:]
    grown = float(np.median(many.ms / few.ms))
    power = math.log(max(grown, 1e-9)) / math.log(many.rows / few.rows)
    return float((rows / many.rows) ** np.clip(power, *_TIME_POWERS))


def growth_beyond(tried: Sequence[Trial], base: Sequence[Trial], real: Trial) -> float | None:
    """Estimate the power of the rows by which the effort of a candidate grows beyond its last sample.

    `base` are the trials of the current index and `real` its trial over the whole table, so that its growth
    beyond the samples is known. Half of the estimate is that growth. The other half is the candidate's own
    growth between samples, scaled as that of the current index changed beyond them, and at most twice the
    known growth. For an index of another method, its own growth is the estimate.
    """
    known = estimate_growth([base[-1], real])
    own, usual = estimate_growth(tried), estimate_growth(base)
    if known is None or (own is not None and tried[-1].definition.method != base[-1].definition.method):
        return own
    if not own or not usual:
        return known
    return 0.5 * known + 0.5 * min(own * known / usual, 2.0 * known)


def fit_times(trials: Sequence[Trial]) -> list[Trial]:
    """Set the milliseconds of trials over the same rows, from the times of all trials of the same kind.

    A search takes a constant time and a time per buffer, which depend on the kind of index but not on how
    densely it was built. So a line is fitted through all times of a kind, and builds of a kind differ only by
    their buffers, which are free of noise.
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
    """Return the forecast that reaches the target at the least cost, with the point; None if none does."""
    reached = [(each, point) for each in forecasts if (point := each.at_target(target, k)) is not None]
    return min(reached, key=lambda pair: pair[1].ms, default=None)
