"""The one group of settings that serves the statements of a role or database best.

A group only ever raises what is in force: a higher ef_search, more probes or tuples, or iterative scans find
no fewer of the true neighbours, so what is proven with less holds, and no statement loses recall. It may cost
time, and statements that were good enough before pay for those that were not; there is a bound to that, and
another to what a statement pays for its own recall.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Final

from vectuned.learning.model.scan_settings import Settings
from vectuned.learning.policy.path_option import PathOption
from vectuned.learning.policy.statement_settings import Statement

# The settings that a whole role can live with. Those of the planner would change every other statement.
ADOPTABLE: Final = (
    "hnsw.ef_search",
    "hnsw.iterative_scan",
    "hnsw.max_scan_tuples",
    "hnsw.scan_mem_multiplier",
    "ivfflat.iterative_scan",
    "ivfflat.max_probes",
    "ivfflat.probes",
)
MOST_SLOWDOWN: Final = 2.0  # times that a statement at its target may take of what it takes now
# A scan that comes out short ends soon: on 117,659 rows
# one that went on until it found its rows took 15 times as long. Much more is for a person to decide.
DEFAULT_MAX_SLOWDOWN: Final = 50.0  # times that a statement below its target may take of now
_RECALL_DIGITS: Final = 2  # of unproven recall: less than a hundredth more is not worth more time
_SCAN_RANKS: Final = {"off": 0.0, "strict_order": 1.0, "relaxed_order": 1.0}


@dataclass(frozen=True)
class Outlook:
    """What a statement gets under a group of settings; None where nothing was measured.

    `proven`: it is proven to meet its target, `by` the cheapest measured path that says so. `ms` is an upper
    estimate where the group asks for more than was measured.
    """

    recall: float | None
    ms: float | None
    proven: bool
    by: PathOption | None = None


@dataclass(frozen=True)
class StatementOutlook:
    """A statement as it is now, and under the proposal."""

    statement: Statement
    now: Outlook
    then: Outlook

    @property
    def slowdown(self) -> float:
        """Return how many times as long as now it would take; 1 if one of the two was not measured."""
        return self.then.ms / self.now.ms if self.now.ms and self.then.ms else 1.0

    @property
    def gets_worse(self) -> bool:
        """Say whether a statement that meets its target now would be slowed beyond the bound."""
        return self.now.proven and self.slowdown > MOST_SLOWDOWN

    @property
    def shortfall(self) -> float:
        """Return by how much the measured recall misses the target; 0 if it is proven, all if unknown."""
        missing = self.statement.target_recall - (self.then.recall or 0.0)
        return 0.0 if self.then.proven else max(missing, 0.0)

    @property
    def is_unproven(self) -> bool:
        """Say whether the measured recall reaches the target without proving it."""
        return not self.then.proven and self.shortfall == 0.0

    @property
    def other_means(self) -> str:
        """Say how a statement that settings of a role do not bring to its target can be brought there."""
        if self.then.proven:
            return ""
        if self.is_unproven:
            return "its replayed calls reach the target, but do not prove it: record more, and learn again"
        if any(_adoptable(option) for option in self.statement.proven):
            return (
                "settings are proven that would slow it, or another, too much for a whole role: the one line "
                "in Python, vectuned.client.tune, sends them with this statement alone"
            )
        if self.statement.proven:
            return (
                "exact search through the filter's index is proven: the one line in Python, "
                "vectuned.client.tune, chooses it for this statement alone, as does vectuned.search"
            )
        if not self.statement.options:
            return "nothing is measured yet: it takes more calls, and `vectuned learn --once`"
        return "no setting is proven to reach it: see `vectuned advise` for another index"


@dataclass(frozen=True)
class Proposal:
    """The settings to change, and what every statement gets; `refused` would have gained more.

    `changes` are the new values by name, empty where nothing better was found. `refused` holds the statements
    that kept a group from being proposed, because it would have made them worse. `slower` is what would be
    proposed if statements that are not at their target might take longer; None if that gains nothing.
    """

    changes: Settings
    statements: tuple[StatementOutlook, ...]
    refused: tuple[StatementOutlook, ...] = ()
    slower: Proposal | None = None

    @property
    def slowdown(self) -> float:
        """Return how many times as long as now a statement takes at most."""
        return max((outlook.slowdown for outlook in self.statements), default=1.0)


def propose(
    statements: Sequence[Statement], in_force: Settings, max_slowdown: float = DEFAULT_MAX_SLOWDOWN
) -> Proposal:
    """Choose the group that is proven to bring most calls to their target, and of those the cheapest.

    Of calls without a proof the measured recall decides before the time, to a hundredth.

    in_force: the values that sessions have now. max_slowdown: how many times as long as now a statement that
    is not at its target may take.
    """
    best, best_rank = Proposal({}, tuple(_outlooks(statements, in_force, in_force))), None
    refused: tuple[StatementOutlook, ...] = ()
    slower: Proposal | None = None
    refused_rank = slower_rank = None
    for group in _groups(statements, in_force):
        outlooks = tuple(_outlooks(statements, in_force, group))
        changes = {name: value for name, value in group.items() if in_force.get(name) != value}
        rank = _rank(outlooks, changes)
        worse = tuple(outlook for outlook in outlooks if outlook.gets_worse)
        too_slow = any(o.slowdown > max_slowdown for o in outlooks if not o.now.proven)
        if worse:
            if not too_slow and (refused_rank is None or rank < refused_rank):
                refused, refused_rank = worse, rank
        elif too_slow:
            if slower_rank is None or rank < slower_rank:
                slower, slower_rank = Proposal(changes, outlooks), rank
        elif best_rank is None or rank < best_rank:
            best, best_rank = Proposal(changes, outlooks), rank

    def gains_more(other: tuple[float, ...] | None) -> bool:
        return other is not None and (best_rank is None or other[:2] < best_rank[:2])

    return replace(
        best,
        refused=refused if gains_more(refused_rank) else (),
        slower=slower if gains_more(slower_rank) else None,
    )


def _rank(outlooks: Sequence[StatementOutlook], changes: Settings) -> tuple[float, float, float, int]:
    """Order groups: calls not proven to reach their target, recall missing, time, number of changes."""
    weights = [max(o.statement.calls, 1) for o in outlooks]
    missed = sum(weight for weight, o in zip(weights, outlooks, strict=True) if not o.then.proven)
    missing = sum(weight * o.shortfall for weight, o in zip(weights, outlooks, strict=True))
    ms = sum(weight * (o.then.ms or 0.0) for weight, o in zip(weights, outlooks, strict=True))
    return missed, round(missing / max(sum(weights), 1), _RECALL_DIGITS), ms, len(changes)


def _groups(statements: Iterable[Statement], in_force: Settings) -> Iterator[Settings]:
    """Yield every group of values that some measured path asks for, raised to what is in force."""
    values = {name: [value] for name, value in in_force.items()}
    for statement in statements:
        for option in statement.options:
            if _adoptable(option):
                for name, value in option.settings.items():
                    known = values.get(name, [])  # none: the server's pgvector does not have it
                    if known and value not in known and _grade(name, value) > _grade(name, known[0]):
                        known.append(value)
    names = sorted(values)
    for group in product(*(values[name] for name in names)):
        yield dict(zip(names, group, strict=True))


def _outlooks(
    statements: Iterable[Statement], in_force: Settings, group: Settings
) -> Iterator[StatementOutlook]:
    for statement in statements:
        yield StatementOutlook(statement, _outlook(statement, in_force), _outlook(statement, group))


def _outlook(statement: Statement, group: Settings) -> Outlook:
    """Estimate what a statement gets under a group, from the measured paths that ask for no more."""
    covered = [
        option for option in statement.options if _adoptable(option) and _covers(group, option.settings)
    ]
    if not covered:
        return Outlook(None, None, False)
    nearest = max(covered, key=lambda option: _effort(option.settings))
    extra = max(1.0, _effort(group) / _effort(nearest.settings)) if _effort(nearest.settings) else 1.0
    return Outlook(
        max(option.recall for option in covered),
        nearest.ms * extra,
        any(option.proven for option in covered),
        min((option for option in covered if option.proven), key=lambda option: option.ms, default=None),
    )


def _adoptable(option: PathOption) -> bool:
    return all(name in ADOPTABLE for name in option.settings)


def _covers(group: Settings, needed: Settings) -> bool:
    return all(
        name in group and _grade(name, group[name]) >= _grade(name, value) for name, value in needed.items()
    )


def _effort(settings: Mapping[str, str]) -> float:
    """Return what the time of a scan grows with at most proportionally."""
    return float(settings.get("hnsw.ef_search") or settings.get("ivfflat.probes") or 0)


def _grade(name: str, value: str) -> float:
    """Return how much a value makes a search do, comparable for the same setting."""
    return _SCAN_RANKS.get(value, 0.0) if name.endswith("iterative_scan") else float(value)
