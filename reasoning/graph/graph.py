"""Graphs of nodes: what a node is, how its ports are declared, and the checks before a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from graphlib import CycleError as _Cycle
from graphlib import TopologicalSorter
from typing import Any, Generic, TypeVar, get_type_hints

from vectuned.reasoning.errors import (
    CycleError,
    DuplicateNodeError,
    DuplicateProducerError,
    MissingInputError,
    PortTypeError,
    SignatureError,
    UnknownNodeError,
)

from .context import Context
from .port_types import is_assignable, type_name

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True)
class Limits:
    """The limits of a node: seconds for each attempt, attempts, and seconds of pause before the second one.

    Only errors that are `retryable` lead to another attempt. Each pause is twice as long as the one before.
    """

    seconds: float | None = 10.0
    attempts: int = 1
    backoff: float = 0.05


class Node(ABC, Generic[In, Out]):
    """One step of reasoning.

    `run` declares the ports: the fields of the dataclass it takes are the node's inputs, and those of the
    dataclass it returns are its outputs. An output is connected to the inputs of the same name. An input with
    a default is optional. A node must not keep the state of a run, since several runs may use it at once.
    """

    name: str
    limits: Limits = Limits()

    @abstractmethod
    def run(self, inputs: In, context: Context) -> Out:
        """Do the work; `context` has connections, the remaining time and the trace."""

    def ports(self) -> tuple[type[Any], type[Any]]:
        """Return the dataclasses of inputs and outputs."""
        hints = get_type_hints(type(self).run)
        found = []
        for which, port in (("inputs", "inputs"), ("return", "the result")):
            kind = hints.get(which)
            if not (isinstance(kind, type) and is_dataclass(kind)):
                raise SignatureError(node=self.name, port=port)
            found.append(kind)
        return found[0], found[1]


@dataclass(frozen=True)
class Port:
    """An input or output by name and type; an input with a default is not `required`."""

    name: str
    type: Any
    required: bool


@dataclass(frozen=True)
class Edge:
    """A connection of two ports; `producer` is a node, None for the graph's own inputs."""

    producer: str | None
    consumer: str
    port: str


@dataclass(frozen=True)
class Plan:
    """A checked graph.

    `order` is one order in which the nodes may run, `after` has the nodes that each waits for, and `edges`
    the values it waits for. `input_classes` and `output_classes` are the dataclasses of each node's ports,
    `output_types` the types of its outputs by name.
    """

    nodes: Mapping[str, Node[Any, Any]]
    inputs: type[Any]
    input_classes: Mapping[str, type[Any]]
    output_classes: Mapping[str, type[Any]]
    output_types: Mapping[str, Mapping[str, Any]]
    order: tuple[str, ...]
    after: Mapping[str, frozenset[str]]
    edges: tuple[Edge, ...]

    def layers(self) -> list[list[str]]:
        """Group the nodes by the length of the longest path to them; the nodes of a group are independent."""
        depth: dict[str, int] = {}
        for name in self.order:
            depth[name] = 1 + max((depth[before] for before in self.after[name]), default=-1)
        grouped: list[list[str]] = [[] for _ in range(1 + max(depth.values(), default=-1))]
        for name in self.order:
            grouped[depth[name]].append(name)
        return grouped


@dataclass(frozen=True)
class Graph:
    """Nodes, and the dataclass of a run's inputs.

    A graph is immutable: `add`, `remove` and `replace` return another one, and runs in progress are not
    affected. Only `plan` checks that the nodes fit together.
    """

    inputs: type[Any]
    nodes: tuple[Node[Any, Any], ...] = ()

    def __post_init__(self) -> None:
        names = [node.name for node in self.nodes]
        for name in names:
            if names.count(name) > 1:
                raise DuplicateNodeError(node=name)

    def add(self, *nodes: Node[Any, Any]) -> Graph:
        """Return a graph with more nodes."""
        return replace(self, nodes=(*self.nodes, *nodes))

    def remove(self, name: str) -> Graph:
        """Return a graph without a node; raises UnknownNodeError if it has none of that name."""
        self[name]  # raises
        return replace(self, nodes=tuple(node for node in self.nodes if node.name != name))

    def replace(self, name: str, node: Node[Any, Any]) -> Graph:
        """Return a graph with a node replaced; raises UnknownNodeError if it has none of that name."""
        self[name]  # raises
        return replace(self, nodes=tuple(node if each.name == name else each for each in self.nodes))

    def __getitem__(self, name: str) -> Node[Any, Any]:
        """Return a node; raises UnknownNodeError if there is none of that name."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise UnknownNodeError(node=name, known=", ".join(node.name for node in self.nodes) or "none")

    def plan(self) -> Plan:
        """Check that the nodes fit together and return the plan of a run.

        Raises a GraphError that names the node and the port if two nodes produce a port, nothing produces an
        input, types do not fit, nodes wait for each other, or ports are not declared.
        """
        producers: dict[str, tuple[str | None, Port]] = {
            name: (None, port) for name, port in _ports(self.inputs).items()
        }
        classes = {node.name: node.ports() for node in self.nodes}
        outputs = {name: _ports(output_class) for name, (_, output_class) in classes.items()}
        for node, ports in outputs.items():
            for name, port in ports.items():
                if name in producers:
                    other = producers[name][0] or "the graph's input"
                    raise DuplicateProducerError(node=node, port=name, producer=other)
                producers[name] = (node, port)
        edges = [
            edge
            for node, (input_class, _) in classes.items()
            for edge in _edges(node, _ports(input_class), producers)
        ]
        after = {
            name: frozenset(edge.producer for edge in edges if edge.consumer == name and edge.producer)
            for name in classes
        }
        try:
            order = tuple(TopologicalSorter(after).static_order())
        except _Cycle as error:
            raise CycleError(nodes=" -> ".join(error.args[1])) from None
        return Plan(
            nodes={node.name: node for node in self.nodes},
            inputs=self.inputs,
            input_classes={name: input_class for name, (input_class, _) in classes.items()},
            output_classes={name: output_class for name, (_, output_class) in classes.items()},
            output_types={
                node: {name: port.type for name, port in ports.items()} for node, ports in outputs.items()
            },
            order=order,
            after=after,
            edges=tuple(edges),
        )


def _edges(
    node: str, ports: Mapping[str, Port], producers: Mapping[str, tuple[str | None, Port]]
) -> list[Edge]:
    found = []
    for name, port in ports.items():
        if name not in producers:
            if port.required:
                raise MissingInputError(node=node, port=name)
            continue
        producer, produced = producers[name]
        if not is_assignable(produced.type, port.type):
            raise PortTypeError(
                node=node,
                port=name,
                wanted=type_name(port.type),
                given=type_name(produced.type),
                producer=producer or "the graph's input",
            )
        found.append(Edge(producer, node, name))
    return found


def _ports(kind: type[Any]) -> dict[str, Port]:
    hints = get_type_hints(kind)
    return {field.name: Port(field.name, hints[field.name], _is_required(field)) for field in fields(kind)}


def _is_required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING
