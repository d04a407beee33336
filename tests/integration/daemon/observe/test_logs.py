"""Logs that a real server writes, in every format, and their files: rotation and resumption."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest
from pgvector import Vector
from pgvector.psycopg import register_vector
from tests.integration.embedded_helpers import FAST, copy_home, eventually, open_folder

from vectuned.daemon.observe.formats import LogSettings
from vectuned.daemon.observe.sources import (
    FileReader,
    LocalFile,
    Position,
    ServerFile,
    local_files,
    read_stream,
    server_files,
)
from vectuned.daemon.observe.statements import LoggedStatement
from vectuned.daemon.server.embedded import EmbeddedServer

Connection = psycopg.Connection[Any]

PREFIX = "%m [%p] %q%u@%d/%a "
SETTINGS = {
    **FAST,
    "logging_collector": "on",
    "log_destination": "stderr,csvlog,jsonlog",
    "log_directory": "log",
    "log_filename": "postgresql.log",
    "log_line_prefix": PREFIX,
    "log_min_duration_statement": "0",
    "log_parameter_max_length": "-1",
    "log_timezone": "Asia/Tokyo",
}
FORMATS = {"stderr": "postgresql.log", "csvlog": "postgresql.csv", "jsonlog": "postgresql.json"}
MULTILINE = "SELECT 'a\n\tb\n\n\"c\",''d'''\n -- LOG:  x\n"


@dataclass(frozen=True)
class Server:
    """A server that logs every statement, and the folder of its logs."""

    dsn: str
    logs: Path


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with open_folder() as folder, EmbeddedServer(copy_home(folder), settings=SETTINGS) as running:
        (logs,) = folder.rglob("log")
        with psycopg.connect(running.dsn, autocommit=True) as conn:
            conn.execute("CREATE EXTENSION vector")
            conn.execute("CREATE TABLE items (id int, name text, embedding vector(2))")
        yield Server(running.dsn, logs)


def run(server: Server, marker: str) -> None:
    """Run statements of every protocol, whose texts hold a marker."""
    comment: Any = f" /* {marker} */"
    with psycopg.connect(server.dsn, autocommit=True, application_name="my app") as conn:
        register_vector(conn)
        conn.execute(MULTILINE + comment)
        search: LiteralString = (
            "SELECT id FROM items WHERE name = %s ORDER BY embedding <=> %s LIMIT %s" + comment
        )
        for binary in (False, True):
            with conn.cursor(binary=binary) as cursor:
                cursor.execute(search, ["it's\n\t\"b\", $1 = 'x'", Vector([1.5, -2]), 3], prepare=False)
        with conn.cursor() as cursor:
            cursor.execute("SELECT %b::int4, %b::timestamptz IS NULL" + comment, [7, None])
            for _ in range(7):  # prepared from the fifth time on
                cursor.execute("SELECT %s::text" + comment, ["p"])
        with conn.transaction(), conn.cursor("server_side") as cursor:
            cursor.execute("SELECT %s::int" + comment, [5])
            cursor.fetchall()
        with pytest.raises(psycopg.Error):
            conn.execute("SELECT nonsense" + comment)
    with psycopg.connect(server.dsn, autocommit=True, cursor_factory=psycopg.ClientCursor) as conn:
        conn.execute("SELECT %s || 'é' -- last" + comment, ["x"])


def ran(statements: list[LoggedStatement], marker: str) -> list[LoggedStatement]:
    return [statement for statement in statements if f"/* {marker} */" in statement.text]


def read(path: Path, positions: dict[str, Position] | None = None) -> tuple[list[LoggedStatement], Position]:
    file = LocalFile(path)
    try:
        reader = FileReader(file, LogSettings(PREFIX), positions or {})
        found = list(reader.statements())
        assert reader.damaged == 0
        return found, reader.position
    finally:
        file.close()


@pytest.mark.parametrize("name", FORMATS)
def test_statements_are_read_with_their_values(server: Server, name: str) -> None:
    run(server, name)
    path = server.logs / FORMATS[name]
    last = f"-- last /* {name} */"
    assert eventually(lambda: any(s.text.endswith(last) for s in read(path)[0]))
    found = ran(read(path)[0], name)
    comment = f" /* {name} */"
    value = "it's\n\t\"b\", $1 = 'x'"
    search = (
        "SELECT id FROM items WHERE name = $1 ORDER BY embedding <=> $2 LIMIT $3" + comment,
        (value, "[1.5,-2]", "3"),
    )
    assert [(s.text, s.values) for s in found] == [
        (MULTILINE + comment, None),
        search,
        search,
        ("SELECT $1::int4, $2::timestamptz IS NULL" + comment, ("7", None)),
        *[("SELECT $1::text" + comment, ("p",))] * 7,
        ('DECLARE "server_side" CURSOR FOR SELECT $1::int' + comment, ("5",)),
        (f"SELECT 'x' || 'é' {last}", None),
    ]
    now = datetime.now(UTC)
    for statement in found:
        assert (statement.database, statement.user, statement.is_cut) == ("vectuned", "postgres", False)
        assert statement.duration_ms is not None
        assert 0 <= statement.duration_ms < 60_000
        assert statement.time is not None
    assert found[0].time is not None
    if name == "stderr":  # the zone of the log is not given, and its abbreviation is ambiguous
        assert abs(found[0].time - now - timedelta(hours=9)) < timedelta(minutes=30)


@pytest.mark.parametrize(
    "settings", ["log_statement = 'all'; SET log_duration = on", "log_statement = 'all'"]
)
@pytest.mark.parametrize("name", FORMATS)
def test_statements_are_read_from_log_statement(server: Server, name: str, settings: str) -> None:
    marker = f"all {name} {len(settings)}"
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        conn.execute("SET log_min_duration_statement = -1")
        conn.execute(("SET " + settings).encode())
        conn.execute(f"SELECT 1 /* {marker} */".encode())
        for _ in range(2):
            conn.execute(f"SELECT %s::int /* {marker} */".encode(), [2], prepare=True)
        conn.execute("RESET ALL; SELECT 'end' /* end */")
    path = server.logs / FORMATS[name]
    timed = "log_duration" in settings

    def is_written() -> bool:
        # The duration is a line of its own, which follows that of the statement.
        found = ran(read(path)[0], marker)
        return len(found) == 3 and (not timed or found[-1].duration_ms is not None)

    assert eventually(is_written)
    found = ran(read(path)[0], marker)
    assert [s.values for s in found] == [None, ("2",), ("2",)]
    assert {s.duration_ms is None for s in found} == {not timed}


def test_values_that_were_cut_are_marked(server: Server) -> None:
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        conn.execute("SET log_parameter_max_length = 5")
        conn.execute("SELECT %s::text, %s::text /* cut */", ["abcdefgh", "x"], prepare=False)
        conn.execute("SET log_parameter_max_length = 0")
        conn.execute("SELECT %s::text /* cut */", ["abcdefgh"], prepare=False)
    path = server.logs / FORMATS["csvlog"]
    assert eventually(lambda: len(ran(read(path)[0], "cut")) == 2)
    first, second = ran(read(path)[0], "cut")
    assert (first.values, first.is_cut) == (("abcde...", "x"), True)
    assert (second.values, second.is_cut) == (None, False)


@pytest.mark.parametrize("name", FORMATS)
def test_large_statements_are_read(server: Server, name: str) -> None:
    marker = f"large {name}"
    text = f"SELECT length('{'x' * 1_000_000}') /* {marker} */"
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        conn.execute(text.encode())
        values = [str(number) for number in range(30_000)]
        placeholders = ", ".join(["%s"] * len(values))
        conn.execute(f"SELECT 1 WHERE '5' IN ({placeholders}) /* {marker} */".encode(), values, prepare=False)
    path = server.logs / FORMATS[name]
    assert eventually(lambda: len(ran(read(path)[0], marker)) == 2)
    first, second = ran(read(path)[0], marker)
    assert first.text == text
    assert second.values == tuple(values)


@pytest.mark.parametrize("name", FORMATS)
def test_reading_goes_on_where_it_stopped_also_in_renamed_files(
    server: Server, name: str, tmp_path: Path
) -> None:
    run(server, f"r {name}")
    source = server.logs / FORMATS[name]
    assert eventually(lambda: len(ran(read(source)[0], f"r {name}")) == 13)
    log = source.read_bytes()
    expected, _ = read(source)
    path = tmp_path / "a.log"
    positions: dict[str, Position] = {}
    found: list[LoggedStatement] = []
    for at, end in enumerate([len(log) // 3, len(log) // 3 + 1, len(log) // 2, len(log)]):
        if at == 2:
            path = path.rename(tmp_path / "a.log.1")  # as logrotate does
        with path.open("ab") as out:
            out.write(log[path.stat().st_size if path.exists() else 0 : end])
        file = LocalFile(path)
        reader = FileReader(file, LogSettings(PREFIX), positions)
        # Not final, so that a record that is written only in part waits.
        found += reader.statements(is_final=False)
        positions = {reader.position.identity: reader.position}
        file.close()
    rest, _ = read(path, positions)
    found += rest
    assert [(s.text, s.values) for s in found] == [(s.text, s.values) for s in expected]
    # A copy has another inode and the same start.
    copied = tmp_path / "copy"
    copied.write_bytes(log)
    assert read(copied, {"1:2": read(path)[1]})[0] == []
    # A new file of the same name has another.
    path.write_bytes(log.replace(b"20", b"19"))
    assert len(read(path, positions)[0]) == len(expected)


def test_a_file_that_was_truncated_is_read_from_its_start(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    head = "2024-05-06 07:08:09.123 UTC [7] joe@shop/x LOG:  duration: 1.000 ms  statement: "
    path.write_text(f"{head}SELECT 1\n{head}SELECT 2\n")
    file = LocalFile(path)
    reader = FileReader(file, LogSettings(PREFIX), {})
    assert [s.text for s in reader.statements()] == ["SELECT 1", "SELECT 2"]
    path.write_text(f"{head}SELECT 3\n")
    assert [s.text for s in reader.statements()] == ["SELECT 3"]
    file.close()


def test_local_files_lists_the_logs_of_a_folder(tmp_path: Path) -> None:
    for name in ("b.log", "a.csv", "c.txt", "d.json"):
        (tmp_path / name).write_text("x")
    assert {path.name for path in local_files([tmp_path])} == {"b.log", "a.csv", "d.json"}
    assert local_files([tmp_path / "c.txt"]) == [tmp_path / "c.txt"]


def test_read_stream_reads_pieces(server: Server) -> None:
    run(server, "stream")
    path = server.logs / FORMATS["stderr"]
    assert eventually(lambda: len(ran(read(path)[0], "stream")) == 13)
    log = path.read_bytes()
    pieces = (log[at : at + 77] for at in range(0, len(log), 77))
    assert list(read_stream(pieces, LogSettings(PREFIX))) == read(path)[0]
    assert list(read_stream([gzip.compress(log)[:50]], LogSettings(None))) == []


def test_server_files_are_read_through_the_connection(server: Server) -> None:
    run(server, "pg_read_file")
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        files = server_files(conn)
        assert [file.name for file in files] == ["log/postgresql.json"]

        def statements(file: ServerFile) -> list[LoggedStatement]:
            return ran(list(FileReader(file, LogSettings(), {}).statements()), "pg_read_file")

        assert eventually(lambda: len(statements(files[0])) == 13)
        gone = FileReader(ServerFile(conn, "log/gone.log"), LogSettings(), {})
        assert list(gone.statements()) == []
