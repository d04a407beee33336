"""Graphs are checked before they run, and a run keeps order, time and attempts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, cast

import psycopg
import pytest

from vectuned.reasoning import errors
from vectuned.reasoning.graph.context import Cancellation, Context
from vectuned.reasoning.graph.graph import Graph, Limits, Node
from vectuned.reasoning.graph.port_types import is_assignable, is_instance, type_name
from vectuned.reasoning.graph.runner import run
from vectuned.reasoning.graph.testing import (
    StubNode,
    assert_before,
    only_step,
    outline,
    run_node,
    with_stubs,
)


@dataclass(frozen=True)
class Given:
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
class Said:
    said: str


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


class Say(Node[Both, Said]):
    name = "say"

    def run(self, inputs: Both, context: Context) -> Said:
        return Said(f"{inputs.count} words, {inputs.length} letters")


GRAPH = Graph(Given, (Say(), CountWords(), Measure(), Split()))


class Odd(Node[Any, Any]):
    """A node with the ports it is made with."""

    def __init__(
        self, name: str, takes: type, gives: type, does: Callable[[Any, Context], Any] | None = None
    ):
        self.name = name
        self._ports = (takes, gives)
        self._does = does

    def ports(self) -> tuple[type, type]:
        return self._ports

    def run(self, inputs: Any, context: Context) -> Any:
        assert self._does is not None
        return self._does(inputs, context)


def test_a_run_keeps_the_order_and_leaves_a_trace() -> None:
    done = run(GRAPH.plan(), Given("three short words"))
    assert done["said"] == "3 words, 17 letters"
    trace = done.trace
    assert trace.status == "ok"
    assert sorted(outline(trace)) == ["count", "measure", "say", "split"]
    assert_before(trace, "split", "count")
    assert_before(trace, "measure", "say")
    step = only_step(trace, "count")
    assert step.inputs == {"words": ["three", "short", "words"], "factor": 1}
    assert step.outputs == {"count": 3}
    assert step.after == ("split",)
    assert step.decisions == ({"what": "counted", "factor": 1},)
    plain = trace.to_json()
    assert plain["correlation_id"] == trace.correlation_id
    assert {each["node"] for each in plain["steps"]} == set(GRAPH.plan().order)
    assert (
        plain["duration_ms"] >= max(each["start_ms"] + each["duration_ms"] for each in plain["steps"]) - 0.01
    )


def test_a_graph_is_changed_by_name_and_stays_as_it_was() -> None:
    louder = StubNode(GRAPH["say"], lambda inputs: Said("LOUD"))
    assert run(GRAPH.replace("say", louder).plan(), Given("a b"))["said"] == "LOUD"
    assert louder.calls == [Both(2, 3)]
    assert run(with_stubs(GRAPH, count={"count": 9}).plan(), Given("a b"))["said"].startswith("9 words")
    less = GRAPH.remove("say").remove("count")
    assert less.plan().order == ("measure", "split") or less.plan().order == ("split", "measure")
    assert run(GRAPH.plan(), Given("a b"))["said"] == "2 words, 3 letters"
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

    # Without types, as somebody writes it who forgets them: that is what is refused.
    def run(self, inputs, context):  # type: ignore[no-untyped-def]
        return inputs


@pytest.mark.parametrize(
    ("graph", "error", "says"),
    [
        (GRAPH.remove("split"), errors.MissingInputError, r"Node count needs the input words"),
        (
            GRAPH.add(Odd("other", Text, Length)),
            errors.DuplicateProducerError,
            r"other produces length, as does measure",
        ),
        (
            GRAPH.add(Odd("echo", Words, Text)),
            errors.DuplicateProducerError,
            r"echo produces text, as does the graph's",
        ),
        (
            GRAPH.replace("split", Odd("split", Text, BadWords)),
            errors.PortTypeError,
            r"Node count takes tuple\[str, ...\] at the input words, but split produces list\[str\]",
        ),
        (
            GRAPH.replace("count", Odd("count", Counting, BadCount)),
            errors.PortTypeError,
            r"say takes int at the input count",
        ),
        (
            Graph(Given, (Odd("hen", Count, Length), Odd("egg", Length, Count))),
            errors.CycleError,
            r"hen -> egg|egg -> hen",
        ),
        (
            Graph(Given, (Undeclared(),)),
            errors.SignatureError,
            r"vague does not declare its ports \(inputs\)",
        ),
    ],
)
def test_what_does_not_fit_is_named(graph: Graph, error: type[errors.GraphError], says: str) -> None:
    with pytest.raises(error, match=says) as raised:
        graph.plan()
    assert raised.value.exit_code == 2
    assert raised.value.to_json()["code"].startswith("GRAPH_")


def test_an_input_with_a_default_is_optional() -> None:
    @dataclass(frozen=True)
    class Nothing:
        pass

    assert run(Graph(Text, (Split(), CountWords())).plan(), Text("a b c"))["count"] == 3
    assert run(GRAPH.plan(), Given("a b c", factor=2))["count"] == 6
    with pytest.raises(errors.WrongInputsError, match="takes Given as its inputs, but was given Nothing"):
        run(GRAPH.plan(), Nothing())


@pytest.mark.parametrize(
    ("given", "wanted", "whether"),
    [
        (int, float, True),
        (float, int, False),
        (bool, int, True),
        (int, int | None, True),
        (int | None, int, False),
        (int | str, int | str | None, True),
        (tuple[str, ...], Sequence[str], True),
        (tuple[int, str], tuple[int, str], True),
        (tuple[int, str], tuple[int, ...], False),
        (list[int], Sequence[str], False),
        (dict[str, int], dict[str, float], True),
        (list[bool], list[int], True),
        (Given, Text, False),
        (None, type(None), True),
        (str, Any, True),
        (Any, str, True),
    ],
)
def test_types_fit_as_a_type_checker_says(given: Any, wanted: Any, whether: bool) -> None:
    assert is_assignable(given, wanted) is whether


@pytest.mark.parametrize(
    ("value", "kind", "whether"),
    [
        (1, float, True),
        (True, float, False),
        ("a", int | None, False),
        (None, int | None, True),
        ((1, 2), tuple[int, ...], True),
        (("a",), tuple[int, ...], False),
        ([], list[int], True),
    ],
)
def test_values_are_held_against_their_types(value: Any, kind: Any, whether: bool) -> None:
    assert is_instance(value, kind) is whether


def test_types_are_named_as_they_are_written() -> None:
    assert type_name(tuple[int, ...] | None) == "tuple[int, ...] | None"
    assert type_name(dict[str, Given]) == "dict[str, Given]"


def test_a_wrong_result_is_an_error() -> None:
    def result(value: Any) -> Graph:
        return GRAPH.replace("count", Odd("count", Counting, Count, lambda inputs, context: value))

    with pytest.raises(errors.WrongOutputError, match="count returned str at count, but declares int"):
        run(result(Count(cast(Any, "three"))).plan(), Given("a"))
    with pytest.raises(errors.WrongOutputError, match="count returned int at the result"):
        run(result(3).plan(), Given("a"))


def test_independent_nodes_run_side_by_side() -> None:
    meeting = threading.Barrier(2, timeout=5)

    def meet(name: str) -> Callable[[Any, Context], Any]:
        def does(inputs: Any, context: Context) -> Any:
            meeting.wait()
            return GRAPH[name].run(inputs, context)

        return does

    graph = GRAPH.replace("split", Odd("split", Text, Words, meet("split")))
    graph = graph.replace("measure", Odd("measure", Text, Length, meet("measure")))
    assert run(graph.plan(), Given("a b"))["said"] == "2 words, 3 letters"


class Flaky(Node[Text, Words]):
    """Fails by `error` until it was tried `good` times."""

    name = "split"

    def __init__(self, error: Exception, good: int, attempts: int = 3) -> None:
        self.limits = Limits(attempts=attempts, backoff=0.01)
        self._error, self._good, self.calls = error, good, 0

    def run(self, inputs: Text, context: Context) -> Words:
        self.calls += 1
        assert context.attempt == self.calls
        if self.calls < self._good:
            raise self._error
        return Words(tuple(inputs.text.split()))


@pytest.mark.parametrize(
    "error",
    [
        errors.StoreUnavailableError(),
        psycopg.OperationalError("lost"),
        psycopg.errors.SerializationFailure("again"),
    ],
)
def test_what_may_pass_is_tried_again_ever_later(error: Exception) -> None:
    node = Flaky(error, good=3)
    done = run(GRAPH.replace("split", node).plan(), Given("a b"))
    assert done["said"] == "2 words, 3 letters"
    steps = done.trace.steps_of("split")
    assert [(step.attempt, step.status) for step in steps] == [(1, "failed"), (2, "failed"), (3, "ok")]
    waits = [b.start_ms - a.start_ms - a.duration_ms for a, b in pairwise(steps)]
    assert waits[0] >= 9
    assert waits[1] >= 19


def test_what_will_not_pass_is_not_tried_again() -> None:
    node = Flaky(psycopg.errors.UndefinedTable('relation "secret" does not exist'), good=3)
    with pytest.raises(errors.StoreError, match="SQLSTATE 42P01") as raised:
        run(GRAPH.replace("split", node).plan(), Given("a b"))
    assert node.calls == 1
    assert "secret" not in str(raised.value.to_json())
    assert isinstance(raised.value.__cause__, psycopg.errors.UndefinedTable)
    assert raised.value.trace is not None
    assert raised.value.trace.status == "failed"
    assert raised.value.trace.correlation_id == raised.value.correlation_id
    assert "split: failed" in outline(raised.value.trace)


def test_attempts_come_to_an_end() -> None:
    node = Flaky(errors.StoreUnavailableError(), good=9, attempts=2)
    with pytest.raises(errors.StoreUnavailableError):
        run(GRAPH.replace("split", node).plan(), Given("a b"))
    assert node.calls == 2


def test_a_foreign_error_says_nothing_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    node = Flaky(RuntimeError("/etc/secret of user 7"), good=9)
    with pytest.raises(errors.NodeFailedError) as raised:
        run(GRAPH.replace("split", node).plan(), Given("a b"), correlation_id="c-1")
    assert raised.value.to_json() == {
        "code": "NODE_FAILED",
        "message": "Node split failed with an unexpected error; the log has it under the correlation id.",
        "correlation_id": "c-1",
        "i18n": {"key": "errors.run.failed", "params": {"node": "split"}},
        "details": [],
    }
    (record,) = [record for record in caplog.records if record.name == "vectuned.reasoning.graph.runner"]
    assert vars(record)["correlation_id"] == "c-1"
    assert record.exc_info is not None
    assert "secret" in str(record.exc_info[1])


def sleeper(stopped: threading.Event, seconds: float | None) -> Odd:
    def does(inputs: Any, context: Context) -> Any:
        assert context.cancellation.wait(5)
        stopped.set()
        context.raise_if_cancelled()

    node = Odd("split", Text, Words, does)
    node.limits = Limits(seconds=seconds)
    return node


def test_a_node_that_takes_too_long_is_told_to_stop() -> None:
    stopped = threading.Event()
    began = time.perf_counter()
    with pytest.raises(
        errors.NodeTimeoutError, match=r"Node split took longer than its limit of 0.05 s"
    ) as raised:
        run(GRAPH.replace("split", sleeper(stopped, 0.05)).plan(), Given("a"))
    assert time.perf_counter() - began < 1
    assert stopped.wait(5)
    assert raised.value.trace is not None
    assert "split: timed_out" in outline(raised.value.trace)


def test_a_run_can_be_cancelled() -> None:
    stopped = threading.Event()
    cancellation = Cancellation()
    timer = threading.Timer(0.05, cancellation.cancel)
    timer.start()
    with pytest.raises(errors.RunCancelledError) as raised:
        run(GRAPH.replace("split", sleeper(stopped, None)).plan(), Given("a"), cancellation=cancellation)
    timer.join()
    assert stopped.wait(5)
    assert raised.value.trace is not None
    assert raised.value.trace.status == "cancelled"
    assert "split: cancelled" in outline(raised.value.trace)
    with pytest.raises(errors.RunCancelledError):
        run(GRAPH.plan(), Given("a"), cancellation=cancellation)


class Wider(Node[Counting, Count]):
    """Wants a factor of 8 at least."""

    name = "count"

    def run(self, inputs: Counting, context: Context) -> Count:
        if inputs.factor < 8:
            context.send_back(factor=inputs.factor * 4)
        return Count(len(inputs.words) * inputs.factor)


@pytest.mark.parametrize(("rounds", "count"), [(1, 1), (2, 4), (3, 16), (9, 16)])
def test_a_node_may_send_the_run_back_so_often(rounds: int, count: int) -> None:
    done = run(GRAPH.replace("count", Wider()).plan(), Given("one"), rounds=rounds)
    assert done["count"] == count
    assert done.trace.rounds == min(rounds, 3)
    assert [step.status for step in done.trace.steps_of("count")][:-1] == ["sent_back"] * (
        done.trace.rounds - 1
    )


def test_one_node_runs_alone() -> None:
    done = run_node(CountWords(), words=("a", "b"), factor=3)
    assert done["count"] == 6
    assert outline(done.trace) == ["count"]
    assert run_node(Wider(), words=("a",), factor=2)["count"] == 2
    with pytest.raises(errors.NodeFailedError):
        run_node(CountWords(), words=5)


def test_many_runs_of_one_graph_do_not_mix() -> None:
    plan = GRAPH.plan()
    said: dict[int, str] = {}

    def ask(words: int) -> None:
        said[words] = run(plan, Given("x " * words))["said"]

    threads = [threading.Thread(target=ask, args=(words,)) for words in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == {words: f"{words} words, {2 * words} letters" for words in range(20)}


def test_limits_can_be_set_for_one_graph_alone() -> None:
    node = Split()
    node.limits = replace(node.limits, seconds=0.5)
    assert Split().limits.seconds == Limits().seconds
