"""Limits of the effort that serves: the owner's caps, and how far an unproven effort may move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# An unproven effort is at most this multiple of what serves: a wrong guess then costs at most twice the time.
MAX_RISE: Final = 2


@dataclass(frozen=True)
class EffortCaps:
    """The owner's caps, proven or not; None: no cap.

    `max_effort` is an ef_search or a number of probes, `max_ms` the mean milliseconds of a search by its
    replays. An ef_search is never capped below k, since a search could not return k rows, nor below the
    lowest one that is replayed.
    """

    max_effort: int | None = None
    max_ms: float | None = None

    def tighten(self, max_effort: int | None, max_ms: float | None) -> EffortCaps:
        """Return the lower cap of each kind."""
        efforts = [cap for cap in (self.max_effort, max_effort) if cap]
        times = [cap for cap in (self.max_ms, max_ms) if cap]
        return EffortCaps(min(efforts, default=None), min(times, default=None))

    def cap(self, effort: int, least: int) -> int:
        """Return an effort, capped by `max_effort`, but at least `least`."""
        return effort if self.max_effort is None else max(min(effort, self.max_effort), least)

    def __str__(self) -> str:
        caps = {"max_effort": self.max_effort, "max_ms": self.max_ms}
        return " and ".join(f"{name} {cap:g}" for name, cap in caps.items() if cap is not None)


NO_CAPS: Final = EffortCaps()


@dataclass(frozen=True)
class EffortLimits:
    """The limits of the effort of a class of k through an index.

    `serving` is the effort that serves the class now and `default` the one that serves until something has
    been learned; both None where nothing is served yet, as in an experiment.
    """

    serving: int | None = None
    default: int | None = None
    caps: EffortCaps = NO_CAPS

    def limit_unproven(self, effort: int, least: int) -> int:
        """Return the effort to serve without a proof where the replays' own mean asks for `effort`.

        It rises to at most twice of what serves, and never falls below both the default and what serves.
        """
        if self.serving is not None:
            floor = self.serving if self.default is None else min(self.serving, self.default)
            effort = min(max(effort, floor), max(MAX_RISE * self.serving, least))
        return self.caps.cap(effort, least)


NO_LIMITS: Final = EffortLimits()
