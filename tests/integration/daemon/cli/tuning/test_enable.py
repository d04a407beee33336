"""The command `vectuned enable`."""

from __future__ import annotations

import json

import pytest
from tests.integration.table_helpers import Connection, clustered, make

from vectuned.daemon.cli.main import main


def test_enable_command_changes_only_the_options_given(
    conn: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    make(conn, clustered(60, 4, seed=1))

    def run(*options: str) -> dict[str, object]:
        assert main(["enable", "items", "embedding", *options, "--json", "--dsn", conn.info.dsn]) == 0
        document = json.loads(capsys.readouterr().out)
        return {name: document[name] for name in ("target_recall", "sample_rate", "store_vectors")}

    first = {"target_recall": 0.99, "sample_rate": 0.0, "store_vectors": False}
    assert run("--target-recall", "0.99", "--sample-rate", "0", "--forget-vectors") == first
    assert run() == first
    assert run("--keep-vectors", "--sample-rate", "1") == {
        **first,
        "sample_rate": 1.0,
        "store_vectors": True,
    }
