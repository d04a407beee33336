"""Graphs of nodes: what a node is, how its ports are found, and what is checked before anything runs."""

from __future__ import annotations

import types
import typing
from abc import ABC, abstractmethod
from collections.abc import Mapping
from collections.abc import Sequence as AbstractSequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from graphlib import CycleError as _Cycle
from graphlib import TopologicalSorter
from typing import Any, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

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

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True)
class Limits:
    """What one node may take: seconds for each attempt, attempts, and seconds before the second one.

    Only errors that are `retryable` are tried again, each time after twice the wait.
    """

    seconds: float | None = 10.0
    attempts: int = 1
    backoff: float = 0.05


class Node(ABC, Generic[In, Out]):
    """One step of reasoning.

    `run` declares the ports: the fields of the dataclass it takes are the node's inputs, those of the one it
    returns are its outputs, and fields of the same name are joined. An input with a default is optional. A
    node keeps no state of a run, since several runs may be in it at once.
    """

    name: str
    limits: Limits = Limits()

    @abstractmethod
    def run(self, inputs: In, context: Context) -> Out:
        """Do the work; see `Context` for connections, time left and the trace."""

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
    """A named value of a type; `required` unless it has a default."""

    name: str
    type: Any
    required: bool


@dataclass(frozen=True)
class Edge:
    """A value on its way: `producer` is a node, None for the graph's own inputs."""

    producer: str | None
    consumer: str
    port: str


@dataclass(frozen=True)
class Plan:
    """A graph that was checked.

    `order` is one order in which the nodes may run; `after` says what each waits for, `edges` which value it
    waits for. `takes` and `gives` are the dataclasses of each node's ports, `types` those of its outputs.
    """

    nodes: Mapping[str, Node[Any, Any]]
    inputs: type[Any]
    takes: Mapping[str, type[Any]]
    gives: Mapping[str, type[Any]]
    types: Mapping[str, Mapping[str, Any]]
    order: tuple[str, ...]
    after: Mapping[str, frozenset[str]]
    edges: tuple[Edge, ...]

    def layers(self) -> list[list[str]]:
        """Group the nodes by the length of the longest way to them; those of a group are independent."""
        depth: dict[str, int] = {}
        for name in self.order:
            depth[name] = 1 + max((depth[before] for before in self.after[name]), default=-1)
        grouped: list[list[str]] = [[] for _ in range(1 + max(depth.values(), default=-1))]
        for name in self.order:
            grouped[depth[name]].append(name)
        return grouped


@dataclass(frozen=True)
class Graph:
    """Nodes by name and the dataclass of what a run is given.

    A graph never changes: `add`, `remove` and `replace` return another one, so that runs under way are not
    disturbed. Its parts need not fit together before `plan`.
    """

    inputs: type[Any]
    nodes: tuple[Node[Any, Any], ...] = ()

    def __post_init__(self) -> None:
        names = [node.name for node in self.nodes]
        for name in names:
            if names.count(name) > 1:
                raise DuplicateNodeError(node=name)

    def add(self, *nodes: Node[Any, Any]) -> Graph:
        """Return the graph with more nodes."""
        return replace(self, nodes=(*self.nodes, *nodes))

    def remove(self, name: str) -> Graph:
        """Return the graph without a node."""
        self[name]
        return replace(self, nodes=tuple(node for node in self.nodes if node.name != name))

    def replace(self, name: str, node: Node[Any, Any]) -> Graph:
        """Return the graph with another node in the place of the one of that name."""
        self[name]
        return replace(self, nodes=tuple(node if each.name == name else each for each in self.nodes))

    def __getitem__(self, name: str) -> Node[Any, Any]:
        """Return a node; UnknownNodeError if there is none of that name."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise UnknownNodeError(node=name, known=", ".join(node.name for node in self.nodes) or "none")

    def plan(self) -> Plan:
        """Check that everything fits and return the order of work.

        Raises a GraphError that names the node and the port: a port that two nodes produce, an input that
        nothing produces, a type that does not fit, nodes that wait for each other, undeclared ports.
        """
        producers: dict[str, tuple[str | None, Port]] = {
            name: (None, port) for name, port in _ports(self.inputs).items()
        }
        ports = {node.name: node.ports() for node in self.nodes}
        outputs = {name: _ports(gives) for name, (_, gives) in ports.items()}
        for node, given in outputs.items():
            for name, port in given.items():
                if name in producers:
                    other = producers[name][0] or "the graph's input"
                    raise DuplicateProducerError(node=node, port=name, producer=other)
                producers[name] = (node, port)
        edges = [
            edge for node, (takes, _) in ports.items() for edge in _edges(node, _ports(takes), producers)
        ]
        after = {
            name: frozenset(edge.producer for edge in edges if edge.consumer == name and edge.producer)
            for name in ports
        }
        try:
            order = tuple(TopologicalSorter(after).static_order())
        except _Cycle as error:
            raise CycleError(nodes=" -> ".join(error.args[1])) from None
        return Plan(
            nodes={node.name: node for node in self.nodes},
            inputs=self.inputs,
            takes={name: takes for name, (takes, _) in ports.items()},
            gives={name: gives for name, (_, gives) in ports.items()},
            types={
                node: {name: port.type for name, port in given.items()} for node, given in outputs.items()
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
        if not fits(produced.type, port.type):
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


def fits(given: Any, wanted: Any) -> bool:
    """Whether every value of one type may be taken for one of another, as a type checker would say.

    Containers are read-only here and so covariant; a type variable or a type that is not known fits.
    """
    if wanted is Any or given is Any or given == wanted or isinstance(wanted, TypeVar):
        return True
    if _is_union(given):
        return all(fits(each, wanted) for each in get_args(given))
    if _is_union(wanted):
        return any(fits(given, each) for each in get_args(wanted))
    if given is None or wanted is None:
        return given in (None, type(None)) and wanted in (None, type(None))
    given_class, wanted_class = get_origin(given) or given, get_origin(wanted) or wanted
    if not (isinstance(given_class, type) and isinstance(wanted_class, type)):
        return bool(given_class == wanted_class)
    # As type checkers have it, a whole number will do for a float.
    if given_class is int and wanted_class is float:
        return True
    if not _is_subclass(given_class, wanted_class):
        return False
    return _arguments_fit(given_class, get_args(given), wanted_class, get_args(wanted))


def _arguments_fit(
    given_class: type, given: tuple[Any, ...], wanted_class: type, wanted: tuple[Any, ...]
) -> bool:
    if not given or not wanted:
        return True
    if given_class is tuple:
        if wanted_class is not tuple:
            return all(fits(each, wanted[0]) for each in given if each is not Ellipsis)
        if wanted[-1] is Ellipsis:
            return all(fits(each, wanted[0]) for each in given if each is not Ellipsis)
        return len(given) == len(wanted) and all(map(fits, given, wanted))
    return len(given) != len(wanted) or all(map(fits, given, wanted))


def _is_subclass(given: type, wanted: type) -> bool:
    try:
        return issubclass(given, wanted)
    except TypeError:  # a protocol with more than methods: nothing can be said before there is a value
        return True


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def holds(value: Any, kind: Any) -> bool:
    """Whether a value is of a type, as far as that can be seen without looking at all of its elements."""
    if kind is Any or isinstance(kind, TypeVar):
        return True
    if _is_union(kind):
        return any(holds(value, each) for each in get_args(kind))
    if kind is None:
        return value is None
    if get_origin(kind) is typing.Literal:
        return value in get_args(kind)
    if get_origin(kind) is typing.Annotated:
        return holds(value, get_args(kind)[0])
    wanted = get_origin(kind) or kind
    if wanted is float:
        return isinstance(value, float | int) and not isinstance(value, bool)
    try:
        if not isinstance(value, wanted):
            return False
    except TypeError:
        return True
    arguments = get_args(kind)
    if isinstance(value, AbstractSequence) and value and not isinstance(value, str | bytes) and arguments:
        return holds(value[0], arguments[0])
    return True


def type_name(kind: Any) -> str:
    """Write a type as a programmer would, without the modules."""
    if get_origin(kind) is None:
        return "None" if kind in (None, type(None)) else str(getattr(kind, "__name__", kind))
    if _is_union(kind):
        return " | ".join(type_name(each) for each in get_args(kind))
    inner = ", ".join("..." if each is Ellipsis else type_name(each) for each in get_args(kind))
    return f"{type_name(get_origin(kind))}[{inner}]"
