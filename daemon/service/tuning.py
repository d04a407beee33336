"""Tune a column now for an objective: replay its recorded searches, choose its target, learn and publish."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vectuned.config.errors import VectunedError
from vectuned.daemon.work.worker import Worker
from vectuned.learning.model.events import record_event
from vectuned.learning.model.ladder import interpolate, position_of
from vectuned.learning.model.tuned_columns import TunedColumn, TunedIndex
from vectuned.learning.policy.replays import Replays, load_replays
from vectuned.learning.policy.storage import read_bank
from vectuned.learning.policy.tuning import (
    Objective,
    TargetPrice,
    choose_target,
    joint_confidence,
    price_targets,
)

Progress = Callable[[int], None]
Loaded = list[tuple[TunedIndex, Replays]]


@dataclass(frozen=True)
class Tuning:
    """Tune a column with up to `total` waiting searches; only report, or `apply` as well."""

    worker: Worker
    tuned: TunedColumn
    objective: Objective
    apply: bool
    total: int

    @classmethod
    def prepare(
        cls, worker: Worker, tuned: TunedColumn, objective: Objective, sample_queries: int, *, apply: bool
    ) -> Tuning:
        """Drain the recorded searches and count those that wait.

        Raises VectunedError if the column is disabled, or if `apply` is set while learning is off.
        """
        if not tuned.enabled:
            raise VectunedError(f"{tuned.column} was disabled: call vectuned.enable again, then tune it.")
        if apply and not worker.settings.learning.enabled:
            raise VectunedError(
                "Learning is switched off in the configuration (learning.enabled): nothing can be applied."
            )
        worker.drain()
        return cls(worker, tuned, objective, apply, min(worker.count_waiting(tuned), sample_queries))

    def run(self, progress: Progress) -> dict[str, Any]:
        """Replay and choose; with `apply` learn, and publish with that target in one transaction.

        Returns a report on what was measured and changed, serialisable as JSON. The replays stay in any case,
        since the daemon would make them later.
        """
        worker, conn = self.worker, self.worker.conn
        replayed = worker.replay(self.tuned, self.total, progress) if self.total else 0
        tuned = worker.refresh(self.tuned)
        replays = [(index, load_replays(conn, tuned, index)) for index in tuned.indexes]
        count = len(replays[0][1]) if tuned.main is not None else 0
        offered = price_targets(replays, tuned, worker.options) if count >= tuned.min_samples else []
        report: dict[str, Any] = {
            "relation": f"{tuned.column.schema}.{tuned.column.table}",
            "column": tuned.column.name,
            "optimize_for": self.objective,
            "applied": False,
            "replayed": replayed,
            "replays": count,
            "target": {"old": tuned.target_recall, "new": tuned.target_recall},
            "version": None,
        }
        if tuned.main is None:
            return {
                **report,
                "summary": f"nothing changed: {tuned.column} has no index over all rows, so searches without "
                "a filter are exact, and there is no target to choose for them",
            }
        if not offered:
            return {
                **report,
                "summary": f"nothing changed: there are {count} replays of {tuned.column} as it is now; it "
                f"takes {tuned.min_samples} of a class of k (vectuned.enable's min_samples)",
            }
        chosen, why = choose_target(offered, self.objective)
        confidence = worker.options.confidence
        report |= {
            "target": {"old": tuned.target_recall, "new": chosen.target},
            "why": why,
            "old": self._serving(tuned, replays, chosen.settings),
            "new": _settings(chosen, tuned),
            "targets": [_describe_price(price) for price in offered],
            "confidence": confidence,
            "proofs": sum(price.proofs for price in offered),
            "confidence_of_all_proofs_together": round(joint_confidence(offered, confidence), 4),
            "note": "decided by searches without a filter, fixed settings and milliseconds of replays; each "
            "proof holds with the confidence by itself",
        }
        if self.apply:
            report |= self._apply(tuned, replays, chosen, report)
        return {**report, "summary": _summary(report)}

    def _apply(
        self, tuned: TunedColumn, replays: Loaded, chosen: TargetPrice, report: dict[str, Any]
    ) -> dict[str, Any]:
        """Learn, publish with the target and record the event; return the changed parts of the report."""
        conn = self.worker.conn
        result = self.worker.learn(tuned, chosen.target)
        if result.version is None:
            raise VectunedError(f"The replays of {tuned.column} were dropped meanwhile: tune it again.")
        now = self._serving(tuned, replays, chosen.settings)
        changed = {"applied": True, "version": result.version, "new": now}
        details = {name: report[name] for name in ("optimize_for", "target", "why", "old")} | changed
        record_event(conn, tuned.column.id, "auto_tune", details)
        return changed

    def _serving(self, tuned: TunedColumn, replays: Loaded, classes: Iterable[int]) -> dict[str, Any]:
        """Describe what serves each class of k now, with recall and time of its replays at that setting."""
        bank = read_bank(self.worker.conn, tuned)
        serving = {}
        for k in classes:
            policy = bank[k][0] if k in bank else None
            number = None if policy is None else policy.index_no
            index, each = next(((i, r) for i, r in replays if i.number == number), replays[0])
            default = tuned.default_effort(index, k)
            fixed, sample = default if policy is None else policy.fixed_ef, each.sample(k)
            at = position_of(np.array([fixed]), index.rungs)
            setting = f"{index.effort_name} {default}" if policy is None else policy.description
            serving[str(k)] = {
                "setting": setting,
                "index": index.name,
                "recall": round(float(interpolate(sample.recall, at).mean()), 4),
                "recall_at_least": None if policy is None else round(policy.recall_bound, 4),
                "proven": policy is not None and policy.certified,
                "ms": round(float(interpolate(sample.ms, at).mean()), 4),
            }
        return serving


def _settings(price: TargetPrice, tuned: TunedColumn) -> dict[str, Any]:
    """Describe the settings that would serve a target, before any margin."""
    names = {index.number: index.name for index in tuned.indexes}
    return {
        str(k): {
            "setting": candidate.policy.setting,
            "index": names.get(candidate.policy.index_no or 0),
            "recall": round(candidate.policy.expected_recall, 4),
            "recall_at_least": round(candidate.policy.recall_bound, 4),
            "proven": candidate.policy.certified,
            "ms": round(candidate.ms, 4),
        }
        for k, candidate in price.settings.items()
    }


def _describe_price(price: TargetPrice) -> dict[str, Any]:
    return {
        "target": price.target,
        "proven": price.proven,
        "ms": round(price.ms, 4),
        "settings": {str(k): candidate.policy.setting for k, candidate in price.settings.items()},
    }


def _summary(report: dict[str, Any]) -> str:
    old, new = report["target"]["old"], report["target"]["new"]
    target = f"target {old:g} kept" if old == new else f"target {old:g} -> {new:g}"
    steps = "; ".join(
        f"k up to {k}: {report['old'][k]['setting']} -> {each['setting']}, recall {each['recall']:.3f}, "
        f"at least {each['recall_at_least']:.3f}, {report['old'][k]['ms']:.2f} -> {each['ms']:.2f} ms"
        for k, each in report["new"].items()
    )
    done = f"version {report['version']} published" if report["applied"] else "nothing changed, as requested"
    return f"{target} ({report['why']}); {steps}; {done}"
