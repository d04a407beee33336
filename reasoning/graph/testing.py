"""Helpers for tests of nodes and graphs: run one node alone, replace nodes by stubs, inspect the trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vectuned.reasoning.trace import Step, Trace

from .connections import ConnectionPool
from .graph import Graph, Limits, Node
from .runner import Run, run


class StubNode(Node[Any, Any]):
    """Replaces a node of the same name and ports.

    `returns` has the outputs by name, or is a function that takes the inputs and returns the result or
    raises. `calls` holds the inputs of every call.
    """

    def __init__(
        self,
        of: Node[Any, Any],
        returns: Mapping[str, object] | Callable[[Any], Any],
        limits: Limits | None = None,
    ) -> None:
        self.name = of.name
        self.limits = limits or of.limits
        self.calls: list[Any] = []
        self._ports = of.ports()
        self._returns = returns

    def ports(self) -> tuple[type[Any], type[Any]]:
        """Return the ports of the node that is replaced."""
        return self._ports

    def run(self, inputs: Any, context: Any) -> Any:
        """Record the inputs and return the stub's result."""
        self.calls.append(inputs)
        if callable(self._returns):
            return self._returns(inputs)
        return self._ports[1](**self._returns)


def run_node(
    node: Node[Any, Any], /, *, connections: ConnectionPool | None = None, rounds: int = 1, **inputs: object
) -> Run:
    """Run one node alone on inputs by name; the values of the run are the inputs and outputs."""
    kind, _ = node.ports()
    plan = Graph(kind, (node,)).plan()
    return run(plan, kind(**inputs), connections=connections, rounds=rounds)


def with_stubs(graph: Graph, **returns: Mapping[str, object] | Callable[[Any], Any]) -> Graph:
    """Return a graph in which the named nodes are replaced by stubs with these results."""
    for name, value in returns.items():
        graph = graph.replace(name, StubNode(graph[name], value))
    return graph


def only_step(trace: Trace, node: str) -> Step:
    """Return the only step of a node; raises AssertionError with the outline if it has none or several."""
    steps = trace.steps_of(node)
    assert len(steps) == 1, f"{node} has {len(steps)} steps; the trace has {outline(trace)}"
    return steps[0]


def outline(trace: Trace) -> list[str]:
    """Return the steps in the order they ended: "node" if it succeeded, otherwise "node: status"."""
    return [step.node if step.status == "ok" else f"{step.node}: {step.status}" for step in trace.steps]


def assert_before(trace: Trace, first: str, second: str) -> None:
    """Assert that the last step of one node ended before the first step of another started."""
    ended = max(step.start_ms + step.duration_ms for step in trace.steps_of(first))
    began = min(step.start_ms for step in trace.steps_of(second))
    assert ended <= began, f"{first} ended at {ended:.2f} ms, {second} began at {began:.2f} ms"
