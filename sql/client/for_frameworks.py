"""Vector stores of LangChain and LlamaIndex, which send their statements through engines of SQLAlchemy."""

from __future__ import annotations

from typing import Any

from .snapshot import Snapshot


def find_engines(target: Any) -> list[Any]:
    """Return the engines, sync and async, of a PGEngine, PGVector or PGVectorStore; empty for other objects.

    LlamaIndex's store makes its engines, and its table, when it is first used: that is done here.
    """
    initialize = getattr(target, "_initialize", None)
    if callable(initialize):
        initialize()
    engines = [getattr(target, name, None) for name in ("_pool", "_engine", "_async_engine")]
    return [engine for engine in engines if engine is not None]


def tune_engines(target: Any, snapshot: Snapshot) -> None:
    """Let the engines of a store send learned settings."""
    from .for_sqlalchemy import tune_engine

    for engine in find_engines(target):
        tune_engine(engine, snapshot)
