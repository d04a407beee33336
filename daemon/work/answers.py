"""The daemon's work for the entity store: learning the ranking of answers from feedback."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg

from vectuned.config.errors import VectunedError
from vectuned.config.settings import Settings
from vectuned.daemon.pacing.pace import Pace

if TYPE_CHECKING:
    from vectuned.reasoning.ranking.learning import LearnedAnswers

log = logging.getLogger(__name__)


def learn_from_answers(
    conn: psycopg.Connection[Any],
    settings: Settings,
    pace: Pace | None = None,
    progress: Callable[[int], None] = lambda _done: None,
) -> LearnedAnswers | None:
    """Learn a ranking of answers if there is enough new feedback; return None if there was nothing to do.

    `conn` must be a session of its own, because it is set up for the reads of the reasoning graph. With a
    `pace` the work stays within the budget. If the store's embedder is missing, nothing is learned and a
    warning is logged.
    """
    # Imported here, because the embedders are slow to import and few databases have an entity store.
    from vectuned.reasoning.ranking import learning

    if not settings.learning.enabled or not learning.may_learn_answers(conn) or not learning.has_news(conn):
        return None
    from vectuned.reasoning.embedding.embedders import make_embedder

    @contextmanager
    def paced() -> Iterator[None]:
        if pace is None:
            yield
            return
        pace.wait_for_budget()
        with pace.work():
            yield

    reasoning = settings.reasoning
    try:
        embedder = make_embedder(reasoning)
        return learning.learn_answers(
            conn,
            embedder,
            reasoning.language,
            seed=settings.learning.seed,
            progress=progress,
            paced=paced,
        )
    except (VectunedError, psycopg.errors.InsufficientPrivilege) as error:
        log.warning("The ranking of answers was not learned: %s", error, extra={"action": "learn"})
        return None
