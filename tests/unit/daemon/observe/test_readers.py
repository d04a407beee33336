"""Readers of the three formats: the same statements however a log is cut, and whatever stands in it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vectuned.daemon.observe.csv_log import CsvReader
from vectuned.daemon.observe.formats import find_format
from vectuned.daemon.observe.json_log import JsonReader
from vectuned.daemon.observe.prefix import compile_prefix
from vectuned.daemon.observe.records import LogRecord, RecordReader, read_time
from vectuned.daemon.observe.statements import LoggedStatement, StatementReader
from vectuned.daemon.observe.stderr_log import StderrReader

PREFIX = "%m [%p] %q%u@%d "
TIME = "2024-05-06 07:08:09.123 UTC"
AT = datetime(2024, 5, 6, 7, 8, 9, 123000, UTC)
# Message, detail, process.
RECORDS = [
    (
        "duration: 1.500 ms  execute <unnamed>: SELECT 'a\n\tb'\nORDER BY v <=> $1",
        "Parameters: $1 = '[1,2]\n', $2 = NULL",
        7,
    ),
    ("checkpoint starting: time", "", 8),
    ("statement: SELECT \"é\", 'x: LOG:  y'", "", 9),
    ("execute s: SELECT 2", "Parameters: $1 = '1...'", 7),
    ("duration: 0.250 ms", "", 9),
    ("duration: 2.000 ms  statement: SELECT 3\n\nFROM t", "", 9),
]
EXPECTED = [
    LoggedStatement("SELECT 'a\n\tb'\nORDER BY v <=> $1", ("[1,2]\n", None), 1.5, "shop", "joe", AT),
    LoggedStatement("SELECT \"é\", 'x: LOG:  y'", None, 0.25, "shop", "joe", AT),
    LoggedStatement("SELECT 3\n\nFROM t", None, 2.0, "shop", "joe", AT),
    LoggedStatement("SELECT 2", ("1...",), None, "shop", "joe", AT, is_cut=True),
]


def stderr_log(prefix: str = PREFIX) -> bytes:
    lines = []
    for message, detail, process in RECORDS:
        head = (
            prefix.replace("%m", TIME)
            .replace("%p", str(process))
            .replace("%q", "")
            .replace("%u", "joe")
            .replace("%d", "shop")
        )
        lines.append(f"{head}LOG:  " + message.replace("\n", "\n\t"))
        if detail:
            lines.append(f"{head}DETAIL:  " + detail.replace("\n", "\n\t"))
    return ("\n".join(lines) + "\n").encode()


def csv_log() -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for message, detail, process in RECORDS:
        row = [""] * 26
        row[0], row[1], row[2], row[5], row[11], row[13], row[14] = (
            TIME,
            "joe",
            "shop",
            str(process),
            "LOG",
            message,
            detail,
        )
        writer.writerow(row)
    return out.getvalue().encode()


def json_log() -> bytes:
    lines = [
        json.dumps(
            {
                "timestamp": TIME,
                "user": "joe",
                "dbname": "shop",
                "session_id": str(process),
                "message": message,
                **({"detail": detail} if detail else {}),
            },
            ensure_ascii=False,
        )
        for message, detail, process in RECORDS
    ]
    return ("\n".join(lines) + "\n").encode()


FORMATS: dict[str, tuple[bytes, Callable[[], RecordReader]]] = {
    "stderr": (stderr_log(), lambda: StderrReader(PREFIX)),
    "csvlog": (csv_log(), CsvReader),
    "jsonlog": (json_log(), JsonReader),
}
SMALL: dict[str, Callable[[], RecordReader]] = {
    "stderr": lambda: StderrReader(PREFIX, most=1000),
    "csvlog": lambda: CsvReader(most=1000),
    "jsonlog": lambda: JsonReader(most=1000),
}


def read(reader: StatementReader, pieces: list[bytes]) -> list[LoggedStatement]:
    found = [statement for piece in pieces for statement in reader.feed(piece)]
    return [*found, *reader.finish()]


@pytest.mark.parametrize("name", FORMATS)
def test_reader_yields_statements(name: str) -> None:
    log, make = FORMATS[name]
    assert find_format(log) == name
    reader = StatementReader(make())
    assert read(reader, [log]) == EXPECTED
    assert (reader.records.held, reader.records.damaged) == (0, 0)


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
def test_reader_yields_the_same_however_the_log_is_cut(name: str, data: st.DataObject) -> None:
    log, make = FORMATS[name]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(log)), max_size=8)))
    pieces = [log[start:end] for start, end in zip([0, *cuts], [*cuts, len(log)], strict=True)]
    assert read(StatementReader(make()), pieces) == EXPECTED


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
def test_reader_resumes_after_what_it_does_not_hold(name: str, data: st.DataObject) -> None:
    log, make = FORMATS[name]
    cut = data.draw(st.integers(0, len(log)))
    first = StatementReader(make())
    found = [*first.feed(log[:cut])]
    found += first.flush()
    second = StatementReader(make())
    found += read(second, [log[cut - first.records.held :]])
    assert sorted(s.text for s in found) == sorted(s.text for s in EXPECTED)
    assert second.records.damaged == 0


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
def test_reader_survives_logs_that_lack_their_start_or_hold_anything(name: str, data: st.DataObject) -> None:
    log, make = FORMATS[name]
    start = data.draw(st.integers(0, len(log)))
    noise = data.draw(st.binary(max_size=50))
    reader = StatementReader(make())
    read(reader, [log[start:], noise, b"\n", log])
    # Whatever was before, whole logs are read again, except that an open quote may take a record with it.
    last = read(reader, [b"\n", log, log])
    assert {s.text for s in EXPECTED} <= {s.text for s in last} | {s.text for s in read(reader, [log])}


@pytest.mark.parametrize("name", SMALL)
def test_reader_passes_over_records_that_are_too_long(name: str) -> None:
    log = FORMATS[name][0]
    reader = StatementReader(SMALL[name]())
    long = FORMATS[name][0].replace(b"SELECT 3", b"SELECT '" + b"x" * 5000 + b"'")
    found = read(reader, [long[at : at + 100] for at in range(0, len(long), 100)] + [log])
    assert reader.records.damaged == 1
    assert reader.records.held <= 1100
    assert sum(s.text.startswith("SELECT 3") for s in found) == 1


def test_stderr_reader_passes_over_records_of_many_lines() -> None:
    reader = StderrReader(PREFIX, most=1000)
    head = f"{TIME} [7] joe@shop LOG:  statement: "
    list(reader.feed(f"{head}SELECT 1\n".encode()))
    for _ in range(1000):
        list(reader.feed(b"\tmore of it\n"))
        assert reader.held <= 1100
    records = list(reader.feed(f"{head}SELECT 2\n".encode())) + list(reader.finish())
    assert [record.message for record in records] == ["statement: SELECT 2"]
    assert reader.damaged == 1


@pytest.mark.parametrize(
    ("prefix", "line", "expected"),
    [
        ("", "LOG:  statement: SELECT 1", {}),
        (
            "%t:%r:%u@%d:[%p]: ",
            "2024-05-06 07:08:09 UTC:10.0.0.1(5):joe@shop:[12]: LOG:  x",
            {"user": "joe", "database": "shop", "process": "12"},
        ),
        ("%m [%p] %q%u@%d ", "2024-05-06 07:08:09.123 UTC [3] LOG:  x", {"user": None, "process": "3"}),
        (
            "%a %b <%h> %i %e %c %l ",
            "my app client backend <::1> SELECT 00000 6638.2a 5 LOG:  x",
            {"session": "6638.2a"},
        ),
        (
            "%-10u|%5d|%v %x %Q %% ",
            "joe       | shop|3/15 0 -88 % LOG:  x",
            {"user": "joe", "database": "shop"},
        ),
        (
            "%n %s %P %L ",
            "1714979289.123 2024-05-06 07:08:09 UTC  127.0.0.1 LOG:  x",
            {"epoch": "1714979289.123"},
        ),
        ("%m [%p] ", "2024-05-06 07:08:09.123 +03 [3] ЗАПИСУВАННЯ:  x", {"tag": "ЗАПИСУВАННЯ"}),
        ("[%p] ", "[3] REQUÊTE :  x", {"tag": "REQUÊTE"}),
        ("%u%u ", "joejoe LOG:  x", {}),
        ("(%d) [x] $1 ", "(a.b) [x] $1 LOG:  x", {"database": "a.b"}),
        (
            None,
            "2024-05-06 07:08:09.123 UTC [3] joe@shop LOG:  x: LOG:  y",
            {"tag": "LOG", "message": "x: LOG:  y"},
        ),
        (None, "host app[1]: [3-1] 日志:  x", {"tag": "日志"}),
    ],
)
def test_compile_prefix_reads_all_escapes(
    prefix: str | None, line: str, expected: dict[str, str | None]
) -> None:
    match = compile_prefix(prefix).match(line)
    assert match is not None
    groups = match.groupdict()
    assert {name: groups[name] for name in expected} == expected
    assert groups["message"]


@given(st.text(max_size=30))
def test_compile_prefix_accepts_any_prefix(prefix: str) -> None:
    compile_prefix(prefix)


def test_reader_reads_errors_as_no_statements() -> None:
    log = (
        f'{TIME} [7] joe@shop ERROR:  relation "x" does not exist at character 15\n'
        f"{TIME} [7] joe@shop STATEMENT:  SELECT * FROM x\n\tORDER BY a <=> b\n"
        f"{TIME} [7] joe@shop LOG:  duration: 1.000 ms  statement: SELECT 1\n"
    ).encode()
    assert [s.text for s in read(StatementReader(StderrReader(PREFIX)), [log])] == ["SELECT 1"]


def test_reader_keeps_bytes_that_are_no_utf8() -> None:
    log = f"{TIME} [7] joe@shop LOG:  statement: SELECT ".encode() + b"'\xe9'\n"
    (found,) = read(StatementReader(StderrReader(PREFIX)), [log])
    assert found.text.encode("utf-8", "surrogateescape") == b"SELECT '\xe9'"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-05-06 07:08:09.123 UTC", AT),
        ("2024-05-06 09:08:09.123 +02", AT),
        ("2024-05-06 09:08:09.123 CEST", AT),
        ("2024-05-06 01:38:09.123 -05:30", AT),
        ("2024-15-06 01:38:09.123 UTC", None),
        ("yesterday", None),
    ],
)
def test_read_time(text: str, expected: datetime | None) -> None:
    assert read_time(text, timezone(timedelta(hours=2))) == expected


def test_records_without_circumstances_are_equal() -> None:
    assert LogRecord("a") == LogRecord("a", "", None, None, None, None)
