"""What a person asks of a report: is recall all right, where is it not, and what is there to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from vectuned.config.wording import counted

Grade = Literal["good", "open", "bad", "unknown"]
"""good: proven; open: too few checks to tell; bad: under the target; unknown: nothing was checked."""

_E_VALUE: Final = 20.0  # the 5 % level, at which an alarm is raised: learning/statistics/sequential.py
_FEW_CHECKS: Final = (
    100  # with fewer, a mean recall under the target is often chance: its error is about 0.02
)
_INDEXES: Final = 3  # recommended indexes among the steps; the section on advice has them all
_ORDER: Final[tuple[Grade, ...]] = ("bad", "unknown", "open", "good")


@dataclass(frozen=True)
class Answer:
    """A grade, and the answer in a sentence."""

    grade: Grade
    text: str


@dataclass(frozen=True)
class Step:
    """Something to do, and the command or statement that does it, which may be empty."""

    text: str
    command: str = ""


def class_name(k: int, shape: str | None) -> str:
    """Return the name of a kind of search: its class of k, and the columns and operators of its filter."""
    return f"up to {k} rows" + (f", filtered by {shape}" if shape else "")


def judge_promise(promise: Mapping[str, Any], column: Mapping[str, Any]) -> Answer:
    """Judge what exact checks say about one kind of search, a row of `promises` of a column's status.

    The last closed epoch of 500 checks counts as well as all checks since the claim started over: recall may
    have fallen since.
    """
    checks, target = promise["checks"], column["target_recall"]
    if not checks:
        return Answer("unknown", "not checked yet")
    recalls = [promise["recall"]]
    if promise["epoch_recall"] is not None:
        recalls.append(promise["epoch_recall"])
    if promise["e_value"] >= _E_VALUE:
        return Answer("bad", f"under the target of {target:g}: checks contradict it")
    if min(recalls) < target and checks < _FEW_CHECKS:
        return Answer("open", f"under the target of {target:g} in {checks:,} checks, too few to tell")
    if min(recalls) < target:
        return Answer("bad", f"under the target of {target:g} in {checks:,} checks, which may be chance")
    if promise["below_08"] > column["max_tail"] and checks >= _FEW_CHECKS:
        return Answer("bad", f"more than {column['max_tail']:.1%} are under 0.8, which may be chance")
    if promise["recall_bound"] < target:
        return Answer("open", f"on target in {checks:,} checks, which do not prove it yet")
    return Answer("good", f"on target, proven with {promise['confidence']:.0%} confidence")


def worst_first(column: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], Answer]]:
    """Return the promises of a column with their judgements, the worst first, then the most checked."""
    judged = [(promise, judge_promise(promise, column)) for promise in column["promises"]]
    return sorted(judged, key=lambda each: (_ORDER.index(each[1].grade), -each[0]["checks"]))


def judge_column(column: Mapping[str, Any]) -> Answer:
    """Answer whether the recall of a column, of `status.read`, is all right."""
    if column["error"] is not None:
        return Answer("unknown", f"Unknown: {column['error']}")
    grades = [answer.grade for _, answer in worst_first(column)]
    checked = [grade for grade in grades if grade != "unknown"]
    if column["alert"]:
        return Answer(
            "bad",
            "No: recall fell short. Searches have fallen back to more effort, more of them are checked, and "
            "vectuned learns again.",
        )
    if not checked and (alarm := _newest_alarm(column)) is not None:
        return Answer(
            "unknown",
            f"Not known yet: after the alarm of {alarm['happened_at']:%Y-%m-%d %H:%M} "
            f"({alarm['details']['why']}) replays have proven again what serves, but no search served since "
            "then has been checked.",
        )
    if not checked:
        return Answer("unknown", "Not known yet: no served search has been checked.")
    if bad := checked.count("bad"):
        return Answer("bad", f"Not everywhere: {bad} of {len(checked)} kinds of search are under the target.")
    if checked.count("open"):
        return Answer("open", "Yes, as far as checked: not yet proven for every kind of search.")
    return Answer("good", "Yes: every kind of search that was checked is proven to be on target.")


def _newest_alarm(column: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the newest alarm among the events of a column, None if there was none."""
    return next((event for event in column["events"] if event["action"] == "alarm"), None)


def next_steps(
    column: Mapping[str, Any],
    daemon: Mapping[str, Any],
    advice: Sequence[Mapping[str, Any]],
    to_adopt: int = 0,
) -> list[Step]:
    """Return what is to be done about a column, the most urgent first; nothing if all is well.

    `daemon` is of `status.read_daemon`, `advice` the rows of `vectuned.recommend_params`, and `to_adopt` the
    number of statements of applications that adopting would serve better.
    """
    if column["error"] is not None:
        return [Step("The figures of this column cannot be read; the reason is above.", "vectuned status")]
    return [
        *_steps_of_daemon(column, daemon),
        *_steps_of_column(column, to_adopt),
        *_steps_of_advice(column, advice),
    ]


def _steps_of_daemon(column: Mapping[str, Any], daemon: Mapping[str, Any]) -> list[Step]:
    steps = []
    if not daemon["daemon"]:
        waiting = column["awaiting_replay"] + (column["in_inbox"] or 0)
        why = f": {waiting:,} recorded searches wait" if waiting else ""
        steps.append(
            Step(f"Start the daemon, without which nothing is checked or learned{why}.", "vectuned run")
        )
    for job in daemon["jobs"]:
        if job["failures"]:
            steps.append(Step(f"The job {job['name']} fails: {job['last_error']}", "vectuned status"))
    steps += [
        Step(f"The job {run['job']} fails on this column: {run['error']}", "vectuned status")
        for run in column["failing"]
    ]
    if any(adopted["alarms"] for adopted in daemon["adopted"]):
        steps.append(
            Step("Adopted settings no longer serve a statement as proven: adopt again.", "vectuned adopt")
        )
    return steps


def _steps_of_column(column: Mapping[str, Any], to_adopt: int) -> list[Step]:
    steps = []
    name = f"{column['relation']} {column['column_name']}"
    state = column["state"]
    if not column["enabled"]:
        return [Step("The column is disabled: nothing is recorded.", f"vectuned enable {name}")]
    if state not in ("serving", "learning") and not state.startswith("imported"):
        steps.append(Step(f"The column is not served as learned: {state}."))
    if not column["trajectories"] and not column["in_inbox"] and not column["statements"]:
        steps.append(
            Step(
                "No search was recorded. Search through vectuned.search, or observe the statements of "
                "applications.",
                "vectuned observe --help",
            )
        )
    if column["behind"] is not None:
        steps.append(Step(f"Replaying falls behind: {column['behind']}."))
    if column["refused"]:
        steps.append(
            Step(
                f"{column['refused']:,} sampled searches were not recorded: the inbox was full or locked, or "
                "a transaction had recorded 32 already. Raise inbox.max_mb, or lower the sample rate."
            )
        )
    if column["alert"]:
        steps.append(
            Step(
                "Wait for the event “proven”. If it does not follow, see what each kind of search needs.",
                f"vectuned recommend {name}",
            )
        )
    if to_adopt:
        steps.append(
            Step(
                f"{to_adopt:,} of {counted(column['statements'], 'statement')} of applications would reach "
                "the target with other settings of their role or database: adopt these, or send them along "
                "by client.tune.",
                "vectuned adopt",
            )
        )
    return steps


def _steps_of_advice(column: Mapping[str, Any], advice: Sequence[Mapping[str, Any]]) -> list[Step]:
    steps = []
    indexes = [row for row in advice if row["kind"] in ("index", "filter index", "statistics")]
    for row in indexes[:_INDEXES]:
        gain = f", which would save {row['gain_ms']:.2f} ms a search on average" if row["gain_ms"] else ""
        text = f"Consider {row['recommendation']} for {row['subject']}{gain}."
        steps.append(Step(text, row["statement"] or ""))
    if len(indexes) > _INDEXES:
        name = f"{column['relation']} {column['column_name']}"
        text = f"{len(indexes) - _INDEXES} more indexes are recommended; see the advice below."
        steps.append(Step(text, f"vectuned recommend {name}"))
    return steps
