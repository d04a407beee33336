"""The optimizer: from a signature, a bank and a target to search parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from vectuned.learning.model import ladder
from vectuned.learning.model.arrays import Floats, Ints

from .reasoning_bank import SOFTENING, ReasoningBank
from .signature import Signature

AccessPath = Literal["hnsw", "hnsw_adaptive", "ivfflat", "ivfflat_adaptive"]


@dataclass(frozen=True)
class SearchParams:
    """What one search is to be done with."""

    access_path: AccessPath
    ef_search: int
    expected_recall: float | None
    confidence: float
    reason: str


@dataclass(frozen=True)
class Policy:
    """What searches of a class of k are served with.

    `fixed_ef` is the certified fixed setting, of IVFFlat its probes, for the index `index_no` (None: the one
    that searches until something was learned), measured at `rungs`; with a `signature` and patterns in the
    bank each search asks the bank, and falls back on the fixed setting farther than `reach` from every
    pattern. `recall_bound` says what is proven of the mean recall, `tail_bound` of the `tail`, the share of
    searches with a recall under 0.8; None where no replay says anything of it.
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

    @property
    def access_path(self) -> AccessPath:
        """Name the path: adaptive if there is a signature to ask the bank with."""
        if self.method == "hnsw":
            return "hnsw" if self.signature is None else "hnsw_adaptive"
        return "ivfflat" if self.signature is None else "ivfflat_adaptive"

    @property
    def ef_search(self) -> int | None:
        """Return the fixed ef_search; None of IVFFlat."""
        return self.fixed_ef if self.method == "hnsw" else None

    @property
    def probes(self) -> int | None:
        """Return the fixed probes of IVFFlat; None of HNSW."""
        return self.fixed_ef if self.method == "ivfflat" else None

    @property
    def effort_name(self) -> str:
        """Name what `fixed_ef` sets."""
        return "ef_search" if self.method == "hnsw" else "probes"

    @property
    def setting(self) -> str:
        """Say what the fixed setting is, as in "ef_search 40"."""
        return f"{self.effort_name} {self.fixed_ef}"

    @property
    def description(self) -> str:
        """Say what serves, as in "ef_search 40" or "effort by query, or ef_search 40"."""
        return self.setting if self.signature is None else f"effort by query, or {self.setting}"

    @property
    def path_columns(self) -> dict[str, str | int | None]:
        """Return what serves, as the columns of the bank name it."""
        return {
            "access_path": self.access_path,
            "index_no": self.index_no,
            "ef_search": self.ef_search,
            "probes": self.probes,
        }


def raise_effort(policy: Policy, rungs: float) -> Policy:
    """Return the policy with its fixed setting some rungs higher."""
    least = policy.k_class if policy.method == "hnsw" else 1
    position = ladder.position_of(policy.fixed_ef, policy.rungs) + rungs
    return replace(policy, fixed_ef=int(ladder.setting_at(position, least, policy.rungs)))


class SearchOptimizer:
    """Choose search parameters by the three nearest patterns, weighted by nearness.

    The database decides in the same way, to the last bit (sql/tuner/functions/search/choose_effort.sql and
    the function that vectuned.enable generates).
    """

    def __init__(self, bank: ReasoningBank, policy: Policy) -> None:
        self.bank = bank
        self.policy = policy

    def efforts(self, probes: Floats) -> tuple[Floats, Floats, Floats]:
        """Decide for probes (n, probe_ef), the distances in the order they came.

        Returns positions on the ladder, expected recall and confidence, float64 (n,) each; NaN where the
        probe resembles no pattern, or was cut short (narrower than probe_ef, or with values not finite).
        """
        patterns = self.bank.patterns
        values = np.column_stack([patterns.effort, patterns.expected_recall, patterns.confidence])
        effort, expected, confidence = predict(values, self.bank, self.policy, probes).T
        return effort, expected, confidence

    def ef_search(self, probes: Floats, k: int) -> Ints:
        """Decide for many probes at once: ef_search, int64 (n,)."""
        return effort_to_setting(self.efforts(probes)[0], self.policy, k)

    def optimize(self, probe: Floats, k: int) -> SearchParams:
        """Decide for one search by the distances (probe_ef,) that its probe saw."""
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
    """Interpolate what patterns say about searches by what their probes saw.

    `values` (p, m) of the bank's patterns; `probes` (n, probe_ef). Returns (n, m), NaN where the fixed
    setting is to serve: no signature, no patterns, a probe cut short, or one unlike every pattern.
    """
    way = policy.signature
    found = np.full((len(probes), values.shape[1]), np.nan)
    if way is not None and len(bank) and probes.shape[1] >= way.probe_ef:
        seen = probes[:, : way.probe_ef]
        whole = np.isfinite(seen).all(axis=1)
        numbers, distances = bank.lookup(way.transform(seen[whole]))
        found[whole] = blend(values, numbers, distances, policy.reach)
    return found


def blend(values: Floats, numbers: Ints, distances: Floats, reach: float) -> Floats:
    """Interpolate what patterns say, by 1 / (distance + 8).

    `values` (p, m) of the patterns; `numbers` and `distances` (n, 3) of a lookup. Returns (n, m), NaN where
    the nearest pattern is farther than `reach`. Added in order of nearness, as the database adds.
    """
    weight = 1.0 / (distances + SOFTENING)
    total, norm = weight[:, :1] * values[numbers[:, 0]], weight[:, :1]
    for place in range(1, numbers.shape[1]):
        total = total + weight[:, place : place + 1] * values[numbers[:, place]]
        norm = norm + weight[:, place : place + 1]
    return np.where(distances[:, :1] <= reach, total / norm, np.nan)


def effort_to_setting(effort: npt.ArrayLike, policy: Policy, k: int) -> Ints:
    """Turn efforts, NaN where unknown, into the ef_search or probes that are served, of the same shape."""
    wanted = np.asarray(effort, dtype=np.float64)
    known = np.isfinite(wanted)
    # An ef_search covers k rows and what its probe saw; the list that was probed is searched again.
    least = k if policy.method == "hnsw" else 1
    probed = policy.signature.probe_ef if policy.signature is not None and policy.method == "hnsw" else 0
    fixed = min(max(policy.fixed_ef, least), policy.rungs[-1])
    chosen = np.where(known, ladder.setting_at(np.where(known, wanted, 0.0), least, policy.rungs), fixed)
    return np.maximum(chosen, probed).astype(np.int64)
