"""Rankings learned from feedback: what they change, where they are served, and how they are undone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg.types.json import Jsonb
from tests.integration.reasoning.store_helpers import connect
from tests.integration.role_helpers import member
from tests.integration.table_helpers import Connection, one

from vectuned.config.settings import load_settings
from vectuned.daemon.work.answers import learn_from_answers
from vectuned.reasoning.answering.reasoner import Reasoner
from vectuned.reasoning.embedding.embedder import StaticEmbedder
from vectuned.reasoning.ranking import learning
from vectuned.reasoning.ranking.features import (
    LAYOUT,
    LEARNED_FEATURES,
    SHAPE,
    SIGNATURE,
    WORDING,
    shape_of,
    wording_of,
)
from vectuned.reasoning.ranking.network import Network
from vectuned.reasoning.store.reads import prepare, read, read_lexemes
from vectuned.reasoning.store.store import EntityStore
from vectuned.reasoning.store.words import WordWeights

ASKED = "a small animal"
DETAILS = len(SIGNATURE) + len(SHAPE) + len(WORDING)
SERVE = "SELECT vectuned_entities.serve_ranking(%s)"
SERVED = "SELECT count(*) FROM vectuned_entities.rankings WHERE is_served"


@pytest.fixture
def conn(shared: EntityStore) -> Iterator[Connection]:
    with connect(shared) as conn:
        yield prepare(conn)
        conn.execute("DELETE FROM vectuned_entities.answer_feedback")
        conn.execute("DELETE FROM vectuned_entities.rankings")


@pytest.fixture
def reasoner(shared: EntityStore) -> Iterator[Reasoner]:
    with Reasoner(lambda: connect(shared)) as reasoner:
        yield reasoner


def read_kinds(conn: Connection) -> list[int]:
    return [row.value_id for row in read(conn, "find_kinds", max_entities=2000, max_kinds=16)]


def random_network(kinds: int, seed: int = 0) -> Network:
    rng = np.random.default_rng(seed)
    features = len(LEARNED_FEATURES) + kinds + 1
    return Network(
        rng.normal(size=(3, features)),
        rng.normal(size=(3, DETAILS)),
        rng.normal(size=3),
        rng.normal(size=3) * 4,
        rng.normal(size=features),
    )


def publish(conn: Connection, network: Network, kinds: list[int], **values: Any) -> int:
    (row,) = read(
        conn,
        "publish_ranking",
        **{
            "layout": LAYOUT,
            "model_id": one(conn, "SELECT model_id FROM vectuned_entities.current_embedding_model()"),
            "weights": network.to_array().tolist(),
            "kinds": kinds,
            "for_named": True,
            "for_described": True,
            "questions": 1,
            "feedback": 1,
            "evidence": Jsonb({}),
            **values,
        },
    )
    return int(row.ranking_id)


def scores(reasoner: Reasoner) -> dict[int, float]:
    return {each.entity.id: each.score for each in reasoner.ask(ASKED).candidates}


def used(reasoner: Reasoner) -> Any:
    decisions = reasoner.ask(ASKED).trace.decisions("identify")
    return next(each["learned"] for each in decisions if each["what"] == "ranking")


def test_the_statement_scores_as_the_network_does(conn: Connection, reasoner: Reasoner) -> None:
    embedder, kinds = StaticEmbedder(), read_kinds(conn)
    assert 2 <= len(kinds) <= 5  # parts of speech
    network = random_network(len(kinds))
    ranking_id = publish(conn, network, kinds)
    words = WordWeights().weigh(conn, read_lexemes(conn, ASKED, "english", embedder))
    (vector,) = embedder.encode([ASKED])
    rows = read(conn, "read_confirmed", max_questions=1)
    assert rows == []
    found = learning.find_features(conn, words, vector, kinds)
    details = [*found[0].signature, *shape_of(ASKED, words), *wording_of(ASKED, words)]
    samples = learning.stack_questions([learning.Drawn.of(found, [], details, 1.0, "")])
    expected = dict(zip((each.id for each in found), network.score(samples), strict=True))
    actual = scores(reasoner)
    assert len(actual) == 10
    np.testing.assert_allclose(list(actual.values()), [expected[id_] for id_ in actual], rtol=1e-3, atol=1e-6)
    assert used(reasoner) == ranking_id
    # Each kind of entity is one input, and exactly one of them is 1.
    kinds_of = samples.features[:, len(LEARNED_FEATURES) : -1]
    assert (kinds_of.sum(axis=1) == 1).all()


def test_a_ranking_can_be_undone_and_another_version_or_model_ignores_it(
    conn: Connection, reasoner: Reasoner
) -> None:
    before = scores(reasoner)
    assert used(reasoner) == "none"
    kinds = read_kinds(conn)
    network = random_network(len(kinds))
    learned = publish(conn, network, kinds)
    assert scores(reasoner) != before
    conn.execute(SERVE, (0,))
    assert scores(reasoner) == pytest.approx(before)
    conn.execute(SERVE, (learned,))
    assert used(reasoner) == learned
    publish(conn, network, kinds, layout=LAYOUT + 1)
    assert scores(reasoner) == pytest.approx(before)
    unproven = publish(conn, network, kinds, for_named=False, for_described=False)
    assert one(conn, SERVED) == 0
    for number in (unproven, 10**6):
        with pytest.raises(psycopg.errors.NoDataFound, match="there is no ranking"):
            conn.execute(SERVE, (number,))
    for _ in range(20):
        publish(conn, network, kinds)
    assert one(conn, "SELECT count(*) FROM vectuned_entities.rankings") == 10
    assert one(conn, SERVED) == 1


def test_a_ranking_is_served_for_the_kinds_of_question_it_is_proven_for(
    conn: Connection, reasoner: Reasoner
) -> None:
    kinds = read_kinds(conn)
    decisions = reasoner.ask(ASKED).trace.decisions("identify")
    named = next(each["names_answer"] for each in decisions if each["what"] == "ranking") >= 0.5
    network = random_network(len(kinds))
    publish(conn, network, kinds, for_named=not named, for_described=named)
    assert used(reasoner) == "none"
    learned = publish(conn, network, kinds, for_named=named, for_described=not named)
    assert used(reasoner) == learned


def test_the_daemon_learns_once_there_is_news_and_forgets_with_the_feedback(conn: Connection) -> None:
    settings = load_settings(None, {}, {})
    assert learning.may_learn_answers(conn)
    assert learn_from_answers(conn, settings) is None
    rows = conn.execute(
        "SELECT entity_id, description FROM vectuned_entities.entities "
        "WHERE status = 'active' AND char_length(description) BETWEEN 20 AND 300 ORDER BY entity_id LIMIT 120"
    ).fetchall()
    for entity, description in rows:
        conn.execute(
            "SELECT vectuned_entities.record_answer_feedback(%s, %s, true)", (f"{description}?", entity)
        )
    outcome = learn_from_answers(conn, settings)
    assert outcome is not None
    assert outcome.learned is not None
    assert outcome.questions == len(rows)
    assert set(outcome.learned.evidence) == {"named", "described"}
    assert one(conn, SERVED) == (outcome.learned.for_named or outcome.learned.for_described)
    assert learn_from_answers(conn, settings) is None
    conn.execute("SELECT vectuned_entities.forget_answer_feedback(session_user::text)")
    outcome = learn_from_answers(conn, settings)
    assert outcome is not None
    assert outcome.learned is None
    assert one(conn, SERVED) == 0
    assert learn_from_answers(conn, settings) is None


def test_a_database_without_an_entity_store_has_nothing_to_learn(plain_conn: Connection) -> None:
    assert not learning.may_learn_answers(plain_conn)


def test_a_store_that_a_role_may_not_enter_is_left_alone(conn: Connection) -> None:
    with member(conn) as stranger:
        assert not one(stranger, "SELECT has_schema_privilege('vectuned_entities', 'USAGE')")
        assert not learning.may_learn_answers(stranger)
        assert learn_from_answers(stranger, load_settings(None, {}, {})) is None


def test_a_question_is_of_the_role_that_confirmed_it_first(conn: Connection) -> None:
    entity = one(conn, "SELECT min(entity_id) FROM vectuned_entities.entities")
    for role in ("zoe", "adam"):
        conn.execute(
            "INSERT INTO vectuned_entities.answer_feedback (question, entity_id, role, is_right, by_person) "
            "VALUES ('what?', %s, %s, true, true)",
            (entity, role),
        )
    (row,) = read(conn, "read_confirmed", max_questions=10)
    assert row.role == "zoe"
