"""What goes wrong in reasoning: typed, in one JSON form, in the reader's language, and without internals.

Each error carries the correlation id of its run. What it says comes from its key and parameters alone; the
cause, with its SQL, paths and stack, is kept as `__cause__` for the log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import psycopg

from vectuned.config.errors import DatabaseUnavailableError, VectunedError

from .messages import translate
from .trace import Trace

_LOST = ("08", "57P")  # connection exceptions, and a server that shuts down
_PASSING = ("40", "53", "55P03")  # rolled back, short of resources, a lock that was not to be had


class ReasoningError(VectunedError):
    """Something in reasoning failed; `params` fill in the message of the class's key.

    `details` are objects with at least a `message`; `retryable` says whether the same may succeed later.
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
        # Of the run that it ended, as far as that came.
        self.trace: Trace | None = None
        self.details = [dict(detail) for detail in details]
        super().__init__(self.message())

    def message(self, language: str = "en") -> str:
        """Say what happened in a language."""
        return translate(self.key, self.params, language)

    def to_json(self, language: str = "en") -> dict[str, Any]:
        """Return the error as clients are told of it."""
        return {
            "code": self.code,
            "message": self.message(language),
            "correlation_id": self.correlation_id,
            "i18n": {"key": self.key, "params": dict(self.params)},
            "details": self.details,
        }


class GraphError(ReasoningError):
    """The graph is not put together rightly."""

    exit_code = 2


class CycleError(GraphError):
    """Nodes wait for each other."""

    code, key = "GRAPH_CYCLE", "errors.graph.cycle"


class MissingInputError(GraphError):
    """Nothing produces what a node needs."""

    code, key = "GRAPH_MISSING_INPUT", "errors.graph.missing_input"


class PortTypeError(GraphError):
    """A node is given another type than it takes."""

    code, key = "GRAPH_PORT_TYPE", "errors.graph.port_type"


class DuplicateProducerError(GraphError):
    """Two nodes produce the same port."""

    code, key = "GRAPH_DUPLICATE_PRODUCER", "errors.graph.duplicate_producer"


class DuplicateNodeError(GraphError):
    """Two nodes have the same name."""

    code, key = "GRAPH_DUPLICATE_NODE", "errors.graph.duplicate_node"


class UnknownNodeError(GraphError):
    """A node is named that the graph does not have."""

    code, key = "GRAPH_UNKNOWN_NODE", "errors.graph.unknown_node"


class SignatureError(GraphError):
    """A node does not say what it takes and produces."""

    code, key = "GRAPH_SIGNATURE", "errors.graph.signature"


class WrongInputsError(GraphError):
    """A run was given other inputs than its graph takes."""

    code, key = "GRAPH_WRONG_INPUTS", "errors.graph.wrong_inputs"


class RunError(ReasoningError):
    """A run did not come to its end."""


class NodeFailedError(RunError):
    """A node failed by an error that is none of ours."""

    code, key = "NODE_FAILED", "errors.run.failed"


class RefusedError(RunError):
    """A part of vectuned beneath a node refused its work, in a sentence of its own."""

    code, key = "REFUSED", "errors.run.refused"


class NodeTimeoutError(RunError):
    """A node took longer than it may."""

    code, key = "NODE_TIMEOUT", "errors.run.timeout"


class WrongOutputError(RunError):
    """A node returned something else than it declares."""

    code, key = "NODE_WRONG_OUTPUT", "errors.run.wrong_output"


class RunCancelledError(RunError):
    """Somebody cancelled the run."""

    code, key = "RUN_CANCELLED", "errors.run.cancelled"


class StoreError(ReasoningError):
    """The entity store could not do what was asked of it."""

    code, key = "STORE_FAILED", "errors.store.failed"


class StoreUnavailableError(StoreError):
    """The entity store cannot be reached, or is too busy at the moment."""

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
    """There is nothing to reason about."""

    code, key = "STORE_EMPTY", "errors.store.empty"
    exit_code = 2


class QuestionError(ReasoningError):
    """The question cannot be worked on."""

    exit_code = 2


class EmptyQuestionError(QuestionError):
    """There is no question."""

    code, key = "QUESTION_EMPTY", "errors.question.empty"


class QuestionTooLongError(QuestionError):
    """The question is longer than questions may be."""

    code, key = "QUESTION_TOO_LONG", "errors.question.too_long"


class EmbedderError(ReasoningError):
    """Texts cannot be turned into vectors."""


class EmbedderMissingError(EmbedderError):
    """A package that an embedder needs is not installed."""

    code, key = "EMBEDDER_MISSING", "errors.embedder.package_missing"


class EmbedderBrokenError(EmbedderError):
    """The model that a package carries cannot be loaded."""

    code, key = "EMBEDDER_BROKEN", "errors.embedder.broken"


class EmbedderUnreachableError(EmbedderError):
    """The embedding endpoint did not answer as expected."""

    code, key = "EMBEDDER_UNAVAILABLE", "errors.embedder.unavailable"
    retryable = True


class ModelMismatchError(EmbedderError):
    """Stored vectors are of another model than the question's would be."""

    code, key = "EMBEDDER_MISMATCH", "errors.embedder.mismatch"
    exit_code = 78


class GeneratorError(ReasoningError):
    """A generating model is of no help."""


class GeneratorUnreachableError(GeneratorError):
    """The generating model did not answer as expected."""

    code, key = "GENERATOR_UNAVAILABLE", "errors.generator.unavailable"
    retryable = True


class UngroundedError(GeneratorError):
    """The generating model made something up."""

    code, key = "GENERATOR_UNGROUNDED", "errors.generator.ungrounded"


def is_retryable(error: BaseException) -> bool:
    """Whether the same may succeed when it is tried again."""
    if isinstance(error, ReasoningError):
        return error.retryable
    return isinstance(error, psycopg.Error) and store_error(error).retryable


def store_error(error: psycopg.Error) -> StoreError:
    """Say of an error of the driver or the server what clients may know of it."""
    state = error.sqlstate or ""
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and not state:
        return StoreUnavailableError()
    if state.startswith((*_LOST, *_PASSING)):
        return StoreUnavailableError()
    return StoreError(sqlstate=state or "none")


def node_error(error: BaseException, node: str, correlation_id: str) -> ReasoningError:
    """Return the error that a run ends with when a node raised one, the cause kept.

    Ours stay as they are and learn the correlation id; of others nothing is told but that the node failed.
    """
    if isinstance(error, ReasoningError):
        error.correlation_id = error.correlation_id or correlation_id
        return error
    found: ReasoningError
    if isinstance(error, psycopg.Error):
        found = store_error(error)
    elif isinstance(error, DatabaseUnavailableError):
        # Its sentence names host and user, which are no business of whoever asks.
        found = StoreUnavailableError()
    elif isinstance(error, VectunedError):
        found = RefusedError(reason=error)
        found.exit_code = error.exit_code
    else:
        found = NodeFailedError(node=node)
    found.correlation_id = correlation_id
    found.__cause__ = error
    return found
