"""The optimizer: from the signature of a search and a bank of patterns to search parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from vectuned.learning.model import ladder
from vectuned.learning.model.arrays import Floats, Ints

from .reasoning_bank import SOFTENING, ReasoningBank
from .signature import Signature

AccessPath = Literal["hnsw", "hnsw_adaptive", "ivfflat", "ivfflat_adaptive", "exact"]


@dataclass(frozen=True)
class SearchParams:
    """The parameters of one search, with the recall expected of them (None if unknown) and the reason."""

    access_path: AccessPath
    ef_search: int
    expected_recall: float | None
    confidence: float
    reason: str


@dataclass(frozen=True)
class Policy:
    """What searches of a class of k are served with.

    `fixed_ef` is the fixed setting, an ef_search or, for IVFFlat, a number of probes, through the index
    `index_no` (None: the index used until something was learned), whose `rungs` replays are measured at. With
    a `signature` and patterns in the bank each search looks up its effort, and uses the fixed setting if it
    is farther than `reach` from every pattern.

    `recall_bound` is the lower bound proven for the mean recall, and `tail_bound` the upper bound for the
    `tail`, the share of searches with a recall under 0.8; both None where no replay says anything about it.
    `asked_effort` is the setting that the mean of the replays asks for, without the margin of a proof; None
    where that is not known. If `exact`, exact search serves, and the fixed setting those that have no time
    for it.
    """

    k_class: int
    fixed_ef: int
    expected_recall: float
    recall_bound: float
    certified: bool
    samples: int
    target_recall: float
    reason: str
    signature: Signature | None = None
    reach: float = 0.0
    price: float = 0.0
    index_no: int | None = None
    method: Literal["hnsw", "ivfflat"] = "hnsw"
    rungs: tuple[int, ...] = ladder.RUNGS
    tail: float | None = None
    tail_bound: float | None = None
    asked_effort: int | None = None
    exact: bool = False

    @property
    def access_path(self) -> AccessPath:
        """Name the path: adaptive if there is a signature to look up patterns with."""
        if self.exact:
            return "exact"
        if self.method == "hnsw":
            return "hnsw" if self.signature is None else "hnsw_adaptive"
        return "ivfflat" if self.signature is None else "ivfflat_adaptive"

    @property
    def ef_search(self) -> int | None:
        """Return the fixed ef_search; None for IVFFlat."""
        return self.fixed_ef if self.method == "hnsw" else None

    @property
    def probes(self) -> int | None:
        """Return the fixed probes of IVFFlat; None for HNSW."""
        return self.fixed_ef if self.method == "ivfflat" else None

    @property
    def effort_name(self) -> str:
        """Name the parameter that `fixed_ef` sets."""
        return "ef_search" if self.method == "hnsw" else "probes"

    @property
    def setting(self) -> str:
        """Describe the fixed setting, as in "ef_search 40"."""
        return f"{self.effort_name} {self.fixed_ef}"

    @property
    def description(self) -> str:
        """Describe what serves, as in "ef_search 40" or "effort by query, or ef_search 40"."""
        if self.exact:
            return "exact search"
        return self.setting if self.signature is None else f"effort by query, or {self.setting}"

    @property
    def path_columns(self) -> dict[str, str | int | None]:
        """Return what serves, by the columns of the table vectuned.bank."""
        return {
            "access_path": self.access_path,
            "index_no": self.index_no,
            "ef_search": self.ef_search,
            "probes": self.probes,
        }


def raise_effort(policy: Policy, rungs: float) -> Policy:
    """Return the policy with its fixed setting raised by some rungs."""
    least = policy.k_class if policy.method == "hnsw" else 1
    position = ladder.position_of(policy.fixed_ef, policy.rungs) + rungs
    return replace(policy, fixed_ef=int(ladder.setting_at(position, least, policy.rungs)))


class SearchOptimizer:
    """Choose search parameters by the three nearest patterns, weighted by nearness.

    The database makes the same choice, to the last bit (sql/tuner/functions/search/choose_effort.sql and
    the function that vectuned.enable generates).
    """

    def __init__(self, bank: ReasoningBank, policy: Policy) -> None:
        self.bank = bank
        self.policy = policy

    def efforts(self, probes: Floats) -> tuple[Floats, Floats, Floats]:
        """Choose efforts for probes (n, probe_ef), distances in ascending order.

        Returns positions on the ladder, expected recall and confidence, float64 (n,) each; NaN where the
        probe is out of reach of every pattern, or incomplete (narrower than probe_ef, or not finite).
        """
        patterns = self.bank.patterns
        values = np.column_stack([patterns.effort, patterns.expected_recall, patterns.confidence])
        effort, expected, confidence = predict(values, self.bank, self.policy, probes).T
        return effort, expected, confidence

    def ef_search(self, probes: Floats, k: int) -> Ints:
        """Choose the ef_search for many probes at once, int64 (n,)."""
        return effort_to_setting(self.efforts(probes)[0], self.policy, k)

    def optimize(self, probe: Floats, k: int) -> SearchParams:
        """Choose the parameters of one search by the distances (probe_ef,) that its probe saw."""
        policy, reason = self.policy, self.policy.reason
        effort, expected, confidence = (float(values[0]) for values in self.efforts(probe[None, :]))
        ef = int(effort_to_setting(effort, policy, k))
        if np.isfinite(effort):
            return SearchParams(policy.access_path, ef, expected, confidence, reason)
        if policy.signature is not None:
            reason = "unlike anything learned: the fixed setting"
        return SearchParams(
            policy.method, ef, policy.expected_recall, 0.95 if policy.certified else 0.0, reason
        )


def predict(values: Floats, bank: ReasoningBank, policy: Policy, probes: Floats) -> Floats:
    """Predict values for searches from their probes, by interpolating between the nearest patterns.

    `values` (p, m) belong to the bank's patterns; `probes` (n, probe_ef). Returns (n, m), NaN where the fixed
    setting should serve: without signature or patterns, or for a probe that is incomplete or out of reach of
    every pattern.
    """
    signature = policy.signature
    predicted = np.full((len(probes), values.shape[1]), np.nan)
    if signature is not None and len(bank) and probes.shape[1] >= signature.probe_ef:
        distances_seen = probes[:, : signature.probe_ef]
        complete = np.isfinite(distances_seen).all(axis=1)
        numbers, distances = bank.lookup(signature.transform(distances_seen[complete]))
        predicted[complete] = blend(values, numbers, distances, policy.reach)
    return predicted


def blend(values: Floats, numbers: Ints, distances: Floats, reach: float) -> Floats:
    """Average the values of the nearest patterns, weighted by 1 / (distance + 8).

    `values` (p, m) belong to the patterns; `numbers` and `distances` (n, 3) come from a lookup. Returns
    (n, m), NaN where the nearest pattern is farther than `reach`. Sums are taken in order of nearness, as in
    the database, for the same rounding.
    """
    weight = 1.0 / (distances + SOFTENING)
    total, norm = weight[:, :1] * values[numbers[:, 0]], weight[:, :1]
    for place in range(1, numbers.shape[1]):
        total = total + weight[:, place : place + 1] * values[numbers[:, place]]
        norm = norm + weight[:, place : place + 1]
    return np.where(distances[:, :1] <= reach, total / norm, np.nan)


def effort_to_setting(effort: npt.ArrayLike, policy: Policy, k: int) -> Ints:
    """Turn efforts, NaN where unknown, into the ef_search or probes to search with, of the same shape."""
    wanted = np.asarray(effort, dtype=np.float64)
    known = np.isfinite(wanted)
    # An ef_search is at least k and at least that of the probe; IVFFlat searches the probed list again.
    least = k if policy.method == "hnsw" else 1
    probed = policy.signature.probe_ef if policy.signature is not None and policy.method == "hnsw" else 0
    fixed = min(max(policy.fixed_ef, least), policy.rungs[-1])
    chosen = np.where(known, ladder.setting_at(np.where(known, wanted, 0.0), least, policy.rungs), fixed)
    return np.maximum(chosen, probed).astype(np.int64)
