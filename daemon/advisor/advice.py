"""The values that the advisor takes and returns."""

from __future__ import annotations

from dataclasses import dataclass, field

from vectuned.config.sections import IndexBuildSettings
from vectuned.learning.advisor import Definition, Forecast
from vectuned.learning.index_build import BuildPlan
from vectuned.learning.model.arrays import Singles


@dataclass(frozen=True)
class AdvisorOptions:
    """Queries, target and limits of a run.

    `vectors` float32 (n, d) are the queries, each for `k` rows. No build begins that would exceed
    `budget_seconds`. Candidates are tried on a copy of up to `sample_rows` rows, and of no more than
    `largest_share` of them, as the others are queries; with `on_table` at last on the table itself. `max_mb`
    limits the copy with an index over it, and the index that is applied; `memory_mb` the index that is
    advised. `note` says where queries and metric come from. With `mixed` only
    some vectors have the column's dimensions, so that they alone are indexed.
    """

    vectors: Singles
    k: int
    target: float
    budget_seconds: float = 600.0
    sample_rows: int = 50_000
    on_table: bool = False
    max_mb: int | None = None
    seed: int = 0
    largest_share: float = 1.0
    note: str = ""
    mixed: bool = False
    memory_mb: int | None = None
    build_limits: IndexBuildSettings = field(default_factory=IndexBuildSettings)


@dataclass(frozen=True)
class ExistingIndex:
    """An index over all rows of the column; `number` is None if vectuned does not know it.

    `marker` is the condition by which a statement selects the index, "true" if it has none.
    """

    definition: Definition
    schema: str
    name: str
    number: int | None
    marker: str
    bytes: int


@dataclass(frozen=True)
class TableFacts:
    """The table of the column, and the memory settings of its server in bytes.

    `storage` is pg_attribute.attstorage of the column.
    """

    rows: int
    partitioned: bool
    storage: str
    shared_buffers: int
    effective_cache_size: int


@dataclass
class Advice:
    """The result: the current index as measured over all rows, and the forecasts of the candidates.

    Without an index both are None, the reference is an exact search of a few rows, and `exact_ms` the time
    of one of all rows. `reference_ms` is the median time of a search through the current index at
    `reference_effort`; forecasts give times as multiples of it. `sizes` are the rows of the samples.
    `skipped` gives the reason why a
    candidate was not tried (further); `out_of_time` names those that only the time kept from it, and
    `missing_seconds` is what their builds would have taken. `plans` are the builds over all rows. `dropped`
    gives the rows of the last sample on which one was tried, and its time over that of the current index,
    None where either misses the target. `memory` are server settings in bytes.
    """

    rows: int
    current: ExistingIndex | None
    now: Forecast | None
    reference_ms: float
    reference_effort: int
    forecasts: list[Forecast] = field(default_factory=list)
    skipped: dict[Definition, str] = field(default_factory=dict)
    out_of_time: set[Definition] = field(default_factory=set)
    missing_seconds: float = 0.0
    plans: dict[Definition, BuildPlan] = field(default_factory=dict)
    dropped: dict[Definition, tuple[int, float | None]] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)
    winner: Forecast | None = None
    exact_ms: float | None = None
    seconds: float = 0.0
    memory: dict[str, int] = field(default_factory=dict)
