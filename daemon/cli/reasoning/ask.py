"""The command `vectuned ask`: answer a question from the entity store."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg

from vectuned.config.errors import UsageError, VectunedError
from vectuned.daemon.cli.command import Command, Context
from vectuned.daemon.console import Console

if TYPE_CHECKING:
    from vectuned.reasoning.answering.reasoner import Outcome, Reasoner
    from vectuned.reasoning.errors import ReasoningError
    from vectuned.reasoning.graph.graph import Plan
    from vectuned.reasoning.trace import Trace

# Rows of a printed table: the best matches; --json has them all.
_TABLE_ROWS: Final = 10
# Characters of the decisions of a step, so that the table fits a wide terminal.
_DECISIONS_LENGTH: Final = 110


class AskError(VectunedError):
    """A question failed; the message has the correlation id to look for in the log."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("question", help="question in plain language")
    parser.add_argument(
        "--trace", action="store_true", help="also print what each node did and how long it took"
    )
    parser.add_argument(
        "--confirm",
        metavar="LABEL",
        help="say that this entity of the run is the answer: it comes first when the question is asked again",
    )
    parser.add_argument("--reject", metavar="LABEL", help="say that this entity of the run is not the answer")
    parser.add_argument(
        "--no-feedback",
        action="store_true",
        help="on a terminal, do not ask whether the answer is right",
    )
    parser.add_argument("--mermaid", metavar="FILE", type=Path, help="write a picture of the run as Mermaid")
    parser.add_argument("--svg", metavar="FILE", type=Path, help="write a picture of the run as SVG")


def _run(context: Context) -> None:
    # Imported here because the embedders take a moment to import, which other commands need not wait for.
    from vectuned.reasoning.answering.reasoner import Reasoner
    from vectuned.reasoning.errors import ReasoningError

    console, options = context.console, context.options
    with (
        context.database() as conninfo,
        Reasoner(lambda: context.open_session(conninfo), context.settings.reasoning) as reasoner,
    ):
        try:
            outcome = reasoner.ask(options.question)
        except ReasoningError as error:
            if error.trace is not None:
                _draw(options, reasoner.plan, error.trace)
            raise _report_failure(context, error) from error
        _draw(options, reasoner.plan, outcome.trace)
        said = _give_feedback(options, reasoner, outcome, options.confirm, options.reject)
        if console.as_json:
            console.document(outcome.to_json())
            return
        _print_outcome(console, outcome)
        if options.trace:
            console.line()
            _print_trace(console, outcome.trace)
        console.line()
        _print_summary(console, outcome)
        for line in said:
            console.line(line)
        if _may_ask(options) and outcome.material.candidates:
            for line in _ask_for_feedback(options, reasoner, outcome):
                console.line(line)


def _may_ask(options: argparse.Namespace) -> bool:
    """Return whether to ask for feedback: at a terminal, if the options do not give or decline it."""
    has_said = options.no_feedback or options.confirm is not None or options.reject is not None
    return not has_said and sys.stdin.isatty() and sys.stdout.isatty()


def _ask_for_feedback(options: argparse.Namespace, reasoner: Reasoner, outcome: Outcome) -> list[str]:
    """Ask which entity is right, and record the reply as a vote; return the lines to print."""
    labels = [each.entity.label for each in outcome.candidates[:_TABLE_ROWS]]
    first = outcome.material.candidates[0].entity
    print(f"Is it {first.name}? y, n, the number of the right row of the table, or Enter to skip: ", end="")
    sys.stdout.flush()
    said = sys.stdin.readline().strip().casefold()
    if said in ("y", "yes"):
        return _give_feedback(options, reasoner, outcome, first.label, None)
    if said in ("n", "no"):
        return _give_feedback(options, reasoner, outcome, None, first.label)
    if said.isdecimal() and 1 <= int(said) <= len(labels):
        return _give_feedback(options, reasoner, outcome, labels[int(said) - 1], None)
    return [] if not said else [f"Not understood, so nothing was recorded: {said[:_DECISIONS_LENGTH]}"]


def _give_feedback(
    options: argparse.Namespace,
    reasoner: Reasoner,
    outcome: Outcome,
    confirm: str | None,
    reject: str | None,
) -> list[str]:
    """Record that the entities of these labels are confirmed and rejected; return a line for each."""
    ids = {each.entity.label: each.entity.id for each in outcome.candidates}
    given = ((confirm, reasoner.confirm, "confirmed"), (reject, reasoner.reject, "rejected"))
    wanted = [(label, give, done) for label, give, done in given if label is not None]
    for label, _, _ in wanted:
        if label not in ids:
            raise UsageError(f"{label} is not among the entities of this run: take a label of its table.")
    if len({label for label, _, _ in wanted}) < len(wanted):
        raise UsageError(f"{wanted[0][0]} cannot be confirmed and rejected at once.")
    try:
        return [f"{label} {done}: {give(options.question, ids[label])}" for label, give, done in wanted]
    except psycopg.errors.InsufficientPrivilege as error:
        raise UsageError(
            "The role may not give feedback on answers: its administrator can GRANT SELECT, INSERT, UPDATE, "
            "DELETE ON vectuned_entities.answer_feedback."
        ) from error


def _report_failure(context: Context, error: ReasoningError) -> AskError:
    """Print a failure as JSON if that is wanted; return it as an error in the configured language."""
    language = context.settings.reasoning.messages
    if context.console.as_json:
        steps = error.trace.to_json()["steps"] if error.trace is not None else []
        context.console.document({"error": error.to_json(language), "trace": steps})
    return AskError(
        f"{error.message(language)} [{error.code}, correlation id {error.correlation_id}]", error.exit_code
    )


def _draw(options: argparse.Namespace, plan: Plan, trace: Trace) -> None:
    """Write the pictures of the run that the options ask for."""
    from vectuned.reasoning.graph.picture import draw_mermaid, draw_svg

    for file, draw in ((options.mermaid, draw_mermaid), (options.svg, draw_svg)):
        if file is None:
            continue
        try:
            file.write_text(draw(plan, trace), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{file} cannot be written: {error.strerror}.") from error


def _print_outcome(console: Console, outcome: Outcome) -> None:
    console.line(outcome.answer.text)
    console.line()
    for citation in outcome.answer.citations:
        console.line(f"[{citation.number}] {citation.source}")
    console.line()
    used = {candidate.entity.id for candidate in outcome.material.candidates}
    rows = [
        (
            candidate.entity.label,
            candidate.entity.name,
            "" if candidate.entity.id in used else "pruned",
            f"{candidate.score:.3f}",
            f"{candidate.similarity:.3f}",
            f"{candidate.name_match:.3f}",
        )
        for candidate in outcome.candidates[:_TABLE_ROWS]
    ]
    console.table(("entity", "name", "", "score", "similarity", "names"), rows, title="Entities", left=3)
    console.line()
    names = outcome.material.entities
    links = [
        (names[link.source].name, link.name, names[link.target].name, link.kind, f"{link.confidence:.2f}")
        for link in outcome.material.links[:_TABLE_ROWS]
    ]
    console.table(("from", "relation", "to", "kind", "confidence"), links, title="Path", left=4)


def _print_summary(console: Console, outcome: Outcome) -> None:
    assessment, trace = outcome.assessment, outcome.trace
    console.line(
        f"coherence {assessment.coherence:.2f}, completeness {assessment.completeness:.2f}, "
        f"{trace.rounds} round{'s' if trace.rounds > 1 else ''}, "
        f"{trace.duration_ms:.1f} ms, correlation id {trace.correlation_id}"
    )


def _print_trace(console: Console, trace: Trace) -> None:
    rows = [
        (
            step.node,
            step.status,
            _format_decisions(step.decisions),
            str(step.round),
            str(step.attempt),
            f"{step.start_ms:.1f}",
            f"{step.duration_ms:.1f}",
        )
        for step in sorted(trace.steps, key=lambda step: step.start_ms)
    ]
    headings = ("node", "outcome", "decided", "round", "attempt", "start ms", "took ms")
    console.table(headings, rows, title="Trace", left=3)


def _format_decisions(decisions: Sequence[Mapping[str, Any]]) -> str:
    texts = []
    for decision in decisions:
        facts = ", ".join(f"{key} {_format_fact(value)}" for key, value in decision.items() if key != "what")
        texts.append(f"{decision['what']}{': ' if facts else ''}{facts}")
    text = "; ".join(texts)
    return text if len(text) <= _DECISIONS_LENGTH else f"{text[: _DECISIONS_LENGTH - 1]}…"


def _format_fact(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


COMMAND: Final = Command(
    name="ask",
    summary="answer a question from the entity store, with sources and a trace",
    description="Identifies the entities that the question is about, resolves what the store knows about "
    "them, follows their relationships, assesses what it found, and answers, each sentence with its source. "
    "The section [reasoning] of the configuration chooses embedders and generating models.",
    example="vectuned ask 'What is a dog a kind of?' --trace",
    run=_run,
    add_arguments=_add_arguments,
)
