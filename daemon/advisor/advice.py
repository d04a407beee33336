"""The values that the advisor takes and returns."""

from __future__ import annotations

from dataclasses import dataclass, field

from vectuned.learning.advisor import Definition, Forecast
from vectuned.learning.model.arrays import Singles


@dataclass(frozen=True)
class AdvisorOptions:
    """Queries, target and limits of a run.

    `vectors` float32 (n, d) are the queries, each for `k` rows. No build begins that would exceed
    `budget_seconds`. Candidates are tried on a copy of up to `sample_rows` rows, and with `on_table` at last
    on the table itself. `max_mb` limits the copy with an index over it, and the index that is applied.
    """

    vectors: Singles
    k: int
    target: float
    budget_seconds: float = 600.0
    sample_rows: int = 50_000
    on_table: bool = False
    max_mb: int | None = None
    seed: int = 0


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
    maintenance_work_mem: int


@dataclass
class Advice:
    """The result: the current index as measured over all rows, and the forecasts of the candidates.

    `reference_ms` is the median time of a search through the current index at `reference_effort`; forecasts
    give times as multiples of it. `sizes` are the rows of the samples. `skipped` gives the reason why a
    candidate was not tried; `dropped` the rows of the last sample on which one was tried, and its time over
    that of the current index, None where either misses the target. `memory` are server settings in bytes.
    """

    rows: int
    current: ExistingIndex
    now: Forecast
    reference_ms: float
    reference_effort: int
    forecasts: list[Forecast] = field(default_factory=list)
    skipped: dict[Definition, str] = field(default_factory=dict)
    dropped: dict[Definition, tuple[int, float | None]] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)
    winner: Forecast | None = None
    seconds: float = 0.0
    memory: dict[str, int] = field(default_factory=dict)
