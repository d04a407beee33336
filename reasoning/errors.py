"""The errors of reasoning: typed, with one JSON form, translated, and without internal details.

Each error has the correlation id of its run. Its message is made from a key and parameters alone; the cause,
with SQL, paths and stack, is kept as `__cause__` for the log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import psycopg

from vectuned.config.errors import DatabaseUnavailableError, VectunedError

from .messages import translate
from .trace import Trace

# SQLSTATE prefixes: connection exceptions and a server that shuts down; then transactions rolled back,
# insufficient resources and locks not available.
_LOST = ("08", "57P")
_TEMPORARY = ("40", "53", "55P03")


class ReasoningError(VectunedError):
    """An error of reasoning; `params` fill in the message of the class's key.

    `details` are objects with at least a `message`. `retryable` says whether another attempt may succeed.
    """

    code: ClassVar[str] = "INTERNAL"
    key: ClassVar[str] = "errors.internal.unexpected"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        *,
        correlation_id: str | None = None,
        details: Sequence[Mapping[str, str]] = (),
        **params: object,
    ) -> None:
        self.params = {name: str(value) for name, value in params.items()}
        self.correlation_id = correlation_id
        # The trace of the run up to this error.
        self.trace: Trace | None = None
        self.details = [dict(detail) for detail in details]
        super().__init__(self.message())

    def message(self, language: str = "en") -> str:
        """Return the message in a language."""
        return translate(self.key, self.params, language)

    def to_json(self, language: str = "en") -> dict[str, Any]:
        """Return the error as clients see it."""
        return {
            "code": self.code,
            "message": self.message(language),
            "correlation_id": self.correlation_id,
            "i18n": {"key": self.key, "params": dict(self.params)},
            "details": self.details,
        }


class GraphError(ReasoningError):
    """The nodes of a graph do not fit together."""

    exit_code = 2


class CycleError(GraphError):
    """Nodes wait for each other."""

    code, key = "GRAPH_CYCLE", "errors.graph.cycle"


class MissingInputError(GraphError):
    """Nothing produces what a node needs."""

    code, key = "GRAPH_MISSING_INPUT", "errors.graph.missing_input"


class PortTypeError(GraphError):
    """A node takes another type than the one that is produced."""

    code, key = "GRAPH_PORT_TYPE", "errors.graph.port_type"


class DuplicateProducerError(GraphError):
    """Two nodes produce the same port."""

    code, key = "GRAPH_DUPLICATE_PRODUCER", "errors.graph.duplicate_producer"


class DuplicateNodeError(GraphError):
    """Two nodes have the same name."""

    code, key = "GRAPH_DUPLICATE_NODE", "errors.graph.duplicate_node"


class UnknownNodeError(GraphError):
    """The graph has no node of that name."""

    code, key = "GRAPH_UNKNOWN_NODE", "errors.graph.unknown_node"


class SignatureError(GraphError):
    """A node does not declare its ports."""

    code, key = "GRAPH_SIGNATURE", "errors.graph.signature"


class WrongInputsError(GraphError):
    """A run was started with other inputs than its graph takes."""

    code, key = "GRAPH_WRONG_INPUTS", "errors.graph.wrong_inputs"


class RunError(ReasoningError):
    """A run failed or was cancelled."""


class NodeFailedError(RunError):
    """A node raised an error that is not one of vectuned's."""

    code, key = "NODE_FAILED", "errors.run.failed"


class RefusedError(RunError):
    """Another part of vectuned refused the request; the message is its own."""

    code, key = "REFUSED", "errors.run.refused"


class NodeTimeoutError(RunError):
    """A node exceeded its time limit."""

    code, key = "NODE_TIMEOUT", "errors.run.timeout"


class WrongOutputError(RunError):
    """A node returned another type than it declares."""

    code, key = "NODE_WRONG_OUTPUT", "errors.run.wrong_output"


class RunCancelledError(RunError):
    """The run was cancelled."""

    code, key = "RUN_CANCELLED", "errors.run.cancelled"


class StoreError(ReasoningError):
    """A statement on the entity store failed."""

    code, key = "STORE_FAILED", "errors.store.failed"


class StoreUnavailableError(StoreError):
    """The entity store cannot be reached or is overloaded."""

    code, key = "STORE_UNAVAILABLE", "errors.store.unavailable"
    retryable = True
    exit_code = 69


class StoreBusyError(StoreError):
    """No connection became free in time."""

    code, key = "STORE_BUSY", "errors.store.busy"
    retryable = True


class StoreMissingError(StoreError):
    """The database has no entity store."""

    code, key = "STORE_MISSING", "errors.store.missing"
    exit_code = 2


class StoreEmptyError(StoreError):
    """The entity store holds no entities."""

    code, key = "STORE_EMPTY", "errors.store.empty"
    exit_code = 2


class QuestionError(ReasoningError):
    """The question cannot be answered as it is."""

    exit_code = 2


class EmptyQuestionError(QuestionError):
    """The question is empty."""

    code, key = "QUESTION_EMPTY", "errors.question.empty"


class QuestionTooLongError(QuestionError):
    """The question is too long."""

    code, key = "QUESTION_TOO_LONG", "errors.question.too_long"


class EmbedderError(ReasoningError):
    """Texts cannot be embedded."""


class EmbedderMissingError(EmbedderError):
    """A package that the embedder needs is not installed."""

    code, key = "EMBEDDER_MISSING", "errors.embedder.package_missing"


class EmbedderBrokenError(EmbedderError):
    """The model in a package cannot be loaded."""

    code, key = "EMBEDDER_BROKEN", "errors.embedder.broken"


class EmbedderUnreachableError(EmbedderError):
    """The embedding endpoint did not answer as expected."""

    code, key = "EMBEDDER_UNAVAILABLE", "errors.embedder.unavailable"
    retryable = True


class ModelMismatchError(EmbedderError):
    """The store's vectors are of another model than the configured embedder."""

    code, key = "EMBEDDER_MISMATCH", "errors.embedder.mismatch"
    exit_code = 78


class GeneratorError(ReasoningError):
    """A language model cannot write the answer."""


class GeneratorUnreachableError(GeneratorError):
    """The language model did not answer as expected."""

    code, key = "GENERATOR_UNAVAILABLE", "errors.generator.unavailable"
    retryable = True


class UngroundedError(GeneratorError):
    """The language model's answer cites no fact."""

    code, key = "GENERATOR_UNGROUNDED", "errors.generator.ungrounded"


def is_retryable(error: BaseException) -> bool:
    """Say whether another attempt may succeed."""
    if isinstance(error, ReasoningError):
        return error.retryable
    return isinstance(error, psycopg.Error) and store_error(error).retryable


def store_error(error: psycopg.Error) -> StoreError:
    """Return what clients may know of an error of the driver or the server."""
    state = error.sqlstate or ""
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and not state:
        return StoreUnavailableError()
    if state.startswith((*_LOST, *_TEMPORARY)):
        return StoreUnavailableError()
    return StoreError(sqlstate=state or "none")


def node_error(error: BaseException, node: str, correlation_id: str) -> ReasoningError:
    """Return the error that a run ends with when a node raised `error`, which becomes its cause.

    Errors of reasoning are returned themselves, with the correlation id. The message of others may contain
    internal details, so it is left out.
    """
    if isinstance(error, ReasoningError):
        error.correlation_id = error.correlation_id or correlation_id
        return error
    result: ReasoningError
    if isinstance(error, psycopg.Error):
        result = store_error(error)
    elif isinstance(error, DatabaseUnavailableError):
        # Its message names host and user, which clients should not see.
        result = StoreUnavailableError()
    elif isinstance(error, VectunedError):
        result = RefusedError(reason=error)
        result.exit_code = error.exit_code
    else:
        result = NodeFailedError(node=node)
    result.correlation_id = correlation_id
    result.__cause__ = error
    return result
