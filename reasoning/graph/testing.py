"""A kit for tests of nodes and flows: run one node alone, put stand-ins into a graph, look at the trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vectuned.reasoning.trace import Step, Trace

from .connections import ConnectionPool
from .graph import Graph, Limits, Node
from .runner import Run, run


class StandIn(Node[Any, Any]):
    """Has the name and the ports of another node, and does something else in its place.

    `returns` are the outputs by name, or a function of the node's inputs that returns its result or raises.
    `seen` holds the inputs of every call.
    """

    def __init__(
        self,
        of: Node[Any, Any],
        returns: Mapping[str, object] | Callable[[Any], Any],
        limits: Limits | None = None,
    ) -> None:
        self.name = of.name
        self.limits = limits or of.limits
        self.seen: list[Any] = []
        self._ports = of.ports()
        self._returns = returns

    def ports(self) -> tuple[type[Any], type[Any]]:
        """Return the ports of the node it stands in for."""
        return self._ports

    def run(self, inputs: Any, context: Any) -> Any:
        """Return what it was made with."""
        self.seen.append(inputs)
        if callable(self._returns):
            return self._returns(inputs)
        return self._ports[1](**self._returns)


def run_node(
    node: Node[Any, Any], /, *, connections: ConnectionPool | None = None, rounds: int = 1, **inputs: object
) -> Run:
    """Run one node alone, its inputs given by name; the values of the run are its inputs and outputs."""
    kind, _ = node.ports()
    plan = Graph(kind, (node,)).plan()
    return run(plan, kind(**inputs), connections=connections, rounds=rounds)


def with_stand_ins(graph: Graph, **returns: Mapping[str, object] | Callable[[Any], Any]) -> Graph:
    """Return a graph in which the named nodes are replaced by stand-ins that return this."""
    for name, value in returns.items():
        graph = graph.replace(name, StandIn(graph[name], value))
    return graph


def only_step(trace: Trace, node: str) -> Step:
    """Return the one step of a node; AssertionError, with what there was, if it has none or several."""
    steps = trace.of(node)
    assert len(steps) == 1, f"{node} has {len(steps)} steps; the trace has {outline(trace)}"
    return steps[0]


def outline(trace: Trace) -> list[str]:
    """Return the steps as "node", or "node: status" where one did not simply succeed, in order of ending."""
    return [step.node if step.status == "ok" else f"{step.node}: {step.status}" for step in trace.steps]


def assert_before(trace: Trace, first: str, second: str) -> None:
    """Assert that the last step of one node ended before the other's began."""
    ended = max(step.start_ms + step.duration_ms for step in trace.of(first))
    began = min(step.start_ms for step in trace.of(second))
    assert ended <= began, f"{first} ended at {ended:.2f} ms, {second} began at {began:.2f} ms"
