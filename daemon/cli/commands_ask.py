"""The command that asks the entity store a question."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vectuned.config.errors import UsageError, VectunedError
from vectuned.daemon.database.session import open_session

from .command import Command, Context

if TYPE_CHECKING:
    from vectuned.reasoning.answering.reasoner import Outcome
    from vectuned.reasoning.errors import ReasoningError
    from vectuned.reasoning.graph.graph import Plan
    from vectuned.reasoning.trace import Trace

_SHOWN: Final = 10
_LONGEST: Final = 110


class AskError(VectunedError):
    """A question failed; the message has the correlation id to look for in the log."""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("question", help="in words")
    parser.add_argument(
        "--trace", action="store_true", help="also say what each node did, and how long it took"
    )
    parser.add_argument("--mermaid", metavar="FILE", type=Path, help="write a picture of the run as Mermaid")
    parser.add_argument("--svg", metavar="FILE", type=Path, help="write a picture of the run as SVG")


def _ask(context: Context) -> None:
    # Here, since what embeds takes a moment to import, which other commands need not wait for.
    from vectuned.reasoning.answering.reasoner import Reasoner
    from vectuned.reasoning.errors import ReasoningError

    options, settings = context.options, context.settings
    with (
        context.database() as conninfo,
        Reasoner(lambda: open_session(conninfo, settings.database), settings.reasoning) as reasoner,
    ):
        try:
            outcome = reasoner.ask(options.question)
        except ReasoningError as error:
            if error.trace is not None:
                _draw(context, reasoner.plan, error.trace)
            raise _told(context, error) from error
        _draw(context, reasoner.plan, outcome.trace)
    if context.console.as_json:
        context.console.document(outcome.to_json())
        return
    _print(context, outcome)


def _told(context: Context, error: ReasoningError) -> VectunedError:
    """Return what the command ends with: the error in the reader's language, as JSON if asked for."""
    language = context.settings.reasoning.messages
    if context.console.as_json:
        steps = error.trace.to_json()["steps"] if error.trace is not None else []
        context.console.document({"error": error.to_json(language), "trace": steps})
    told = AskError(f"{error.message(language)} [{error.code}, correlation id {error.correlation_id}]")
    told.exit_code = error.exit_code
    return told


def _draw(context: Context, plan: Plan, trace: Trace) -> None:
    from vectuned.reasoning.graph.picture import mermaid, svg

    for file, draw in ((context.options.mermaid, mermaid), (context.options.svg, svg)):
        if file is None:
            continue
        try:
            file.write_text(draw(plan, trace), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{file} cannot be written: {error.strerror}.") from error


def _print(context: Context, outcome: Outcome) -> None:
    console = context.console
    console.line(outcome.answer.text)
    console.line()
    for citation in outcome.answer.citations:
        console.line(f"[{citation.number}] {citation.source}")
    console.line()
    kept = {candidate.entity.id for candidate in outcome.material.candidates}
    rows = [
        (
            each.entity.label,
            each.entity.name,
            "" if each.entity.id in kept else "pruned",
            f"{each.score:.3f}",
            f"{each.similarity:.3f}",
            f"{each.names:.3f}",
        )
        for each in outcome.candidates[:_SHOWN]
    ]
    console.table(("entity", "name", "", "score", "similarity", "names"), rows, title="Entities", left=3)
    console.line()
    names = outcome.material.entities
    links = [
        (names[link.source].name, link.name, names[link.target].name, link.kind, f"{link.confidence:.2f}")
        for link in outcome.material.links[:_SHOWN]
    ]
    console.table(("from", "relation", "to", "kind", "confidence"), links, title="Path", left=4)
    if context.options.trace:
        console.line()
        _print_trace(context, outcome.trace)
    console.line()
    console.line(
        f"coherence {outcome.assessment.coherence:.2f}, completeness {outcome.assessment.completeness:.2f}, "
        f"{outcome.trace.rounds} round{'s' if outcome.trace.rounds > 1 else ''}, "
        f"{outcome.trace.duration_ms:.1f} ms, correlation id {outcome.trace.correlation_id}"
    )


def _print_trace(context: Context, trace: Trace) -> None:
    rows = [
        (
            step.node,
            step.status,
            _decided(step.decisions),
            str(step.round),
            str(step.attempt),
            f"{step.start_ms:.1f}",
            f"{step.duration_ms:.1f}",
        )
        for step in sorted(trace.steps, key=lambda step: step.start_ms)
    ]
    headings = ("node", "outcome", "decided", "round", "attempt", "start ms", "took ms")
    context.console.table(headings, rows, title="Trace", left=3)


def _decided(decisions: Any) -> str:
    said = []
    for decision in decisions:
        facts = ", ".join(f"{k} {_short(v)}" for k, v in decision.items() if k != "what")
        said.append(f"{decision['what']}{': ' if facts else ''}{facts}")
    text = "; ".join(said)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


COMMANDS: Final = (
    Command(
        "ask",
        "answer a question from the entity store, with sources and a trace",
        "Identifies the entities that the question is about, resolves what is known of them, follows their "
        "relationships, judges what was found, and answers from it, each sentence with its source. See the "
        "section [reasoning] of the configuration for embedders and generating models.",
        _arguments,
        _ask,
    ),
)
