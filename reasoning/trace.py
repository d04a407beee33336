"""The trace of a run: the inputs, outputs, decisions and duration of each node, as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import datetime
from typing import Any, Final, Literal

import numpy as np

Status = Literal["ok", "failed", "timed_out", "cancelled", "sent_back"]

_MAX_CHARACTERS: Final = 120  # of a text in a summary: about a line
_MAX_ITEMS: Final = 3  # of a collection in a summary: enough to show what it holds
_MAX_DEPTH: Final = 3  # levels of nested values: a candidate, its entity, its fields


@dataclass(frozen=True)
class Step:
    """One attempt of a node. Times are in milliseconds; `start_ms` counts from the start of the run.

    `taken` and `returned` are the dataclasses of inputs and outputs, `decisions` is what the node recorded,
    `error` the JSON form of its error. `round` is 1 for the first pass through the graph and grows each time
    the run is sent back.
    """

    node: str
    round: int
    attempt: int
    status: Status
    start_ms: float
    duration_ms: float
    after: tuple[str, ...]
    taken: Any = field(repr=False)
    returned: Any = field(default=None, repr=False)
    decisions: tuple[Mapping[str, Any], ...] = ()
    error: Mapping[str, Any] | None = None

    # Summarised on access: most traces are never read, and summaries take as long as the rest of the runner.
    @property
    def inputs(self) -> dict[str, Any]:
        """A summary of each input."""
        return summarise_ports(self.taken)

    @property
    def outputs(self) -> dict[str, Any]:
        """A summary of each output; empty unless the attempt succeeded."""
        return {} if self.returned is None else summarise_ports(self.returned)


@dataclass
class Trace:
    """The steps of a run, in the order in which they ended."""

    correlation_id: str
    started_at: datetime
    steps: list[Step] = field(default_factory=list)
    duration_ms: float = 0.0
    status: Literal["running", "ok", "failed", "cancelled"] = "running"

    @property
    def rounds(self) -> int:
        """The number of passes through the graph, including those that were not finished."""
        return max((step.round for step in self.steps), default=0)

    def steps_of(self, node: str) -> list[Step]:
        """Return the steps of a node, earliest first."""
        return [step for step in self.steps if step.node == node]

    def decisions(self, node: str | None = None) -> list[Mapping[str, Any]]:
        """Return the decisions of one node, or of all."""
        steps = self.steps if node is None else self.steps_of(node)
        return [decision for step in steps for decision in step.decisions]

    def to_json(self) -> dict[str, Any]:
        """Return the trace as plain data."""
        return {
            "correlation_id": self.correlation_id,
            "started_at": self.started_at.isoformat(timespec="milliseconds"),
            "status": self.status,
            "duration_ms": round(self.duration_ms, 3),
            "rounds": self.rounds,
            "steps": [_plain(step) for step in self.steps],
        }


def summarise(value: Any, depth: int = _MAX_DEPTH) -> Any:
    """Return a short summary as plain data: the first items, the shape of an array, the start of a text."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, str):
        return value if len(value) <= _MAX_CHARACTERS else f"{value[: _MAX_CHARACTERS - 1]}…"
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, np.generic):
        return summarise(value.item())
    if depth == 0:
        return "…"
    if is_dataclass(value) and not isinstance(value, type):
        named = {each.name: getattr(value, each.name) for each in fields(value) if each.repr}
        return {name: summarise(each, depth - 1) for name, each in named.items()}
    if isinstance(value, Mapping):
        shown = {str(name): summarise(each, depth - 1) for name, each in list(value.items())[:_MAX_ITEMS]}
        return shown if len(value) <= _MAX_ITEMS else {"count": len(value), "first": shown}
    if isinstance(value, Sequence | Set):
        first = [summarise(each, depth - 1) for each in list(value)[:_MAX_ITEMS]]
        return first if len(value) <= _MAX_ITEMS else {"count": len(value), "first": first}
    return summarise(str(value))


def summarise_ports(value: Any) -> dict[str, Any]:
    """Return a summary of each field of a node's inputs or outputs."""
    return {each.name: summarise(getattr(value, each.name)) for each in fields(value) if each.repr}


def _plain(step: Step) -> dict[str, Any]:
    return {
        "node": step.node,
        "round": step.round,
        "attempt": step.attempt,
        "status": step.status,
        "start_ms": round(step.start_ms, 3),
        "duration_ms": round(step.duration_ms, 3),
        "after": list(step.after),
        "inputs": step.inputs,
        "outputs": step.outputs,
        "decisions": [dict(decision) for decision in step.decisions],
        "error": step.error,
    }
