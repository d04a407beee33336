"""The daemon's work on one database: drain, replay, judge, learn, export. Each step may be repeated."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql

from vectuned.config.errors import VectunedError
from vectuned.config.settings import Settings
from vectuned.config.wording import counted
from vectuned.daemon.check.watching import watch_health
from vectuned.daemon.database.standby import Standby, StandbyUnreadyError
from vectuned.daemon.pacing.giving_way import GivingWay
from vectuned.daemon.pacing.pace import Pace
from vectuned.daemon.pacing.pass_size import PassSize
from vectuned.daemon.pacing.refresh_plan import RefreshPlan
from vectuned.learning.exchange import (
    check_import_folder,
    export_column,
    import_newest_documents,
    prepare_export_folder,
)
from vectuned.learning.model.events import record_event
from vectuned.learning.model.trajectory import Trajectories, claim_pending, drain, release_pending
from vectuned.learning.model.tuned_columns import TunedColumn, lock_tuning, read_tuned_columns
from vectuned.learning.oversight.adoptions import check_adoptions
from vectuned.learning.oversight.alarms import OversightLimits
from vectuned.learning.oversight.fallback import end_alert
from vectuned.learning.oversight.judging import judge_searches, update_margins
from vectuned.learning.oversight.promises import check_promises
from vectuned.learning.oversight.table_changes import (
    REPLAYS_AFTER_CHANGE,
    REPLAYS_OF_NEW_INDEX,
    detect_table_change,
)
from vectuned.learning.policy.learner import LearningOptions, LearningResult, learn
from vectuned.learning.policy.limits import NO_CAPS, EffortCaps
from vectuned.learning.policy.statement_settings import publish_settings
from vectuned.learning.replay.lock_watch import LockWaitError
from vectuned.learning.replay.replay import replay
from vectuned.learning.replay.text_calls import count_pending_texts, replay_texts
from vectuned.learning.replay.work_timer import WorkTimer

from . import storage
from .backlog_report import report_backlog
from .column_jobs import ColumnJobs

log = logging.getLogger(__name__)

Progress = Callable[[int], None]
_TEXT_BATCH: Final = 20  # calls replayed as text between two looks at the budget: each runs ten times
_MB: Final = 1024 * 1024  # bytes
_PARTITION_LOCK_TIMEOUT_MS: Final = 1000  # while it waits for its lock, feedback of searches waits behind it


class Worker:
    """Do the daemon's work through one autocommit connection.

    A column that cannot be processed, for example because its index was dropped, is skipped and its failure
    recorded (see column_jobs.py); the others go on. With a `pace` the work keeps within the budget and
    reports a backlog; with a `standby` searches are replayed there. `check_halt` raises Halt when all work
    has to end.
    """

    def __init__(
        self,
        conn: psycopg.Connection[Any],
        settings: Settings,
        *,
        pace: Pace | None = None,
        standby: Standby | None = None,
        check_halt: Callable[[], None] = lambda: None,
    ) -> None:
        self.conn = conn
        self.settings = settings
        self.pace = pace
        self.standby = standby
        self.column_jobs = ColumnJobs(conn, check_halt)
        self._sizes = pace.sizes if pace is not None else defaultdict(PassSize)
        self._known_generations: dict[int, set[int]] = {}
        self._vacuum_due = False
        self._giving_way = GivingWay()
        self._refreshes = RefreshPlan()

    @property
    def options(self) -> LearningOptions:
        """How to learn, from the settings."""
        learning = self.settings.learning
        return LearningOptions(
            learning.confidence, learning.clusters, learning.seed, learning.step_aside, self.caps
        )

    @property
    def caps(self) -> EffortCaps:
        """The caps of the efforts of every column, from the settings."""
        return NO_CAPS.tighten(self.settings.learning.max_effort, self.settings.learning.max_ms)

    @property
    def limits(self) -> OversightLimits:
        """What oversight tolerates, from the settings."""
        learning = self.settings.learning
        return OversightLimits(learning.confidence, learning.false_alarms, learning.drift_share, self.caps)

    def columns(self) -> list[TunedColumn]:
        """Return the enabled columns."""
        return [tuned for tuned in read_tuned_columns(self.conn) if tuned.enabled]

    def prepare(self) -> None:
        """Apply the settings that the database holds, and check the role's rights.

        Raises VectunedError if the role lacks the rights of a daemon.
        """
        role = sql.Identifier(self.conn.info.user).as_string(self.conn)
        try:
            self.bound_inbox()
            storage.cap_efforts(self.conn, self.settings.learning.max_effort)
        except psycopg.errors.InsufficientPrivilege as error:
            raise VectunedError(
                f"The role {role} may not do the daemon's work ({error.diag.message_primary}): run `vectuned "
                f"migrate --roles` as the schema's owner, then GRANT vectuned_daemon TO {role}."
            ) from error
        if self.settings.budget.pause_above and not storage.sees_other_sessions(self.conn):
            log.warning(
                "budget.pause_above has no effect because the role may not see others' statements: "
                "GRANT pg_read_all_stats TO %s",
                role,
                extra={"action": "rights"},
            )
        if self.standby is None:
            storage.record_event_end(self.conn, None, "standby_waits", "standby_ready")

    def bound_inbox(self) -> None:
        """Apply the limit of the inbox, which the database holds."""
        storage.bound_inbox(self.conn, self.settings.inbox.max_mb * _MB)

    def check_rights(self, tuned: TunedColumn) -> None:
        """Raise VectunedError, with the statement that helps, if the role may not read all of a table."""
        if reason := storage.missing_rights(self.conn, tuned):
            raise VectunedError(reason)

    def refresh(self, tuned: TunedColumn) -> TunedColumn:
        """Read a column's indexes and table statistics again; queue searches for replay on new indexes."""
        self.check_rights(tuned)
        if storage.refresh_column(self.conn, tuned):
            log.info("%s or its indexes have changed", tuned.column, extra={"action": "indexes"})
        present = next(iter(read_tuned_columns(self.conn, tuned.column.id)), None)
        if present is None:
            raise VectunedError(f"{tuned.column} is missing: it is forgotten after a day.")
        tuned = present
        detect_table_change(self.conn, tuned, self.limits)
        tuned = next(iter(read_tuned_columns(self.conn, tuned.column.id)), tuned)
        known = self._known_generations.get(tuned.column.id, set())
        # Only the present ones: on a partitioned table a generation may come back.
        self._known_generations[tuned.column.id] = set(tuned.generations)
        for index in tuned.indexes:
            if index.generation in known:
                continue
            count = tuned.min_samples * (
                REPLAYS_AFTER_CHANGE if index.requires is not None else REPLAYS_OF_NEW_INDEX
            )
            reopened = storage.reopen_searches(self.conn, tuned, index.generation, index.requires, count)
            if reopened > 0:
                log.info(
                    "%d searches of %s wait to be replayed on %s",
                    reopened,
                    tuned.column,
                    index.name,
                    extra={"action": "indexes"},
                )
        return tuned

    def refresh_all(self) -> int:
        """Refresh the enabled columns that have changed, as one statement tells; return how many have."""
        with self._work():
            changed = storage.refresh_missing(self.conn)
            states = self._refreshes.choose_due(storage.read_table_states(self.conn))

        def refresh(tuned: TunedColumn) -> TunedColumn:
            with self._work():
                return self.refresh(tuned)

        columns = [tuned for tuned in self.columns() if tuned.column.id in states]
        for before, after in self.column_jobs.run_each("refresh", columns, refresh):
            changed += before != after
            self._refreshes.record(after.column.id, states[after.column.id])
        return changed

    def drain(self) -> int:
        """Move recorded searches from the inbox to the trajectories; return how many.

        If the vacuum that follows fails, for example on a full disk, the next drain repeats it.
        """
        moved = drain(self.conn)
        if moved:
            log.info("drained %s", counted(moved, "search"), extra={"action": "drain"})
            self._vacuum_due = True
        if self._vacuum_due:
            storage.vacuum_inbox(self.conn)
            self._vacuum_due = False
        return moved

    def count_waiting(self, tuned: TunedColumn) -> int:
        """Return how many searches of a column wait to be replayed."""
        return storage.count_waiting(self.conn, tuned)

    def replay(self, tuned: TunedColumn, count: int, progress: Progress | None = None) -> int:
        """Replay up to `count` searches of a column, the newest first; return how many.

        Searches beyond the column's window are skipped. Raises StandbyUnreadyError if a standby is to replay
        them and cannot be used now.
        """
        with self._work():
            tuned = self.refresh(tuned)
            skipped = storage.skip_old_searches(self.conn, tuned)
        if skipped:
            passed = counted(skipped, "search")
            log.info("skipped %s of %s, too old to replay", passed, tuned.column, extra={"action": "replay"})
        done = 0
        while done < count and self.count_waiting(tuned):
            if self.pace is not None:
                self.pace.wait_for_budget()
            reader = self._replay_connection()
            if self.pace is not None and not self.pace.wait_for_server(reader or self.conn):
                break
            size = self._sizes[tuned.column.id].size(min(count - done, self.settings.learning.replay_batch))
            trajectories = claim_pending(self.conn, tuned.column, size)
            replayed = self._replay_pass(tuned, trajectories, reader, progress and _offset(progress, done))
            done += replayed
            if replayed < len(trajectories):
                release_pending(self.conn, tuned.column)
            self._giving_way.record(tuned.column, replayed, len(trajectories))
            if not replayed or len(trajectories) < size:
                break
        texts = self._replay_texts(tuned, count)
        if texts or done:
            with self._work():
                check_adoptions(self.conn, tuned, self.limits)
        if texts:
            log.info(
                "replayed %s of %s", counted(texts, "statement"), tuned.column, extra={"action": "replay"}
            )
        if done:
            with self._work():
                check_promises(self.conn, tuned, self.limits)
            log.info("replayed %s of %s", counted(done, "search"), tuned.column, extra={"action": "replay"})
        return done

    def _replay_texts(self, tuned: TunedColumn, count: int) -> int:
        """Replay calls that are more than the rows of one table and choose their settings; return how many.

        They do not take part in the publish: a column may have no other searches.
        """
        timeout_ms = round(self.settings.budget.statement_timeout_seconds * 1000)
        done = 0
        while done < count and count_pending_texts(self.conn, tuned):
            reader = self._replay_connection()
            if self.pace is not None and not self.pace.wait_for_server(reader or self.conn):
                break
            with self._work() as timer:
                replayed = replay_texts(
                    self.conn,
                    tuned,
                    min(count - done, _TEXT_BATCH),
                    reader=reader,
                    timeout_ms=timeout_ms,
                    timer=timer,
                )
            if not replayed:
                break
            done += replayed
        if done:
            with self.conn.transaction():
                lock_tuning(self.conn)
                publish_settings(self.conn, tuned.column.id)
        return done

    def replay_all(self, progress: Progress | None = None) -> int:
        """Replay a batch of every enabled column; return how many, 0 while a standby is not ready."""
        total, batch = 0, self.settings.learning.replay_batch

        def replay_batch(tuned: TunedColumn) -> int:
            return self.replay(tuned, batch, progress)

        changed = self._refreshes.choose_due(storage.read_table_states(self.conn))
        failing = storage.read_column_failures(self.conn, "replay")
        chosen = storage.read_columns_waiting(self.conn) | failing.keys() | changed.keys()
        columns = [tuned for tuned in self.columns() if tuned.column.id in chosen]
        try:
            for _, done in self.column_jobs.run_each("replay", columns, replay_batch):
                total += done
        except StandbyUnreadyError as error:
            if self.standby is not None and not self.standby.reported_unready:
                self.standby.reported_unready = True
                log.warning("%s", error, extra={"action": "standby"})
                record_event(self.conn, None, "standby_waits", {"why": str(error)})
        return total

    def report_backlog(self) -> None:
        """Report for every enabled column whether replaying keeps up with recording."""
        if (pace := self.pace) is not None:
            for _ in self.column_jobs.run_each(
                "backlog",
                self.columns(),
                lambda tuned: report_backlog(self.conn, tuned, pace, self.count_waiting(tuned)),
            ):
                pass

    def judge(self) -> int:
        """Judge the searches with new replays or feedback; return how many."""
        total = 0
        for tuned, judged in self.column_jobs.run_each("judge", self.columns(), self.judge_column):
            if judged:
                log.info(
                    "judged %s of %s", counted(judged, "search"), tuned.column, extra={"action": "judge"}
                )
            total += judged
        return total

    def learn(self, tuned: TunedColumn, target: float | None = None) -> LearningResult:
        """Learn about a column and publish, if there are enough replays; with a new target, if one is given.

        Raises VectunedError if the target is not that of `tuned` any more.
        """
        former_target = None if target is None else tuned.target_recall
        if self.pace is not None:
            self.pace.wait_for_budget()
        with self._work():
            tuned = self.refresh(tuned)
            if target is not None:
                tuned = replace(tuned, target_recall=target)
            result = learn(self.conn, tuned, self.options, former_target=former_target)
            if result.version is not None:
                end_alert(self.conn, tuned)
        return result

    def learn_all(self) -> int:
        """Learn about every enabled column with news; return for how many a bank was published."""
        if not self.settings.learning.enabled:
            return 0

        changed = self._refreshes.choose_due(storage.read_table_states(self.conn))

        def learn_news(tuned: TunedColumn) -> LearningResult | None:
            return self.learn(tuned) if self.has_news(tuned, tuned.column.id in changed) else None

        results = self.column_jobs.run_each("learn", self.columns(), learn_news)
        return sum(result is not None and result.version is not None for _, result in results)

    def has_news(self, tuned: TunedColumn, is_changed: bool = True) -> bool:
        """Return whether there are enough new replays, or any or a changed table without a current bank."""
        state = storage.read_learning_state(self.conn, tuned)
        is_outdated = not state.current and (state.known or is_changed)
        return bool(state.fresh >= self.settings.learning.batch_min or is_outdated)

    def export(self) -> int:
        """Write what was learned to the export folder, if one is set; return how many files."""
        export = self.settings.export
        if not export.folder:
            return 0
        folder = prepare_export_folder(Path(export.folder).expanduser())

        def export_tuned(tuned: TunedColumn) -> Path | None:
            return export_column(self.conn, tuned, folder, export.keep)

        columns = read_tuned_columns(self.conn)
        return sum(file is not None for _, file in self.column_jobs.run_each("export", columns, export_tuned))

    def import_new(self) -> int:
        """Import the newest documents of the import folder, if set; return how many made a difference."""
        if not self.settings.export.import_folder:
            return 0
        folder = check_import_folder(Path(self.settings.export.import_folder).expanduser())
        changed = 0

        def import_newest(tuned: TunedColumn) -> list[dict[str, Any]]:
            return import_newest_documents(self.conn, tuned, folder)

        for tuned, reports in self.column_jobs.run_each("import", self.columns(), import_newest):
            for report in reports or ():
                if report["changed"]:
                    log.info("%s took over %s", tuned.column, report["source"], extra={"action": "import"})
                    changed += 1
        return changed

    def maintain(self) -> None:
        """Watch the health of tables, delete what is past its retention, and keep partitions for coming days.

        Replays beyond the window of their column are deleted only where learning is off, since learning
        deletes them itself. Partitions come last: creating and dropping them blocks the feedback of searches,
        so it gives up if another session holds the tables for long.
        """
        watch_health(self.conn, self.columns())
        days = self.settings.schedule.retention_days
        storage.delete_old_records(self.conn, days)
        size = self.settings.schedule.trajectory_mb * _MB
        for tuned in self.columns():
            storage.trim_trajectories(self.conn, tuned, size)
        # With no index left, all replays of a column would be deleted.
        columns = [tuned for tuned in self.columns() if tuned.indexes and not self.settings.learning.enabled]
        for _ in self.column_jobs.run_each(
            "maintain", columns, lambda tuned: storage.trim_replays(self.conn, tuned)
        ):
            pass
        storage.maintain_partitions(self.conn, days, _PARTITION_LOCK_TIMEOUT_MS)

    def judge_column(self, tuned: TunedColumn) -> int:
        """Judge a column's searches and update its margins; return how many were judged."""
        with self._work():
            judged = judge_searches(self.conn, tuned)
            margins = update_margins(self.conn, tuned)
        for k, margin in margins.items():
            log.info(
                "%s: margin of %.2g rungs above the learned effort for up to %d rows",
                tuned.column,
                margin,
                k,
                extra={"action": "margin"},
            )
        return judged

    def _replay_pass(
        self,
        tuned: TunedColumn,
        trajectories: Trajectories,
        reader: psycopg.Connection[Any] | None,
        progress: Progress | None,
    ) -> int:
        """Replay searches in one pass over the table, and adapt the size of the next pass.

        Returns how many were replayed: fewer than given where the pass gave way to a session that waits for a
        lock.
        """
        if not len(trajectories):
            return 0
        timeout_ms = round(self.settings.budget.statement_timeout_seconds * 1000)
        size = self._sizes[tuned.column.id]
        try:
            with self._work() as timer, self._count_read(tuned, timer):
                done = replay(
                    self.conn,
                    tuned,
                    trajectories,
                    reader=reader,
                    progress=progress,
                    timeout_ms=timeout_ms,
                    timer=timer,
                )
        except LockWaitError:
            return 0
        except psycopg.errors.SerializationFailure:
            size.record_failure()  # a standby cancels statements that conflict with its WAL replay
            raise
        size.record(max(timer.wall - timer.scanning, 0.0), timer.scanning, timer.searches)
        if self.pace is not None:
            self.pace.replayed[tuned.column.id] += done
        return done

    def _replay_connection(self) -> psycopg.Connection[Any] | None:
        """Return the standby's connection once it has caught up; None without a standby."""
        if self.standby is None:
            return None
        conn = self.standby.ready(self.conn)
        if self.standby.reported_unready is not False:
            storage.record_event_end(self.conn, None, "standby_waits", "standby_ready")
            self.standby.reported_unready = False
        return conn

    @contextmanager
    def _count_read(self, tuned: TunedColumn, timer: WorkTimer) -> Iterator[None]:
        """Store what the block read of the column's table, also where it gave way or failed."""
        try:
            yield
        except BaseException:
            with suppress(psycopg.Error):  # the error above says more
                storage.add_table_read(self.conn, tuned, timer.bytes_read)
            raise
        storage.add_table_read(self.conn, tuned, timer.bytes_read)

    def _work(self) -> AbstractContextManager[WorkTimer]:
        return self.pace.work() if self.pace is not None else nullcontext(WorkTimer())


def _offset(progress: Progress, before: int) -> Progress:
    """Return a progress function that adds what was done before."""
    return lambda done: progress(before + done)
