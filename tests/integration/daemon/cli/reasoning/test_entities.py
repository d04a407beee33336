"""`vectuned entities` and `vectuned wordnet` on a real database."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from tests.integration.table_helpers import Connection, one

from vectuned.daemon.cli.main import main
from vectuned.reasoning.store.store import EntityStore

pytest.importorskip("wordllama", reason="wordllama has no wheel for this Python")


@dataclass(frozen=True)
class Result:
    """Exit code and output of a command."""

    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process, which has imported the embedders already."""

    def command(*arguments: str, dsn: str) -> Result:
        code = main([*arguments, "--dsn", dsn])
        return Result(code, *capsys.readouterr())

    return command


def test_wordnet_load_finishes_an_interrupted_load_and_entities_rebase_changes_the_model(
    run: Run, plain_conn: Connection, plain_database: str
) -> None:
    done = run("wordnet", "load", "--limit", "300", dsn=plain_database)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("WordNet is loaded: ")
    assert "Installed vectuned in database" in done.stderr
    assert "loading relationships: " in done.stderr
    loaded = one(plain_conn, "SELECT count(*) FROM vectuned_entities.entities")
    assert 280 < loaded <= 300

    # As after an interruption: the usage examples and their index are missing.
    plain_conn.execute("DELETE FROM vectuned_entities.corpus_loads WHERE stage = 'resources'")
    plain_conn.execute("DROP INDEX vectuned_entities.external_resources_embedding_idx")
    plain_conn.execute("TRUNCATE vectuned_entities.external_resources CASCADE")
    again = run("wordnet", "load", "--limit", "300", "--json", dsn=plain_database)
    assert again.returncode == 0, again.stderr
    report = json.loads(again.stdout)
    assert (report["loaded"], report["entities"]) == (True, loaded)
    assert one(plain_conn, "SELECT count(*) FROM vectuned_entities.external_resources") == report["resources"]
    assert "embedding glosses" not in again.stderr

    moved = run("entities", "rebase", "--model", "wordllama-l2-supercat-64", dsn=plain_database)
    assert moved.returncode == 0, moved.stderr
    assert moved.stdout.startswith("rebase 1 to wordllama-l2-supercat-64 ")
    assert ": done, " in moved.stdout
    status = run("entities", "status", "--json", dsn=plain_database)
    report = json.loads(status.stdout)
    assert (report["model"]["dimensions"], report["waiting"], report["tuned"]) == (64, 0, True)
    assert (report["active"], report["rebase"]["state"]) == (loaded, "done")

    dropped = run("wordnet", "load", "--limit", "150", "--drop", "--quiet", dsn=plain_database)
    assert (dropped.returncode, dropped.stderr) == (0, "")
    assert one(plain_conn, "SELECT count(*) FROM vectuned_entities.entities") <= 150
    assert one(plain_conn, "SELECT dimensions FROM vectuned.tuned_column") == 256


def test_entities_create_refuses_other_dimensions_than_those_of_the_store(
    run: Run, plain_conn: Connection, plain_database: str
) -> None:
    done = run("entities", "create", "--dimensions", "7", dsn=plain_database)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(": created; vectors of 7 dimensions\n")
    assert EntityStore(plain_conn).get_model() is None
    other = run("entities", "create", "--dimensions", "8", dsn=plain_database)
    assert (other.returncode, other.stdout) == (2, "")
    assert "has vectors of 7 dimensions, not 8: move it" in other.stderr
    loaded = run("wordnet", "load", "--limit", "300", dsn=plain_database)
    assert loaded.returncode == 2
    assert "vectors have another length" in loaded.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("entities", "status"), "There is no entity store in database"),
        (("entities", "status", "--model", "x"), "--model goes with `vectuned entities rebase`, not status"),
        (("entities", "create", "--dimensions", "4000"), "have 1 to 2000 dimensions, not 4000"),
        (("wordnet", "load", "--limit", "5"), "--limit must be at least 100, not 5"),
    ],
)
def test_entities_and_wordnet_report_wrong_options_in_one_sentence(
    run: Run, conn: Connection, database: str, arguments: tuple[str, ...], message: str
) -> None:
    assert conn.info.dbname in database
    result = run(*arguments, dsn=database)
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_entities_rebase_needs_a_known_model_or_a_rebase_under_way(run: Run, store: EntityStore) -> None:
    dsn = store.conn.info.dsn
    for arguments, message in (
        (("rebase",), "No rebase is under way: choose --model"),
        (("rebase", "--cancel"), "No rebase is under way, so there is none to cancel"),
        (
            ("rebase", "--model", "gpt"),
            "There is no embedding model 'gpt'; known are wordllama-l2-supercat-256",
        ),
    ):
        result = run("entities", *arguments, dsn=dsn)
        assert (result.returncode, result.stdout) == (2, "")
        assert message in result.stderr
    # The store holds more than WordNet.
    store.insert_entity("mine")
    result = run("wordnet", "load", "--drop", "--limit", "300", dsn=dsn)
    assert result.returncode == 2
    assert "holds more than WordNet" in result.stderr
