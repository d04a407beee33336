"""What commands advise on a column without recorded searches leads somewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.integration.table_helpers import Connection, clustered, enable, make

from vectuned.daemon.cli.main import main


@pytest.mark.parametrize("command", ["evaluate", "advise"])
def test_commands_without_recorded_searches_name_an_option_that_works(
    conn: Connection, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    make(conn, clustered(1000, 8, seed=1))
    enable(conn)
    arguments = [command, "items", "--dsn", conn.info.dsn]
    assert main(arguments) != 0
    assert "--queries FILE" in capsys.readouterr().err
    file = tmp_path / "queries.npy"
    np.save(file, clustered(40, 8, seed=2))
    assert main([*arguments, "--queries", str(file)]) == 0


def test_recommend_on_a_fresh_table_names_what_to_do(
    conn: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    make(conn, clustered(1000, 8, seed=1))
    enable(conn)
    assert main(["recommend", "items", "--dsn", conn.info.dsn]) == 0
    said = capsys.readouterr().out
    assert "vectuned.search" in said
    assert "vectuned evaluate items --queries FILE" in said
