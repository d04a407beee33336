"""Tuning a column now, for an objective: replay what was recorded, choose its target, learn and publish."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vectuned.config.errors import VectunedError
from vectuned.learning.calibration import Candidate
from vectuned.learning.catalogue import Care, TunedIndex
from vectuned.learning.evidence import Replays, load
from vectuned.learning.ladder import at_efforts, effort
from vectuned.learning.learner import Lesson
from vectuned.learning.publication import read
from vectuned.learning.tuning import Objective, Price, choose, prices, together
from vectuned.sql.loader import queries

from .worker import Worker

Progress = Callable[[int], None]
Loaded = list[tuple[TunedIndex, Replays]]


@dataclass(frozen=True)
class Tuning:
    """Tune a column by up to `total` searches that wait to be replayed; report only, or `apply` as well."""

    worker: Worker
    care: Care
    objective: Objective
    apply: bool
    total: int

    @classmethod
    def prepare(
        cls, worker: Worker, care: Care, objective: Objective, sample_queries: int, *, apply: bool
    ) -> Tuning:
        """Bring what was recorded to where it is replayed from, and count it.

        Raises VectunedError if the column is disabled, or learning is while this is to be applied.
        """
        if not care.enabled:
            raise VectunedError(f"{care.column} was disabled: call vectuned.enable again, then tune it.")
        if apply and not worker.settings.learning.enabled:
            raise VectunedError(
                "Learning is switched off in the configuration (learning.enabled): nothing can be applied."
            )
        worker.drain()
        row = worker.conn.execute(queries()["count_pending"], {"column_id": care.column.id}).fetchone()
        return cls(worker, care, objective, apply, min(int(row[0]) if row else 0, sample_queries))

    def run(self, progress: Progress) -> dict[str, Any]:
        """Replay, choose, and where it is to be applied set the target, learn and publish in one transaction.

        Returns what was found and changed, as JSON can hold it. Replays are kept in any case: the daemon
        would have made them by and by.
        """
        worker, conn = self.worker, self.worker.conn
        replayed = worker.replay(self.care, self.total, progress) if self.total else 0
        care = worker.refresh(self.care)
        replays = [(index, load(conn, care, index)) for index in care.indexes]
        count = len(replays[0][1]) if replays else 0
        offered = prices(replays, care, worker.options) if count >= care.min_samples else []
        report: dict[str, Any] = {
            "relation": f"{care.column.schema}.{care.column.table}", "column": care.column.column,
            "optimize_for": self.objective, "applied": False, "replayed": replayed, "replays": count,
            "target": {"old": care.target_recall, "new": care.target_recall}, "version": None,
        }  # fmt: skip
        if not offered:
            return {
                **report,
                "summary": f"nothing changed: there are {count} replays of {care.column} as it is now; it "
                f"takes {care.min_samples} of a class of k (vectuned.enable's min_samples)",
            }
        chosen, why = choose(offered, self.objective)
        confidence = worker.options.confidence
        report |= {
            "target": {"old": care.target_recall, "new": chosen.target}, "why": why,
            "old": self._serving(care, replays, chosen), "new": _settings(chosen),
            "targets": [_priced(price) for price in offered], "confidence": confidence,
            "proofs": sum(price.proofs for price in offered),
            "confidence_of_all_proofs_together": round(together(offered, confidence), 4),
            "note": "decided by searches without a filter, fixed settings and milliseconds of replays; each "
            "proof holds with the confidence by itself",
        }  # fmt: skip
        if self.apply:
            lesson = self._apply(care, chosen, report)
            report |= {"applied": True, "version": lesson.version, "new": _served(lesson, chosen)}
        return {**report, "summary": _summary(report)}

    def _apply(self, care: Care, chosen: Price, report: dict[str, Any]) -> Lesson:
        conn, column = self.worker.conn, {"column_id": care.column.id}
        with conn.transaction():
            if chosen.target != care.target_recall:
                targets = {**column, "old": care.target_recall, "new": chosen.target}
                if conn.execute(queries()["set_target"], targets).rowcount != 1:
                    raise VectunedError(f"The target of {care.column} was changed meanwhile: tune it again.")
            lesson = self.worker.learn(care)
            if lesson.version is None:
                raise VectunedError(f"The replays of {care.column} were dropped meanwhile: tune it again.")
            details = {name: report[name] for name in ("optimize_for", "target", "why", "old")}
            details |= {"version": lesson.version, "new": _served(lesson, chosen)}
            event = {**column, "action": "auto_tune", "details": json.dumps(details)}
            conn.execute(queries()["insert_event"], event)
        return lesson

    def _serving(self, care: Care, replays: Loaded, chosen: Price) -> dict[str, Any]:
        """Say what serves each class of k until now, with what its replays say of the fixed setting."""
        bank = read(self.worker.conn, care)
        found = {}
        for k in chosen.settings:
            policy = bank[k][0] if k in bank else None
            number = None if policy is None else policy.index_no
            index, each = next(((i, r) for i, r in replays if i.number == number), replays[0])
            default = care.default_ef if index.method == "hnsw" else care.default_probes
            fixed = max(k, default) if policy is None and index.method == "hnsw" else default
            fixed = fixed if policy is None else policy.fixed_ef
            evidence = each.evidence(k)
            at = effort(np.array([fixed]), index.rungs)
            found[str(k)] = {
                "setting": _named(index.method, fixed), "index": index.name,
                "recall": round(float(at_efforts(evidence.recall, at).mean()), 4),
                "recall_at_least": None if policy is None else round(policy.recall_bound, 4),
                "proven": policy is not None and policy.certified,
                "ms": round(float(at_efforts(evidence.ms, at).mean()), 4),
            }  # fmt: skip
        return found


def _named(method: str, effort: int) -> str:
    return f"{'ef_search' if method == 'hnsw' else 'probes'} {effort}"


def _setting(candidate: Candidate, ms: float | None) -> dict[str, Any]:
    policy = candidate.policy
    return {
        "setting": _named(policy.method, policy.fixed_ef), "index_no": policy.index_no,
        "recall": round(policy.expected_recall, 4), "recall_at_least": round(policy.recall_bound, 4),
        "proven": policy.certified, "ms": None if ms is None else round(ms, 4),
    }  # fmt: skip


def _settings(price: Price) -> dict[str, Any]:
    return {str(k): _setting(candidate, candidate.ms) for k, candidate in price.settings.items()}


def _priced(price: Price) -> dict[str, Any]:
    return {
        "target": price.target, "proven": price.proven, "ms": round(price.ms, 4),
        "settings": {str(k): _named(c.policy.method, c.policy.fixed_ef) for k, c in price.settings.items()},
    }  # fmt: skip


def _served(lesson: Lesson, chosen: Price) -> dict[str, Any]:
    """Say what serves after the publish; the milliseconds are the replays' where it is what they priced."""
    found = {}
    for k, candidate in chosen.settings.items():
        served, priced = lesson.served[k], candidate.policy
        same = (served.policy.index_no, served.policy.fixed_ef) == (priced.index_no, priced.fixed_ef)
        own = Candidate(served.policy, candidate.patterns, candidate.cost, candidate.ms)
        found[str(k)] = {
            **_setting(own, candidate.ms if same else None),
            "access_path": served.policy.access_path, "saving": served.saving,
        }  # fmt: skip
    return found


def _summary(report: dict[str, Any]) -> str:
    old, new = report["target"]["old"], report["target"]["new"]
    kept = f"target {old:g} kept" if old == new else f"target {old:g} -> {new:g}"
    steps = "; ".join(
        f"k up to {k}: {report['old'][k]['setting']} -> {each['setting']}, recall {each['recall']:.3f}, "
        f"at least {each['recall_at_least']:.3f}, {report['old'][k]['ms']:.2f} -> "
        + ("unknown" if each["ms"] is None else f"{each['ms']:.2f}")
        + " ms"
        for k, each in report["new"].items()
    )
    done = f"version {report['version']} published" if report["applied"] else "nothing changed, as was asked"
    return f"{kept} ({report['why']}); {steps}; {done}"
