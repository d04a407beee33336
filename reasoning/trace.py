"""The trace of a run: what each node was given, gave, decided and took, as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import datetime
from typing import Any, Final, Literal

import numpy as np

Status = Literal["ok", "failed", "timed_out", "cancelled", "sent_back"]

_TEXT: Final = 120
_SHOWN: Final = 3
_DEPTH: Final = 3


@dataclass(frozen=True)
class Step:
    """One attempt of a node; times are milliseconds, `start_ms` since the run began.

    `given` and `gave` are what the node took and returned, `decisions` what it said of its choices, and
    `error` the JSON form of what it failed by. `round` counts from 1 and grows when the run is sent back.
    """

    node: str
    round: int
    attempt: int
    status: Status
    start_ms: float
    duration_ms: float
    after: tuple[str, ...]
    given: Any = field(repr=False)
    gave: Any = field(default=None, repr=False)
    decisions: tuple[Mapping[str, Any], ...] = ()
    error: Mapping[str, Any] | None = None

    # Made when somebody looks: most traces are never read, and it takes as long as a run's other own work.
    @property
    def inputs(self) -> dict[str, Any]:
        """Return a summary of each input."""
        return summarise_ports(self.given)

    @property
    def outputs(self) -> dict[str, Any]:
        """Return a summary of each output; none where the attempt did not succeed."""
        return {} if self.gave is None else summarise_ports(self.gave)


@dataclass
class Trace:
    """What happened in a run, step by step in the order in which they ended."""

    correlation_id: str
    started_at: datetime
    steps: list[Step] = field(default_factory=list)
    duration_ms: float = 0.0
    status: Literal["running", "ok", "failed", "cancelled"] = "running"

    @property
    def rounds(self) -> int:
        """How often the run went through the graph, wholly or in part."""
        return max((step.round for step in self.steps), default=0)

    def of(self, node: str) -> list[Step]:
        """Return the steps of a node, earliest first."""
        return [step for step in self.steps if step.node == node]

    def decisions(self, node: str | None = None) -> list[Mapping[str, Any]]:
        """Return what was decided, by one node or by all."""
        steps = self.steps if node is None else self.of(node)
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


def summarise(value: Any, depth: int = _DEPTH) -> Any:
    """Describe a value shortly, as plain data: the first of many, the shape of arrays, the start of texts."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, str):
        return value if len(value) <= _TEXT else f"{value[: _TEXT - 1]}…"
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
        shown = {str(name): summarise(each, depth - 1) for name, each in list(value.items())[:_SHOWN]}
        return shown if len(value) <= _SHOWN else {"count": len(value), "first": shown}
    if isinstance(value, Sequence | Set):
        first = [summarise(each, depth - 1) for each in list(value)[:_SHOWN]]
        return first if len(value) <= _SHOWN else {"count": len(value), "first": first}
    return summarise(str(value))


def summarise_ports(value: Any) -> dict[str, Any]:
    """Describe the ports of a node's inputs or outputs."""
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
