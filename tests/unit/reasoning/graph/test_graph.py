"""Graphs are changed by name and checked before they run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from tests.unit.reasoning.graph.graph_helpers import (
    GRAPH,
    Both,
    Count,
    Counting,
    CountWords,
    FakeNode,
    Inputs,
    Length,
    Say,
    Sentence,
    Split,
    Text,
    Words,
)

from vectuned.reasoning import errors
from vectuned.reasoning.graph.graph import Graph, Limits, Node
from vectuned.reasoning.graph.runner import run
from vectuned.reasoning.graph.testing import (
    StubNode,
    with_stubs,
)


def test_graph_changes_by_name_return_another_graph() -> None:
    louder = StubNode(GRAPH["say"], lambda inputs: Sentence("LOUD"))
    assert run(GRAPH.replace("say", louder).plan(), Inputs("a b"))["sentence"] == "LOUD"
    assert louder.calls == [Both(2, 3)]
    assert run(with_stubs(GRAPH, count={"count": 9}).plan(), Inputs("a b"))["sentence"].startswith("9 words")
    less = GRAPH.remove("say").remove("count")
    assert less.plan().order == ("measure", "split") or less.plan().order == ("split", "measure")
    assert run(GRAPH.plan(), Inputs("a b"))["sentence"] == "2 words, 3 letters"
    with pytest.raises(
        errors.UnknownNodeError, match=r"no node sing; the graph has say, count, measure, split"
    ):
        GRAPH.remove("sing")
    with pytest.raises(errors.DuplicateNodeError, match="There already is a node say"):
        GRAPH.add(Say())


@dataclass(frozen=True)
class BadWords:
    words: list[str]


@dataclass(frozen=True)
class BadCount:
    count: str


class Undeclared(Node[Any, Any]):
    name = "vague"

    # Without types: this is what `plan` rejects.
    def run(self, inputs, context):  # type: ignore[no-untyped-def]
        return inputs


@pytest.mark.parametrize(
    ("graph", "error", "message"),
    [
        (GRAPH.remove("split"), errors.MissingInputError, r"Node count needs the input words"),
        (
            GRAPH.add(FakeNode("other", Text, Length)),
            errors.DuplicateProducerError,
            r"other produces length, as does measure",
        ),
        (
            GRAPH.add(FakeNode("echo", Words, Text)),
            errors.DuplicateProducerError,
            r"echo produces text, as does the graph's",
        ),
        (
            GRAPH.replace("split", FakeNode("split", Text, BadWords)),
            errors.PortTypeError,
            r"Node count takes tuple\[str, ...\] at the input words, but split produces list\[str\]",
        ),
        (
            GRAPH.replace("count", FakeNode("count", Counting, BadCount)),
            errors.PortTypeError,
            r"say takes int at the input count",
        ),
        (
            Graph(Inputs, (FakeNode("hen", Count, Length), FakeNode("egg", Length, Count))),
            errors.CycleError,
            r"hen -> egg|egg -> hen",
        ),
        (
            Graph(Inputs, (Undeclared(),)),
            errors.SignatureError,
            r"vague does not declare its ports \(inputs\)",
        ),
    ],
)
def test_plan_names_the_node_and_port_that_do_not_fit(
    graph: Graph, error: type[errors.GraphError], message: str
) -> None:
    with pytest.raises(error, match=message) as raised:
        graph.plan()
    assert raised.value.exit_code == 2
    assert raised.value.to_json()["code"].startswith("GRAPH_")


def test_plan_treats_an_input_with_a_default_as_optional() -> None:
    @dataclass(frozen=True)
    class Nothing:
        pass

    assert run(Graph(Text, (Split(), CountWords())).plan(), Text("a b c"))["count"] == 3
    assert run(GRAPH.plan(), Inputs("a b c", factor=2))["count"] == 6
    with pytest.raises(errors.WrongInputsError, match="takes Inputs as its inputs, but was given Nothing"):
        run(GRAPH.plan(), Nothing())


def test_limits_of_one_node_do_not_change_its_class() -> None:
    node = Split()
    node.limits = replace(node.limits, seconds=0.5)
    assert Split().limits.seconds == Limits().seconds
