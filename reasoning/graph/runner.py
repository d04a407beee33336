"""Run a graph: independent nodes in parallel, each within its limits, and a trace of every attempt."""

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
from .graph import Plan
from .port_types import is_instance, type_name

log = logging.getLogger(__name__)

_NO_LIMIT: Final = 3600.0  # seconds after which even a node without a limit times out: no wait is endless


@dataclass(frozen=True)
class Run:
    """A successful run: the values of all ports by name, and the trace."""

    values: Mapping[str, Any]
    trace: Trace

    def __getitem__(self, port: str) -> Any:
        """Return the value of a port."""
        return self.values[port]


@dataclass
class _Attempt:
    """An attempt in progress, or (without a future) one that starts at its deadline."""

    node: str
    number: int
    inputs: Any
    context: Context
    started: float
    deadline: float
    future: Future[Any] | None = None


@dataclass
class _Round:
    """One pass through the graph."""

    number: int
    values: dict[str, Any]
    sorter: TopologicalSorter[str]
    attempts: list[_Attempt] = field(default_factory=list)


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

    A node starts as soon as its inputs are complete. If a node fails, the attempts in progress are cancelled
    and its error is raised, with the trace so far as `error.trace`. A node may send the run back until there
    have been `rounds` passes. An attempt that takes too long is cancelled, with the statement it runs, and
    its thread is left to end by itself. Runs may share `workers`; waiting for one counts against the limit of
    the attempt.
    """
    runner = _Runner(plan, connections, cancellation or Cancellation(), rounds, correlation_id)
    if workers is not None:
        return runner.run(inputs, workers)
    widest = max((len(layer) for layer in plan.layers()), default=1)
    # An abandoned attempt may still hold a thread, so each node has one more for its next attempt.
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
            with self._cancellation.on_cancel(self._wake):
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
            except SendBack as request:
                inputs = replace(inputs, **request.changes)
                number += 1

    def _run_once(self, workers: ThreadPoolExecutor, inputs: Any, number: int) -> dict[str, Any]:
        values = {each.name: getattr(inputs, each.name) for each in fields(inputs)}
        sorter = TopologicalSorter(self._plan.after)
        sorter.prepare()
        current = _Round(number, values, sorter)
        try:
            while sorter.is_active():
                for name in sorter.get_ready():
                    current.attempts.append(self._start_attempt(workers, current, name, 1))
                self._wait_for_one(workers, current)
        finally:
            for attempt in current.attempts:
                attempt.context.cancellation.cancel()
                if attempt.future is not None:
                    attempt.future.cancel()
                    self._record(current, attempt, "cancelled")
        return values

    def _start_attempt(
        self, workers: ThreadPoolExecutor, current: _Round, name: str, number: int
    ) -> _Attempt:
        node = self._plan.nodes[name]
        kind = self._plan.input_classes[name]
        inputs = kind(**{e.name: current.values[e.name] for e in fields(kind) if e.name in current.values})
        seconds = node.limits.seconds
        context = Context(
            correlation_id=self._trace.correlation_id,
            node=name,
            attempt=number,
            round=current.number,
            may_send_back=current.number < self._rounds,
            seconds=seconds,
            connections=self._connections,
        )
        now = time.perf_counter()
        deadline = now + (_NO_LIMIT if seconds is None else seconds)
        return _Attempt(
            name, number, inputs, context, now, deadline, workers.submit(node.run, inputs, context)
        )

    def _wait_for_one(self, workers: ThreadPoolExecutor, current: _Round) -> None:
        """Wait until an attempt ends or its deadline has passed, and handle it."""
        due = min(attempt.deadline for attempt in current.attempts)
        futures = {attempt.future for attempt in current.attempts if attempt.future is not None}
        wait({*futures, self._stopped}, max(due - time.perf_counter(), 0.0), FIRST_COMPLETED)
        if self._cancellation.is_cancelled:
            raise RunCancelledError(correlation_id=self._trace.correlation_id)
        now = time.perf_counter()
        for attempt in list(current.attempts):
            if attempt.future is None:
                if attempt.deadline <= now:
                    current.attempts.remove(attempt)
                    current.attempts.append(
                        self._start_attempt(workers, current, attempt.node, attempt.number)
                    )
            elif attempt.future.done():
                current.attempts.remove(attempt)
                self._finish_attempt(current, attempt, attempt.future)
            elif attempt.deadline <= now:
                current.attempts.remove(attempt)
                self._time_out(current, attempt)

    def _finish_attempt(self, current: _Round, attempt: _Attempt, future: Future[Any]) -> None:
        """Take the outputs of a node into the round, or raise what ends the round."""
        try:
            outputs = future.result()
            self._check(attempt.node, outputs)
        except SendBack as request:
            self._record(current, attempt, "sent_back")
            self._log(logging.INFO, "send_back", "node %s sends the run back", attempt.node)
            raise SendBack(request.changes) from None
        except Exception as error:  # nodes of applications may raise anything
            self._fail_or_retry(current, attempt, node_error(error, attempt.node, self._trace.correlation_id))
        else:
            self._record(current, attempt, "ok", outputs=outputs)
            current.values |= {each.name: getattr(outputs, each.name) for each in fields(outputs)}
            current.sorter.done(attempt.node)

    def _fail_or_retry(self, current: _Round, attempt: _Attempt, error: ReasoningError) -> None:
        """Schedule another attempt if the error may pass and attempts are left, otherwise raise the error."""
        self._record(current, attempt, "failed", error=error)
        limits = self._plan.nodes[attempt.node].limits
        if not is_retryable(error) or attempt.number >= limits.attempts:
            # The caller can correct a wrong question or setting; anything else is for the operator.
            caller_errors = (UsageError.exit_code, ConfigurationError.exit_code)
            level = logging.INFO if error.exit_code in caller_errors else logging.ERROR
            self._log(level, "node_failed", "node %s: %s", attempt.node, error, cause=error.__cause__)
            raise error from error.__cause__
        self._log(logging.WARNING, "node_retried", "node %s: %s", attempt.node, error)
        due = time.perf_counter() + limits.backoff * 2 ** (attempt.number - 1)
        current.attempts.append(replace(attempt, number=attempt.number + 1, deadline=due, future=None))

    def _check(self, name: str, outputs: Any) -> None:
        """Raise WrongOutputError unless the outputs have the declared types."""
        kind = self._plan.output_classes[name]
        if not isinstance(outputs, kind):
            given = type(outputs).__name__
            raise WrongOutputError(node=name, port="the result", wanted=type_name(kind), given=given)
        for port, wanted in self._plan.output_types[name].items():
            value = getattr(outputs, port)
            if not is_instance(value, wanted):
                given = type(value).__name__
                raise WrongOutputError(node=name, port=port, wanted=type_name(wanted), given=given)

    def _time_out(self, current: _Round, attempt: _Attempt) -> None:
        seconds = self._plan.nodes[attempt.node].limits.seconds
        late = NodeTimeoutError(
            node=attempt.node, seconds=f"{seconds:g}", correlation_id=self._trace.correlation_id
        )
        # Recorded before it is cancelled: decisions that it records while it stops do not count.
        self._record(current, attempt, "timed_out", error=late)
        self._log(logging.ERROR, "node_timeout", "node %s: %s", attempt.node, late)
        attempt.context.cancellation.cancel()
        raise late

    def _record(
        self,
        current: _Round,
        attempt: _Attempt,
        status: Status,
        outputs: Any = None,
        error: ReasoningError | None = None,
    ) -> None:
        start = (attempt.started - self._began) * 1000
        self._trace.steps.append(
            Step(
                node=attempt.node,
                round=current.number,
                attempt=attempt.number,
                status=status,
                start_ms=start,
                duration_ms=self._now_ms() - start,
                after=tuple(sorted(self._plan.after[attempt.node])),
                taken=attempt.inputs,
                returned=outputs,
                decisions=tuple(attempt.context.decisions),
                error=None if error is None else error.to_json(),
            )
        )

    def _log(
        self, level: int, action: str, text: str, *values: object, cause: BaseException | None = None
    ) -> None:
        extra = {"action": action, "correlation_id": self._trace.correlation_id}
        log.log(level, text, *values, extra=extra, exc_info=cause)
