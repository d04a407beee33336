"""Statements of applications in export and import: their settings and evidence."""

from __future__ import annotations

import json
from typing import Any

import pytest
from psycopg import errors
from tests.integration.daemon.cli.tuning.test_adopt import PLAIN, SEARCH, SHAPE, learned
from tests.integration.document_helpers import exported, imported, later, read_import_state, signed
from tests.integration.table_helpers import Connection, one

from vectuned.daemon.adopt.adopt import plan
from vectuned.learning.policy.statement_settings import publish_settings, read_statements
from vectuned.sql.client.fingerprint import fingerprint
from vectuned.sql.client.snapshot import LOAD, Snapshot

__all__ = ["learned"]

STATEMENTS = "SELECT to_jsonb(s) - 'import_no' - 'published_at' FROM vectuned.statement s ORDER BY shape"


def forget(conn: Connection) -> None:
    """Leave nothing of the statements and what was measured."""
    conn.execute(
        "DELETE FROM vectuned.statement; DELETE FROM vectuned.replay; DELETE FROM vectuned.measured_path"
    )


def serves(conn: Connection, statement: str) -> Any:
    """Return what the client sends with a statement."""
    snapshot = Snapshot()
    snapshot.replace(conn.execute(LOAD).fetchall())
    found = snapshot.find(statement)
    return None if found is None else dict(found.values)


def test_import_carries_settings_and_evidence_of_statements(learned: Connection) -> None:
    publish_settings(learned)
    before = learned.execute(STATEMENTS).fetchall()
    sent = serves(learned, SEARCH)
    assert sent["hnsw.ef_search"] == "240"
    document = exported(learned)
    assert [each["fingerprint"] for each in document["statements"]] == sorted(
        [fingerprint(SEARCH), fingerprint(PLAIN)]
    )
    assert {each["text"].count("?") for each in document["statements"]} == {2, 3}
    forget(learned)
    assert serves(learned, SEARCH) is None
    state = read_import_state(learned)
    dry = imported(learned, document, dry_run=True)
    assert read_import_state(learned) == state
    report = imported(learned, document)
    assert {**dry, "dry_run": False} == report
    assert report["as"] == "proven"
    assert report["statements"] == [{"action": "merged", "why": "nothing was known here", "statements": 2}]
    assert learned.execute(STATEMENTS).fetchall() == before
    assert serves(learned, SEARCH) == sent
    # A publish without replays of their calls leaves them, and adopt proposes by what they were measured as.
    assert publish_settings(learned) == 2
    assert learned.execute(STATEMENTS).fetchall() == before
    assert plan(learned, None).proposal.changes["hnsw.ef_search"] == "240"
    again = imported(learned, document)
    assert (again["changed"], [each["action"] for each in again["statements"]]) == (False, ["unchanged"])
    assert exported(learned)["statements"] == document["statements"]
    # What was proven on the index as it was says nothing once it changes.
    learned.execute(
        "INSERT INTO vectuned.event (column_id, action, details) VALUES (1, 'rebuilt', '{\"why\": \"\"}')"
    )
    publish_settings(learned)
    assert serves(learned, SEARCH) is None


def test_import_on_another_index_takes_statements_as_a_prior(learned: Connection) -> None:
    publish_settings(learned)
    document = exported(learned)
    document["provenance"]["target_recall"] = 0.9  # here 0.95 is wanted: twice the effort
    forget(learned)
    learned.execute("REINDEX INDEX items_embedding_idx")
    report = imported(learned, signed(learned, document))
    assert (report["as"], report["statements"][0]["action"]) == ("prior", "merged")
    assert serves(learned, SEARCH)["hnsw.ef_search"] == "480"
    assert serves(learned, PLAIN)["hnsw.ef_search"] == "112"
    assert learned.execute("SELECT DISTINCT certified FROM vectuned.statement").fetchall() == [(False,)]
    statements = {statement.shape: statement for statement in read_statements(learned)}
    (source,) = (each for each in document["statements"] if each["shape"] == SHAPE)
    assert len(statements[SHAPE].options) == len(source["figures"]) > 5
    assert not any(option.proven for each in statements.values() for option in each.options)
    assert exported(learned)["statements"] == []  # a prior is not exported again


def test_import_leaves_what_was_measured_here(learned: Connection) -> None:
    publish_settings(learned)
    document = exported(learned)
    before = learned.execute("SELECT to_jsonb(s) FROM vectuned.statement s ORDER BY shape").fetchall()
    report = imported(learned, later(learned, document))
    assert {each["action"] for each in report["statements"]} == {"kept"}
    assert before == learned.execute("SELECT to_jsonb(s) FROM vectuned.statement s ORDER BY shape").fetchall()


BREAKAGES: dict[str, tuple[str, Any, str]] = {
    "fingerprint": ("fingerprint", "x" * 16, "$.statements[0].fingerprint must be a text like"),
    "k": ("k", 7, "$.statements[0].k must be one of 1, 3"),
    "name": (
        "settings",
        {"session_preload_libraries": "on"},
        "$.statements[0].settings must hold settings of",
    ),
    "value": ("settings", {"hnsw.ef_search": "40; x"}, "$.statements[0].settings must hold settings of"),
    "number": ("settings", {"hnsw.ef_search": 40}, "$.statements[0].settings must hold settings of"),
    "share": ("by_share", {"4": {"work_mem": "1"}}, "$.statements[0].by_share.4 must hold settings of"),
    "bucket": ("by_share", {"x": {}}, "$.statements[0].by_share.x must hold settings of"),
    "figure": ("figures", [{"path": "hnsw"}], "$.statements[0].figures[0].bound is missing"),
    "figures": ("figures", 5, "$.statements[0].figures must be a list"),
    "time": ("last_seen", "once", "$.statements[0].last_seen must be a time"),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_import_names_the_place_of_an_invalid_statement(learned: Connection, breakage: str) -> None:
    publish_settings(learned)
    document = exported(learned)
    forget(learned)
    member, value, message = BREAKAGES[breakage]
    document["statements"][0][member] = value
    with pytest.raises(errors.InvalidParameterValue) as caught:
        imported(learned, signed(learned, document))
    assert message in str(caught.value)
    assert one(learned, "SELECT count(*) FROM vectuned.statement") == 0


def test_import_refuses_a_statement_that_stands_there_twice(learned: Connection) -> None:
    publish_settings(learned)
    document = exported(learned)
    document["statements"].append(json.loads(json.dumps(document["statements"][0])))
    with pytest.raises(errors.InvalidParameterValue, match=r"^\$\.statements\[2\] stands there twice"):
        imported(learned, signed(learned, document))
