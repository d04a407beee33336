"""Running a graph: independent nodes side by side, each within its limits, and a trace of everything."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from graphlib import TopologicalSorter
from typing import Any, Final

from vectuned.config.errors import ConfigurationError, UsageError
from vectuned.reasoning.errors import (
    NodeTimeoutError,
    ReasoningError,
    RunCancelledError,
    WrongInputsError,
    WrongOutputError,
    is_retryable,
    node_error,
)
from vectuned.reasoning.trace import Status, Step, Trace

from .connections import ConnectionPool
from .context import Cancellation, Context, SendBack
from .graph import Plan, holds, type_name

logger = logging.getLogger(__name__)

_LONGEST: Final = 3600.0


@dataclass(frozen=True)
class Run:
    """A run that came to its end: the values of all ports by name, and its trace."""

    values: Mapping[str, Any]
    trace: Trace

    def __getitem__(self, port: str) -> Any:
        """Return the value of a port."""
        return self.values[port]


@dataclass
class _Attempt:
    """An attempt under way, or (without a future) one that waits to be made again."""

    node: str
    number: int
    inputs: Any
    context: Context
    started: float
    deadline: float
    future: Future[Any] | None = None


@dataclass
class _Round:
    """One way through the graph."""

    number: int
    values: dict[str, Any]
    sorter: TopologicalSorter[str]
    under_way: list[_Attempt] = field(default_factory=list)


def run(
    plan: Plan,
    inputs: Any,
    *,
    connections: ConnectionPool | None = None,
    cancellation: Cancellation | None = None,
    rounds: int = 2,
    correlation_id: str | None = None,
    workers: ThreadPoolExecutor | None = None,
) -> Run:
    """Run a graph on its inputs, an instance of `plan.inputs`.

    A node starts as soon as all that it waits for is there. If one fails, what is under way is stopped and
    its error raised, with the trace so far as `error.trace`. A node may send the run back, until it has been
    done `rounds` times. Threads cannot be killed: an attempt that takes too long is told to stop, its
    statement is cancelled, and its result is not waited for. Runs may share `workers`; an attempt that waits
    for one of them is under way.
    """
    runner = _Runner(plan, connections, cancellation or Cancellation(), rounds, correlation_id)
    if workers is not None:
        return runner.run(inputs, workers)
    widest = max((len(layer) for layer in plan.layers()), default=1)
    # What was given up may still hold a thread, so there is one more for every node's next attempt.
    own = ThreadPoolExecutor(widest + len(plan.nodes), thread_name_prefix="reasoning")
    try:
        return runner.run(inputs, own)
    finally:
        own.shutdown(wait=False, cancel_futures=True)


class _Runner:
    def __init__(
        self,
        plan: Plan,
        connections: ConnectionPool | None,
        cancellation: Cancellation,
        rounds: int,
        correlation_id: str | None,
    ) -> None:
        self._plan = plan
        self._connections = connections
        self._cancellation = cancellation
        self._rounds = rounds
        self._began = time.perf_counter()
        self._trace = Trace(correlation_id or str(uuid.uuid4()), datetime.now(UTC))
        self._stopped: Future[None] = Future()

    def run(self, inputs: Any, workers: ThreadPoolExecutor) -> Run:
        if not isinstance(inputs, self._plan.inputs):
            wanted, given = type_name(self._plan.inputs), type(inputs).__name__
            raise WrongInputsError(wanted=wanted, given=given, correlation_id=self._trace.correlation_id)
        try:
            with self._cancellation.calling(self._wake):
                values = self._run_rounds(workers, inputs)
        except ReasoningError as error:
            error.correlation_id = error.correlation_id or self._trace.correlation_id
            self._finish("cancelled" if isinstance(error, RunCancelledError) else "failed")
            error.trace = self._trace
            raise
        self._finish("ok")
        return Run(values, self._trace)

    def _wake(self) -> None:
        if not self._stopped.done():
            self._stopped.set_result(None)

    def _finish(self, status: Any) -> None:
        self._trace.status = status
        self._trace.duration_ms = self._now_ms()

    def _now_ms(self) -> float:
        return (time.perf_counter() - self._began) * 1000

    def _run_rounds(self, workers: ThreadPoolExecutor, inputs: Any) -> dict[str, Any]:
        number = 1
        while True:
            try:
                return self._run_once(workers, inputs, number)
            except SendBack as wish:
                inputs = replace(inputs, **wish.changes)
                number += 1

    def _run_once(self, workers: ThreadPoolExecutor, inputs: Any, number: int) -> dict[str, Any]:
        values = {each.name: getattr(inputs, each.name) for each in fields(inputs)}
        sorter = TopologicalSorter(self._plan.after)
        sorter.prepare()
        way = _Round(number, values, sorter)
        try:
            while sorter.is_active():
                for name in sorter.get_ready():
                    way.under_way.append(self._begin(workers, way, name, 1))
                self._await(workers, way)
        finally:
            for attempt in way.under_way:
                attempt.context.cancellation.cancel()
                if attempt.future is not None:
                    attempt.future.cancel()
                    self._record(way, attempt, "cancelled")
        return values

    def _begin(self, workers: ThreadPoolExecutor, way: _Round, name: str, number: int) -> _Attempt:
        node = self._plan.nodes[name]
        kind = self._plan.takes[name]
        inputs = kind(**{e.name: way.values[e.name] for e in fields(kind) if e.name in way.values})
        seconds = node.limits.seconds
        context = Context(
            correlation_id=self._trace.correlation_id,
            node=name,
            attempt=number,
            round=way.number,
            may_send_back=way.number < self._rounds,
            seconds=seconds,
            connections=self._connections,
        )
        now = time.perf_counter()
        deadline = now + (_LONGEST if seconds is None else seconds)
        return _Attempt(
            name, number, inputs, context, now, deadline, workers.submit(node.run, inputs, context)
        )

    def _await(self, workers: ThreadPoolExecutor, way: _Round) -> None:
        """Wait until something ends, or is due, and deal with it."""
        due = min(attempt.deadline for attempt in way.under_way)
        futures = {attempt.future for attempt in way.under_way if attempt.future is not None}
        wait({*futures, self._stopped}, max(due - time.perf_counter(), 0.0), FIRST_COMPLETED)
        if self._cancellation.is_cancelled:
            raise RunCancelledError(correlation_id=self._trace.correlation_id)
        now = time.perf_counter()
        for attempt in list(way.under_way):
            if attempt.future is None:
                if attempt.deadline <= now:
                    way.under_way.remove(attempt)
                    way.under_way.append(self._begin(workers, way, attempt.node, attempt.number))
            elif attempt.future.done():
                way.under_way.remove(attempt)
                self._end(way, attempt, attempt.future)
            elif attempt.deadline <= now:
                way.under_way.remove(attempt)
                self._give_up(way, attempt)

    def _end(self, way: _Round, attempt: _Attempt, future: Future[Any]) -> None:
        node = self._plan.nodes[attempt.node]
        try:
            outputs = future.result()
            self._check(attempt.node, outputs)
        except SendBack as wish:
            self._record(way, attempt, "sent_back")
            self._log(logging.INFO, "send_back", "node %s sends the run back", attempt.node)
            raise SendBack(wish.changes) from None
        except Exception as error:  # a node may be anybody's: whatever it raises ends the run as one of ours
            found = node_error(error, attempt.node, self._trace.correlation_id)
            self._record(way, attempt, "failed", error=found)
            if not is_retryable(found) or attempt.number >= node.limits.attempts:
                # Who asked or configured wrongly is told so; the rest is for whoever runs this.
                asked = (UsageError.exit_code, ConfigurationError.exit_code)
                level = logging.INFO if found.exit_code in asked else logging.ERROR
                self._log(level, "node_failed", "node %s: %s", attempt.node, found, cause=found.__cause__)
                raise found from found.__cause__
            self._log(logging.WARNING, "node_retried", "node %s: %s", attempt.node, found)
            due = time.perf_counter() + node.limits.backoff * 2 ** (attempt.number - 1)
            again = replace(attempt, number=attempt.number + 1, deadline=due, future=None)
            way.under_way.append(again)
        else:
            self._record(way, attempt, "ok", outputs=outputs)
            way.values |= {each.name: getattr(outputs, each.name) for each in fields(outputs)}
            way.sorter.done(attempt.node)

    def _check(self, name: str, outputs: Any) -> None:
        kind = self._plan.gives[name]
        if not isinstance(outputs, kind):
            given = type(outputs).__name__
            raise WrongOutputError(node=name, port="the result", wanted=type_name(kind), given=given)
        for port, wanted in self._plan.types[name].items():
            value = getattr(outputs, port)
            if not holds(value, wanted):
                given = type(value).__name__
                raise WrongOutputError(node=name, port=port, wanted=type_name(wanted), given=given)

    def _give_up(self, way: _Round, attempt: _Attempt) -> None:
        seconds = self._plan.nodes[attempt.node].limits.seconds
        late = NodeTimeoutError(
            node=attempt.node, seconds=f"{seconds:g}", correlation_id=self._trace.correlation_id
        )
        # Recorded first: what it says while it is being stopped is no news.
        self._record(way, attempt, "timed_out", error=late)
        self._log(logging.ERROR, "node_timeout", "node %s: %s", attempt.node, late)
        attempt.context.cancellation.cancel()
        raise late

    def _record(
        self,
        way: _Round,
        attempt: _Attempt,
        status: Status,
        outputs: Any = None,
        error: ReasoningError | None = None,
    ) -> None:
        start = (attempt.started - self._began) * 1000
        self._trace.steps.append(
            Step(
                node=attempt.node,
                round=way.number,
                attempt=attempt.number,
                status=status,
                start_ms=start,
                duration_ms=self._now_ms() - start,
                after=tuple(sorted(self._plan.after[attempt.node])),
                given=attempt.inputs,
                gave=outputs,
                decisions=tuple(attempt.context.decisions),
                error=None if error is None else error.to_json(),
            )
        )

    def _log(
        self, level: int, action: str, text: str, *values: object, cause: BaseException | None = None
    ) -> None:
        extra = {"action": action, "correlation_id": self._trace.correlation_id}
        logger.log(level, text, *values, extra=extra, exc_info=cause)
