"""Runs keep the order of nodes, their time limits and attempts, and leave a trace."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any, cast

import psycopg
import pytest
from tests.unit.reasoning.graph.graph_helpers import (
    GRAPH,
    Count,
    Counting,
    CountWords,
    FakeNode,
    Inputs,
    Length,
    Text,
    Wider,
    Words,
)

from vectuned.reasoning import errors
from vectuned.reasoning.graph.context import Cancellation, Context
from vectuned.reasoning.graph.graph import Graph, Limits, Node
from vectuned.reasoning.graph.runner import run
from vectuned.reasoning.graph.testing import (
    assert_before,
    only_step,
    outline,
    run_node,
)


def test_run_keeps_the_order_and_leaves_a_trace() -> None:
    done = run(GRAPH.plan(), Inputs("three short words"))
    assert done["sentence"] == "3 words, 17 letters"
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


def test_run_with_a_wrong_result_raises() -> None:
    def result(value: Any) -> Graph:
        return GRAPH.replace("count", FakeNode("count", Counting, Count, lambda inputs, context: value))

    with pytest.raises(errors.WrongOutputError, match="count returned str at count, but declares int"):
        run(result(Count(cast(Any, "three"))).plan(), Inputs("a"))
    with pytest.raises(errors.WrongOutputError, match="count returned int at the result"):
        run(result(3).plan(), Inputs("a"))


def test_run_executes_independent_nodes_in_parallel() -> None:
    meeting = threading.Barrier(2, timeout=300)

    def meet(name: str) -> Callable[[Any, Context], Any]:
        def action(inputs: Any, context: Context) -> Any:
            meeting.wait()
            return GRAPH[name].run(inputs, context)

        return action

    graph = GRAPH.replace("split", FakeNode("split", Text, Words, meet("split")))
    graph = graph.replace("measure", FakeNode("measure", Text, Length, meet("measure")))
    assert run(graph.plan(), Inputs("a b"))["sentence"] == "2 words, 3 letters"


class Flaky(Node[Text, Words]):
    """Raises `error` until attempt number `good`."""

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
def test_run_retries_temporary_errors_after_growing_pauses(error: Exception) -> None:
    node = Flaky(error, good=3)
    done = run(GRAPH.replace("split", node).plan(), Inputs("a b"))
    assert done["sentence"] == "2 words, 3 letters"
    steps = done.trace.steps_of("split")
    assert [(step.attempt, step.status) for step in steps] == [(1, "failed"), (2, "failed"), (3, "ok")]
    waits = [b.start_ms - a.start_ms - a.duration_ms for a, b in pairwise(steps)]
    assert waits[0] >= 9
    assert waits[1] >= 19


def test_run_does_not_retry_permanent_errors() -> None:
    node = Flaky(psycopg.errors.UndefinedTable('relation "secret" does not exist'), good=3)
    with pytest.raises(errors.StoreError, match="SQLSTATE 42P01") as raised:
        run(GRAPH.replace("split", node).plan(), Inputs("a b"))
    assert node.calls == 1
    assert "secret" not in str(raised.value.to_json())
    assert isinstance(raised.value.__cause__, psycopg.errors.UndefinedTable)
    assert raised.value.trace is not None
    assert raised.value.trace.status == "failed"
    assert raised.value.trace.correlation_id == raised.value.correlation_id
    assert "split: failed" in outline(raised.value.trace)


def test_run_stops_after_the_last_attempt() -> None:
    node = Flaky(errors.StoreUnavailableError(), good=9, attempts=2)
    with pytest.raises(errors.StoreUnavailableError):
        run(GRAPH.replace("split", node).plan(), Inputs("a b"))
    assert node.calls == 2


def test_run_hides_the_message_of_a_foreign_error(caplog: pytest.LogCaptureFixture) -> None:
    node = Flaky(RuntimeError("/etc/secret of user 7"), good=9)
    with pytest.raises(errors.NodeFailedError) as raised:
        run(GRAPH.replace("split", node).plan(), Inputs("a b"), correlation_id="c-1")
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


def sleeper(
    stopped: threading.Event,
    seconds: float | None,
    release: threading.Event | None = None,
    started: threading.Event | None = None,
) -> FakeNode:
    def action(inputs: Any, context: Context) -> Any:
        if started is not None:
            started.set()
        assert context.cancellation.wait(60)
        assert release is None or release.wait(60)
        stopped.set()
        context.raise_if_cancelled()

    node = FakeNode("split", Text, Words, action)
    node.limits = Limits(seconds=seconds)
    return node


def test_run_cancels_a_node_that_takes_too_long() -> None:
    stopped, release = threading.Event(), threading.Event()
    with pytest.raises(
        errors.NodeTimeoutError, match=r"Node split took longer than its limit of 0.05 s"
    ) as raised:
        run(GRAPH.replace("split", sleeper(stopped, 0.05, release)).plan(), Inputs("a"))
    assert not stopped.is_set()  # the run does not wait for the node
    release.set()
    assert stopped.wait(60)
    assert raised.value.trace is not None
    assert "split: timed_out" in outline(raised.value.trace)


def test_run_stops_when_cancelled() -> None:
    started, stopped = threading.Event(), threading.Event()
    cancellation = Cancellation()

    def cancel() -> None:
        assert started.wait(60)
        cancellation.cancel()

    canceller = threading.Thread(target=cancel)
    canceller.start()
    graph = GRAPH.replace("split", sleeper(stopped, None, started=started))
    with pytest.raises(errors.RunCancelledError) as raised:
        run(graph.plan(), Inputs("a"), cancellation=cancellation)
    canceller.join()
    assert stopped.wait(60)
    assert raised.value.trace is not None
    assert raised.value.trace.status == "cancelled"
    assert "split: cancelled" in outline(raised.value.trace)
    with pytest.raises(errors.RunCancelledError):
        run(GRAPH.plan(), Inputs("a"), cancellation=cancellation)


@pytest.mark.parametrize(("rounds", "count"), [(1, 1), (2, 4), (3, 16), (9, 16)])
def test_run_is_sent_back_until_the_last_round(rounds: int, count: int) -> None:
    done = run(GRAPH.replace("count", Wider()).plan(), Inputs("one"), rounds=rounds)
    assert done["count"] == count
    assert done.trace.rounds == min(rounds, 3)
    assert [step.status for step in done.trace.steps_of("count")][:-1] == ["sent_back"] * (
        done.trace.rounds - 1
    )


def test_run_node_runs_one_node_alone() -> None:
    done = run_node(CountWords(), words=("a", "b"), factor=3)
    assert done["count"] == 6
    assert outline(done.trace) == ["count"]
    assert run_node(Wider(), words=("a",), factor=2)["count"] == 2
    with pytest.raises(errors.NodeFailedError):
        run_node(CountWords(), words=5)


def test_run_in_many_threads_keeps_values_apart() -> None:
    plan = GRAPH.plan()
    sentences: dict[int, str] = {}

    def ask(words: int) -> None:
        sentences[words] = run(plan, Inputs("x " * words))["sentence"]

    threads = [threading.Thread(target=ask, args=(words,)) for words in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sentences == {words: f"{words} words, {2 * words} letters" for words in range(20)}
