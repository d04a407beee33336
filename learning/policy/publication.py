"""The publish: a column's bank is chosen and measured, and then replaced as a whole in one transaction."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from math import isfinite
from typing import Any

import psycopg

from vectuned.config.errors import VectunedError
from vectuned.learning.model.arrays import Singles
from vectuned.learning.model.events import notify, record_event
from vectuned.learning.model.tuned_columns import TunedColumn, lock_tuning
from vectuned.learning.patterns.optimizer import Policy
from vectuned.learning.replay.lock_watch import LockWaitError, give_way
from vectuned.learning.statistics.demand import Shortfall
from vectuned.sql.rows import execute, fetch_value

from .calibration import Candidate
from .choice import Offer, PublishRun, choose_candidate
from .filtering import MeasuredPath
from .statement_settings import publish_settings
from .storage import (
    delete_bank,
    delete_class,
    insert_class,
    insert_measured_paths,
    read_last_replay,
    read_next_version,
    set_target,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServedPolicy:
    """What a class of k is served with after a publish: its policy and the number of its patterns.

    `saving` is the measured one, None if none was measured; `shortfall` and `exact_ms` as of a Candidate.
    """

    policy: Policy
    patterns: int
    saving: float | None
    filtered: tuple[MeasuredPath, ...] = ()
    shortfall: Shortfall | None = None
    exact_ms: float | None = None

    @property
    def details(self) -> dict[str, Any]:
        """Return what an event says: with costs, where no setting of the index reaches the target."""
        told: dict[str, Any] = {**self.policy.path_columns, "saving": self.saving}
        if self.shortfall is not None:
            exact_ms = self.exact_ms if self.exact_ms is None or isfinite(self.exact_ms) else "over 10000"
            told["out_of_reach"] = {**asdict(self.shortfall), "exact_ms": exact_ms}
        return told


def publish(
    conn: psycopg.Connection[Any],
    tuned: TunedColumn,
    offers: dict[int, Offer],
    query_vectors: Singles,
    *,
    least_saving: float = 0.05,
    seed: int = 0,
    unchanged_classes: Collection[int] = (),
    former_target: float | None = None,
    max_ms: float | None = None,
) -> tuple[int, dict[int, ServedPolicy]]:
    """Replace a column's bank in one transaction and notify listeners; return its version and what serves.

    `offers` by class of k. Indexes, and an adaptive offer against the fixed one, are measured end to end by
    searching for `query_vectors` (n, d) through the column's own function, in transactions that are rolled
    back and end when another session waits for a lock of theirs. Adaptive effort steps aside unless it saves
    `least_saving`. Other sessions see the old bank until the commit, and other publishers wait for it. The
    classes in `unchanged_classes` stay as they are. With `former_target` the publish also changes the target
    of the column from it to that of `tuned`. Exact search serves only if it takes at most `max_ms`; None: no
    cap.

    Raises VectunedError if the column is no longer enabled, or no longer has that target.
    """
    served: dict[int, ServedPolicy] = {}
    column = {"column_id": tuned.column.id}
    run = PublishRun(
        conn,
        tuned,
        read_next_version(conn, tuned),
        query_vectors,
        seed,
        max_ms,
    )
    choices = {
        k: _measure_and_choose(run, k, offer, least_saving) for k, offer in offers.items() if offer.fixed
    }
    with conn.transaction():
        lock_tuning(conn)
        if not fetch_value(conn, "lock_column", column):
            raise VectunedError(f"{tuned.column} was disabled meanwhile: nothing is published for it.")
        if former_target is not None and not set_target(conn, tuned, former_target):
            raise VectunedError(f"The target of {tuned.column} was changed meanwhile: tune it again.")
        version, last_replay = read_next_version(conn, tuned), read_last_replay(conn, tuned)
        execute(conn, "refresh_statistics", column)
        delete_bank(conn, tuned, unchanged_classes)
        for k, offer in offers.items():
            policy = None
            if k in choices:
                chosen, saving = choices[k]
                policy = chosen.policy
                insert_class(conn, tuned, version, chosen, saving)
                served[k] = ServedPolicy(
                    policy, len(chosen.patterns), saving, offer.filtered, chosen.shortfall, chosen.exact_ms
                )
            insert_measured_paths(conn, tuned, k, offer.fixed, offer.filtered, policy)
        execute(conn, "delete_superseded_paths", column)
        publish_settings(conn, tuned.column.id)
        _announce(conn, tuned, version, last_replay, served)
    return version, served


def _measure_and_choose(
    run: PublishRun, k: int, offer: Offer, least_saving: float
) -> tuple[Candidate, float | None]:
    """Choose what serves a class of k, without measuring it if another session waits for a lock."""
    try:
        with run.conn.transaction(force_rollback=True), give_way(run.conn):
            delete_class(run.conn, run.tuned, k)
            return choose_candidate(run, offer, least_saving)
    except LockWaitError as error:
        log.info("what serves %s is not measured: %s", run.tuned.column, error, extra={"action": "gave_way"})
        return choose_candidate(replace(run, query_vectors=run.query_vectors[:0]), offer, least_saving)


def _announce(
    conn: psycopg.Connection[Any],
    tuned: TunedColumn,
    version: int,
    last_replay: int,
    served: dict[int, ServedPolicy],
) -> None:
    """Record the publish as an event and notify listeners."""
    details = {
        "version": version,
        "classes": {str(k): s.details for k, s in served.items()},
        "generations": tuned.generations,
        "target_recall": tuned.target_recall,
        "max_tail": tuned.max_tail,
        "last_replay": last_replay,
    }
    record_event(conn, tuned.column.id, "publish", details)
    notify(conn, tuned.column.id, "publish", version=version)
