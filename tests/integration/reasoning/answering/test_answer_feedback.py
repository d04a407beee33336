"""Feedback on answers: it decides when the same question is asked again, and changes no other answer."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from tests.integration.reasoning.store_helpers import connect, dsn
from tests.integration.table_helpers import one, plain_role, raw

from vectuned.daemon.cli.main import main
from vectuned.reasoning.answering.reasoner import Reasoner
from vectuned.reasoning.store.store import EntityStore

ASKED = "a small animal"
RECORD = "SELECT vectuned_entities.record_answer_feedback(%s, %s, %s, %s)"
COUNT = "SELECT count(*) FROM vectuned_entities.answer_feedback"


@pytest.fixture
def reasoner(shared: EntityStore) -> Iterator[Reasoner]:
    with Reasoner(lambda: connect(shared)) as reasoner:
        yield reasoner
    shared.conn.execute("DELETE FROM vectuned_entities.answer_feedback")


def found(reasoner: Reasoner, question: str = ASKED) -> list[int]:
    return [each.entity.id for each in reasoner.ask(question).candidates]


def test_a_confirmed_entity_comes_first_for_the_same_question_alone(
    reasoner: Reasoner, shared: EntityStore
) -> None:
    before, others = found(reasoner), found(reasoner, "a large tree")
    elsewhere = one(
        shared.conn,
        "SELECT entity_id FROM vectuned_entities.entities WHERE status = 'active' AND entity_id <> ALL (%s) "
        "ORDER BY entity_id LIMIT 1",
        before,
    )
    assert reasoner.confirm(ASKED, elsewhere) == "recorded"
    assert reasoner.confirm("  A  small\nAnimal ", elsewhere) == "unchanged"
    outcome = reasoner.ask("A small  animal")
    assert outcome.candidates[0].entity.id == elsewhere
    assert outcome.candidates[0].entity.name in outcome.answer.text
    (votes,) = [each for each in outcome.trace.decisions("identify") if each["what"] == "votes"]
    assert votes["of"] == {outcome.candidates[0].entity.name: 1.0}
    assert found(reasoner, "a large tree") == others
    assert one(shared.conn, COUNT) == 1


def test_a_rejected_entity_falls_behind_and_undo_brings_it_back(
    reasoner: Reasoner, shared: EntityStore
) -> None:
    before = found(reasoner)
    assert reasoner.reject(ASKED, before[0]) == "recorded"
    assert found(reasoner)[0] == before[1]
    assert reasoner.confirm(ASKED, before[0]) == "recorded"  # changed its mind
    assert found(reasoner)[0] == before[0]
    assert one(shared.conn, COUNT) == 1
    assert one(shared.conn, "SELECT vectuned_entities.forget_answer_feedback(session_user::text)") == 1
    assert found(reasoner) == before


def test_a_person_counts_more_than_programs(reasoner: Reasoner, shared: EntityStore) -> None:
    first, second, *_ = found(reasoner)
    assert reasoner.confirm(ASKED, first, by_person=False) == "recorded"
    assert reasoner.confirm(ASKED, second) == "recorded"
    assert found(reasoner)[0] == second
    assert reasoner.reject(ASKED, second, by_person=False) == "unchanged"
    assert found(reasoner)[0] == second


def test_a_role_counts_once_and_writes_in_its_own_name(reasoner: Reasoner, shared: EntityStore) -> None:
    first, second, *_ = found(reasoner)
    forget = "SELECT vectuned_entities.forget_answer_feedback(%s)"
    table = "vectuned_entities.answer_feedback"
    with plain_role(shared.conn, dsn(shared), "USAGE ON SCHEMA vectuned_entities") as conn:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute(RECORD, (ASKED, second, True, True))
        role = sql.Identifier(conn.info.user)
        for grant in (f"SELECT, INSERT, UPDATE, DELETE ON {table}", "SELECT ON vectuned_entities.entities"):
            shared.conn.execute(sql.SQL("GRANT {} TO {}").format(raw(grant), role))
        for said in ("recorded", "unchanged", "unchanged"):
            assert one(conn, RECORD, ASKED, second, True, True) == said
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            conn.execute(
                "INSERT INTO vectuned_entities.answer_feedback (question, entity_id, role, is_right) "
                "VALUES (%s, %s, 'another', true)",
                (ASKED, first),
            )
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="only be forgotten by that role"):
            conn.execute(forget, ("another",))
        assert reasoner.reject(ASKED, second) == "recorded"
        assert reasoner.confirm(ASKED, first) == "recorded"
        # One for it and one against it: as if nothing were said.
        assert found(reasoner)[0] == first
        assert one(shared.conn, forget, conn.info.user) == 1


def test_feedback_goes_with_its_entity(reasoner: Reasoner, shared: EntityStore) -> None:
    gone = one(shared.conn, "SELECT vectuned_entities.insert_entity('a thing that goes')")
    assert reasoner.confirm(ASKED, gone) == "recorded"
    shared.conn.execute("SELECT vectuned_entities.archive_entity(%s)", (gone,))
    assert gone not in found(reasoner)
    shared.conn.execute("SELECT vectuned_entities.prune_entity(%s)", (gone,))
    assert one(shared.conn, COUNT) == 0
    with pytest.raises(psycopg.errors.NoDataFound):
        reasoner.confirm(ASKED, gone)


def test_the_command_takes_feedback(
    reasoner: Reasoner, shared: EntityStore, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, *_ = (each.entity for each in reasoner.ask(ASKED).candidates)
    where = ["--dsn", dsn(shared)]
    assert main(["ask", ASKED, "--confirm", second.label, "--reject", first.label, *where]) == 0
    out = capsys.readouterr().out
    assert f"{second.label} confirmed: recorded" in out
    assert f"{first.label} rejected: recorded" in out
    assert main(["ask", ASKED, "--json", *where]) == 0
    assert json.loads(capsys.readouterr().out)["entities"][0]["label"] == second.label
    assert main(["ask", ASKED, "--confirm", "nothing", *where]) == 2
    assert "nothing is not among the entities of this run" in capsys.readouterr().err
    assert main(["ask", ASKED, "--confirm", second.label, "--reject", second.label, *where]) == 2
    assert "cannot be confirmed and rejected at once" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "votes"),
    [("y", {0: True}), ("2", {1: True}), ("n", {0: False}), ("", {}), ("11", {}), ("what?", {})],
)
def test_the_command_asks_a_person_at_a_terminal(
    reasoner: Reasoner,
    shared: EntityStore,
    monkeypatch: pytest.MonkeyPatch,
    typed: str,
    votes: dict[int, bool],
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    ids = found(reasoner)
    out = Terminal()
    monkeypatch.setattr("sys.stdin", Terminal(f"{typed}\n"))
    monkeypatch.setattr("sys.stdout", out)
    assert main(["ask", ASKED, "--dsn", dsn(shared)]) == 0
    assert "y, n, the number of the right row" in out.getvalue()
    given = shared.conn.execute(
        "SELECT entity_id, is_right FROM vectuned_entities.answer_feedback"
    ).fetchall()
    assert dict(given) == {ids[at]: is_right for at, is_right in votes.items()}


@pytest.mark.parametrize("option", [["--no-feedback"], ["--json"], []])
def test_the_command_asks_nothing_without_a_terminal(
    reasoner: Reasoner, shared: EntityStore, capsys: pytest.CaptureFixture[str], option: list[str]
) -> None:
    assert main(["ask", ASKED, *option, "--dsn", dsn(shared)]) == 0
    assert "y, n, the number" not in capsys.readouterr().out
    assert one(shared.conn, COUNT) == 0
