"""A small graph of four nodes, and nodes to replace them by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vectuned.reasoning.graph.context import Context
from vectuned.reasoning.graph.graph import Graph, Node


@dataclass(frozen=True)
class Inputs:
    text: str
    factor: int = 1


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Words:
    words: tuple[str, ...]


@dataclass(frozen=True)
class Length:
    length: int


@dataclass(frozen=True)
class Counting:
    words: tuple[str, ...]
    factor: int = 1


@dataclass(frozen=True)
class Count:
    count: int


@dataclass(frozen=True)
class Both:
    count: int
    length: int


@dataclass(frozen=True)
class Sentence:
    sentence: str


class Split(Node[Text, Words]):
    name = "split"

    def run(self, inputs: Text, context: Context) -> Words:
        return Words(tuple(inputs.text.split()))


class Measure(Node[Text, Length]):
    name = "measure"

    def run(self, inputs: Text, context: Context) -> Length:
        return Length(len(inputs.text))


class CountWords(Node[Counting, Count]):
    name = "count"

    def run(self, inputs: Counting, context: Context) -> Count:
        context.record_decision("counted", factor=inputs.factor)
        return Count(len(inputs.words) * inputs.factor)


class Say(Node[Both, Sentence]):
    name = "say"

    def run(self, inputs: Both, context: Context) -> Sentence:
        return Sentence(f"{inputs.count} words, {inputs.length} letters")


GRAPH = Graph(Inputs, (Say(), CountWords(), Measure(), Split()))


class FakeNode(Node[Any, Any]):
    """A node with the given ports, which runs a function."""

    def __init__(
        self, name: str, takes: type, gives: type, action: Callable[[Any, Context], Any] | None = None
    ):
        self.name = name
        self._ports = (takes, gives)
        self._action = action

    def ports(self) -> tuple[type, type]:
        return self._ports

    def run(self, inputs: Any, context: Context) -> Any:
        assert self._action is not None
        return self._action(inputs, context)


class Wider(Node[Counting, Count]):
    """Sends the run back until the factor is at least 8."""

    name = "count"

    def run(self, inputs: Counting, context: Context) -> Count:
        if inputs.factor < 8:
            context.send_back(factor=inputs.factor * 4)
        return Count(len(inputs.words) * inputs.factor)
