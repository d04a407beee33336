"""What one group of settings gives a statement."""

from __future__ import annotations

from dataclasses import dataclass

from vectuned.learning.model.scan_settings import Settings


@dataclass(frozen=True)
class PathOption:
    """What an access path, chosen by `settings`, gives the calls of a statement.

    `recall` is the mean over the calls, 0 counted for calls that nothing is known about, and `bound` likewise
    of the lower bounds; `ms` the mean of the calls that were measured. `proven` says whether it meets the
    demand in every selectivity bucket measured, and the target on the whole. `effort` is its ef_search or
    probes, None for paths without.
    """

    path: str
    settings: Settings
    recall: float
    bound: float
    ms: float
    proven: bool
    effort: int | None = None
