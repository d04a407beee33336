"""Whatever a log holds is a count or a sentence: observing goes on, and loses nothing of the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from tests.integration.daemon.observe.test_observe import (
    NOW,
    PLAIN,
    SEARCH,
    calls,
    dsn_of,
    fill,
    log_of,
    run,
)
from tests.integration.table_helpers import plain_role, text

from vectuned.daemon.observe.observer import Observer
from vectuned.daemon.observe.statements import LoggedStatement
from vectuned.daemon.observe.storage import read_database

Connection = psycopg.Connection[Any]

VECTOR = text(np.ones(8))


@pytest.fixture
def conn(conn: Connection) -> Connection:
    fill(conn)
    conn.execute("SELECT vectuned.enable('docs', 'embedding', min_samples => 20)")
    return conn


def observe(
    conn: Connection, capsys: pytest.CaptureFixture[str], log: Path, *options: str
) -> tuple[dict[str, Any], str]:
    """Return the document of `vectuned observe`, and what it prints as text in a second run."""
    capsys.readouterr()
    assert run("observe", "--dsn", dsn_of(conn), "--json", log, *options) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    conn.execute("DELETE FROM vectuned.log_position")
    conn.execute("DELETE FROM vectuned.trajectory")
    assert run("observe", "--dsn", dsn_of(conn), log, *options) == 0
    return document, capsys.readouterr().out


def good(conn: Connection, count: int = 3) -> bytes:
    return log_of(conn.info.dbname, calls(count, PLAIN))


def test_observe_passes_over_lines_cut_in_the_middle(
    conn: Connection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log.json"
    cut = good(conn, 1)[:150] + b"\n" + b"\xff\xfe\x00 no JSON\n" + b"[1, 2]\n"
    path.write_bytes(good(conn) + cut + good(conn))
    document, shown = observe(conn, capsys, path)
    assert (document["stored"], document["damaged_records"]) == (6, 3)
    assert "3 damaged records." in shown


def test_observe_passes_over_csv_lines_cut_in_the_middle(
    conn: Connection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def line(cut: int | None = None) -> str:
        quoted = PLAIN.replace("$1", f"'{VECTOR}'")
        whole = (
            f'2026-01-02 03:04:05.678 UTC,"app","{conn.info.dbname}",12,"h",a.b,1,"SELECT",'
            f'2026-01-02 03:04:00 UTC,1/2,0,LOG,00000,"duration: 1.500 ms  statement: {quoted}",'
            ',,,,,,,,"","client backend",,0'
        )
        return whole[:cut] + "\n"

    path = tmp_path / "log.csv"
    path.write_text(line() + line(200) + line() + line(50) + line(), encoding="utf-8")
    document, _ = observe(conn, capsys, path)
    assert document["stored"] >= 2
    assert document["damaged_records"] >= 1
    assert document["stored"] + document["damaged_records"] >= 4


@pytest.mark.parametrize(
    ("message", "parameters"),
    [
        ("Dauer: 2.500 ms  Ausführen <unnamed>: ", "DETAIL:  Parameter: "),
        ("durée : 2.500 ms, exécute <unnamed>: ", "DÉTAIL:  Paramètres : "),
        ("продолжительность: 2.500 мс, выполнение <unnamed>: ", "ПОДРОБНОСТИ:  параметры: "),
        ("期間: 2.500 ミリ秒, 実行 <unnamed>: ", "詳細:  パラメータ: "),
        ("执行时间: 2.500 ms  执行 <unnamed>: ", "详细信息:  参数: "),
    ],
)
def test_observe_reads_other_languages(
    conn: Connection,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    message: str,
    parameters: str,
) -> None:
    path = tmp_path / "postgresql.log"
    prefix = f"2026-01-02 03:04:05.678 UTC [12] app@{conn.info.dbname} "
    path.write_text(
        f"{prefix}LOG:  {message}{PLAIN}\n{prefix}{parameters}$1 = '{VECTOR}'\n", encoding="utf-8"
    )
    document, _ = observe(conn, capsys, path, "--prefix", "%m [%p] %u@%d ")
    assert (document["stored"], document["damaged_records"]) == (1, 0)
    assert document["searches"][0]["mean_ms"] == 2.5


def test_observe_counts_statements_of_other_databases(
    conn: Connection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log.json"
    path.write_bytes(log_of("elsewhere", calls(5, PLAIN)) + good(conn))
    document, shown = observe(conn, capsys, path)
    assert (document["stored"], document["other_databases"]) == (3, 5)
    assert "5 of other databases" in shown


def test_observe_takes_a_million_parameters_and_a_megabyte(
    conn: Connection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = ", ".join(f"${number}" for number in range(2, 3_000))
    many = f"SELECT id FROM docs WHERE id IN ({ids}) ORDER BY embedding <=> $1 LIMIT 10"
    long = PLAIN.replace("docs", f"docs /* {'x' * 1_000_000} */")
    found = [
        (many, [VECTOR, *("1" for _ in range(2, 3_000))]),
        (PLAIN, [VECTOR, *("1" for _ in range(1_000_000))]),
        (long, [VECTOR]),
        *calls(3, PLAIN),
    ]
    path = tmp_path / "log.json"
    path.write_bytes(log_of(conn.info.dbname, found))
    document, _ = observe(conn, capsys, path)
    told = document["left_out"] | document["not_planned"]
    # More values than a statement has parameters do no harm.
    assert document["stored"] + sum(told.values()) + document["damaged_records"] == 6
    assert document["stored"] >= 4
    assert "longer than 500,000 characters" in told


@pytest.mark.parametrize(
    ("statement", "values", "reason"),
    [
        (PLAIN, ["[1,2"], "a vector that cannot be read"),
        (PLAIN, ["[" + "1," * 7 + "x]"], "a vector that cannot be read"),
        (PLAIN, ["[1,2,3]"], "a vector of 3 dimensions for public.docs"),
        (SEARCH, [VECTOR], "1 values for 2 parameters"),
        (PLAIN.replace("LIMIT 10", "LIMIT $2"), [VECTOR, "ten"], "no LIMIT, or one out of range"),
        (PLAIN.replace("LIMIT 10", "LIMIT $2"), [VECTOR, "-1"], "no LIMIT, or one out of range"),
    ],
)
def test_observe_counts_values_that_do_not_parse(
    conn: Connection,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    statement: str,
    values: list[str],
    reason: str,
) -> None:
    path = tmp_path / "log.json"
    path.write_bytes(log_of(conn.info.dbname, [(statement, values)]) + good(conn))
    document, shown = observe(conn, capsys, path)
    assert document["left_out"] == {reason: 1}
    assert document["stored"] == 3
    assert reason in shown


def test_observe_counts_searches_of_a_table_that_is_gone(
    conn: Connection, database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    observer = Observer(conn, read_database(conn))
    statements = [LoggedStatement(SEARCH, tuple(values), 1.0, time=NOW) for _, values in calls(4)]
    observer.add(statements)
    conn.execute("DROP TABLE docs")
    # The text was seen before, and its template is still known: the next look at the table refuses it.
    fresh = Observer(conn, read_database(conn))
    fresh.add(statements)
    assert fresh.failed == {'relation "docs" does not exist': 4}
    path = tmp_path / "log.json"
    path.write_bytes(log_of(conn.info.dbname, calls(4)))
    document, shown = observe(conn, capsys, path)
    assert (document["stored"], document["not_planned"]) == (0, {'relation "docs" does not exist': 4})
    assert "4 that cannot be planned here" in shown
    # What was stored of it ends no pass.
    assert run("learn", "--dsn", database, "--once") == 2
    assert "There is no tuned column to learn about" in capsys.readouterr().err


def test_observe_as_a_role_that_may_not_read_the_table(
    conn: Connection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log.json"
    path.write_bytes(good(conn))
    rights = ("EXECUTE ON ALL FUNCTIONS IN SCHEMA vectuned", "ALL ON ALL TABLES IN SCHEMA vectuned")
    with plain_role(conn, dsn_of(conn), *rights) as reader:
        observer = Observer(reader, read_database(reader))
        observer.add([LoggedStatement(PLAIN, (VECTOR,), 1.0, time=NOW)])
        assert observer.failed == {"permission denied for table docs": 1}
        capsys.readouterr()
        assert run("observe", "--dsn", dsn_of(reader), "--json", path) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["not_planned"] == {"permission denied for table docs": 3}
        # The server's own log takes rights that are named.
        assert run("observe", "--dsn", dsn_of(reader)) == 2
        assert "grant the role pg_monitor" in capsys.readouterr().err
