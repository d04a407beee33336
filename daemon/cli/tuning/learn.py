"""The command `vectuned learn`: one pass of the daemon's work."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Final

from vectuned.config.errors import UsageError
from vectuned.config.wording import counted
from vectuned.daemon.cli.command import Command, Context, raise_failures
from vectuned.daemon.console import Console
from vectuned.daemon.database.isolation import Failure
from vectuned.sql.rows import fetch_value

if TYPE_CHECKING:
    from vectuned.daemon.work.worker import Worker
    from vectuned.learning.model.tuned_columns import TunedColumn
    from vectuned.learning.policy.learner import LearningResult
    from vectuned.reasoning.ranking.learning import LearnedAnswers

# Replays in one pass: more than can be waiting.
_ALL: Final = 1_000_000


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--once", action="store_true", required=True, help="make one pass over all tuned columns, then exit"
    )
    parser.add_argument(
        "--within-budget", action="store_true", help="stay within [budget] of the configuration"
    )


def _run(context: Context) -> None:
    from vectuned.daemon.database.standby import using_standby
    from vectuned.daemon.observe.job import ObserveJob
    from vectuned.daemon.pacing.pace import Pace
    from vectuned.daemon.work.answers import learn_from_answers
    from vectuned.daemon.work.worker import Worker

    console = context.console
    report: list[dict[str, Any]] = []
    failures: dict[str, str] = {}
    pace = Pace(context.settings.budget) if context.options.within_budget else None
    with (
        context.database() as conninfo,
        context.open_session(conninfo) as conn,
        using_standby(context.settings) as standby,
    ):
        worker = Worker(conn, context.settings, pace=pace, standby=standby)
        worker.prepare()
        worker.drain()
        ObserveJob(conn, context.settings.observe).take_statements()
        columns = worker.columns()
        if not columns:
            raise UsageError(
                "There is no tuned column to learn about: run `vectuned enable RELATION COLUMN` first."
            )
        # A session of its own, because it is set up for the reads of the reasoning graph.
        with context.open_session(conninfo) as reader:
            answers = learn_from_answers(reader, context.settings, pace)
        for tuned in columns:
            outcome = _learn_column(worker, tuned, console)
            if isinstance(outcome, Failure):
                failures[str(tuned.column)] = outcome.reason
                report.append({"column": str(tuned.column), "error": outcome.reason})
                continue
            replayed, result = outcome
            report.append(_describe(tuned, replayed, result))
            published = (
                f"{result.replays} of {tuned.min_samples} replays needed: nothing published yet; each is one "
                "search that was recorded or observed"
                if result.version is None
                else f"version {result.version} published"
            )
            console.line(f"{tuned.column}: {replayed} replayed, {published}")
        served = fetch_value(conn, "statements_served")
    if answers is not None:
        console.line(_describe_answers(answers))
    if served:
        console.line(
            f"Settings are proven for {counted(served, 'statement')} of applications: "
            f"`{context.repeat('adopt')}` says what they gain."
        )
    if console.as_json:
        learned = {} if answers is None else {"answers": answers.to_json()}
        console.document({"columns": report, **learned})
    raise_failures(failures, len(columns), "learned about")


def _learn_column(
    worker: Worker, tuned: TunedColumn, console: Console
) -> tuple[int, LearningResult] | Failure:
    """Replay, learn and judge; return the number of replays and the result, or the first failure."""

    def replay(tuned: TunedColumn) -> int:
        with console.progress(f"replaying {tuned.column}", worker.count_waiting(tuned)) as progress:
            return worker.replay(tuned, _ALL, progress)

    jobs = worker.column_jobs
    if isinstance(replayed := jobs.run("replay", tuned, replay), Failure):
        return replayed
    if isinstance(result := jobs.run("learn", tuned, worker.learn), Failure):
        return result
    if isinstance(judged := jobs.run("judge", tuned, worker.judge_column), Failure):
        return judged
    return replayed, result


def _describe(tuned: TunedColumn, replayed: int, result: LearningResult) -> dict[str, Any]:
    classes = {
        k_class: {
            **served.policy.path_columns,
            "recall_bound": served.policy.recall_bound,
            "tail_bound": served.policy.tail_bound,
            "patterns": served.patterns,
            "saving": served.saving,
        }
        for k_class, served in result.served.items()
    }
    return {
        "column": str(tuned.column),
        "replayed": replayed,
        "replays": result.replays,
        "version": result.version,
        "classes": classes,
    }


def _describe_answers(answers: LearnedAnswers) -> str:
    learned = answers.learned
    if learned is None:
        return f"answers: {answers.questions} confirmed questions, too few to learn a ranking from"
    kinds = [
        text
        for text, is_proven in (
            ("that name their answer", learned.for_named),
            ("that describe their answer", learned.for_described),
        )
        if is_proven
    ]
    proven = f"serves questions {' and those '.join(kinds)}" if kinds else "not proven better: not served"
    return f"answers: ranking {answers.ranking_id} learned from {answers.questions} questions, {proven}"


COMMAND: Final = Command(
    name="learn",
    summary="drain, replay, learn and publish now",
    description="Does in one pass what the daemon does on its schedule.",
    example="vectuned learn --once",
    run=_run,
    add_arguments=_add_arguments,
)
