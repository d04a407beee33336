"""Messages about statements, in the languages of the server."""

from __future__ import annotations

import pytest

from vectuned.daemon.observe.messages import may_be_cut, read_message, read_parameters

TEXT = "SELECT a: b\nFROM t ORDER BY a <=> $1"
# From the message catalogues of PostgreSQL: a simple statement, parse, bind, execute, the last two without
# a duration.
LANGUAGES = {
    "en": (
        "duration: {} ms  statement: ",
        "duration: {} ms  parse x: ",
        "duration: {} ms  bind x/y: ",
        "duration: {} ms  execute x/y: ",
        "statement: ",
        "execute x: ",
    ),
    "de": (
        "Dauer: {} ms  Anweisung: ",
        "Dauer: {} ms  Parsen x: ",
        "Dauer: {} ms  Binden x/y: ",
        "Dauer: {} ms  Ausführen x/y: ",
        "Anweisung: ",
        "Ausführen x: ",
    ),
    "fr": (
        "durée : {} ms, instruction : ",
        "durée : {} ms, analyse x : ",
        "durée : {} ms, lien x/y : ",
        "durée : {} ms  exécute x/y: ",
        "instruction : ",
        "exécute x : ",
    ),
    "es": (
        "duración: {} ms  sentencia: ",
        "duración: {} ms  parse: x: ",
        "duración: {} ms  bind x/y: ",
        "duración: {} ms  ejecutar x/y: ",
        "sentencia: ",
        "ejecutar x: ",
    ),
    "it": (
        "durata: {} ms  istruzione: ",
        "durata: {} ms  analisi di x: ",
        "durata: {} ms  bind x/y: ",
        "durata: {} ms  esecuzione di x/y: ",
        "istruzione: ",
        "esecuzione di x: ",
    ),
    "ja": (
        "期間: {} ミリ秒  文: ",
        "期間: {} ミリ秒  パースx : ",
        "期間: {} ミリ秒  バインド x/y: ",
        "期間: {} ミリ秒  実行 x/y: ",
        "文: ",
        "実行 x: ",
    ),
    "ka": (
        "ხანგრძლივობა: {} მწმ  გამოსახულება: ",
        "ხანგრძლივობა: {} მწმ  x-ის დამუშავება: ",
        "ხანგრძლივობა: {} მწმ  მიბმა x/y: ",
        "ხანგრძლივობა: {} მწმs  გაშვება x/y: ",
        "ოპერატორი: ",
        "გაშვება x: ",
    ),
    "ko": (
        "실행시간: {} ms  명령 구문: ",
        "실행시간: {} ms  x 구문분석: ",
        "실행시간: {} ms  x/y 접속: ",
        "수행시간: {} ms  쿼리실행 x/y: ",
        "명령 구문: ",
        "쿼리실행 x: ",
    ),
    "ru": (
        "продолжительность: {} мс, оператор: ",
        "продолжительность: {} мс, разбор x: ",
        "продолжительность: {} мс, сообщение Bind x/y: ",
        "продолжительность: {} мс  выполнение x/y: ",
        "оператор: ",
        "выполнение x: ",
    ),
    "sv": (
        "varaktighet: {} ms  sats: ",
        "varaktighet: {} ms  parse x: ",
        "varaktighet: {} ms  bind x/y: ",
        "varaktighet: {} ms  kör x/y: ",
        "sats: ",
        "kör x: ",
    ),
    "uk": (
        "тривалість: {} мс, оператор: ",
        "тривалість: {} мс, аналізування x: ",
        "тривалість: {} мс, повідомлення bind x/y: ",
        "тривалість: {} мс виконувати x/y: ",
        "оператор: ",
        "виконувати x: ",
    ),
    "zh_CN": (
        "执行时间: {} ms 语句: ",
        "执行时间: {} ms  解析 x: ",
        "执行时间: {} ms 绑定x/y: ",
        "执行时间: {} ms 执行x/y: ",
        "语句: ",
        "执行x: ",
    ),
    "unknown": (
        "qatlam: {} ms  buyruq: ",
        None,
        None,
        "qatlam: {} ms  bajar <unnamed>: ",
        None,
        "bajar <unnamed>: ",
    ),
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_read_message_finds_statements_in_every_language(language: str) -> None:
    simple, parse, bind, execute, plain, plain_execute = LANGUAGES[language]
    for timed in (simple, execute):
        assert timed is not None
        message = read_message(timed.format("1234.567") + TEXT)
        assert (message.kind, message.text, message.duration_ms) == ("statement", TEXT, 1234.567)
    for untimed in (plain, plain_execute):
        if untimed is not None:
            assert read_message(untimed + TEXT) == read_message("statement: " + TEXT)
    for earlier in (parse, bind):
        if earlier is not None:
            assert read_message(earlier.format("0.100") + TEXT).kind == "other"


@pytest.mark.parametrize(
    "message",
    [
        "duration: 0.123 ms",
        "Dauer: 0.123 ms",
        "varaktighet 0.123 ms",
        "期間: 0.123 ミリ秒",
        "продолжительность: 0.123 мс",
    ],
)
def test_read_message_finds_durations(message: str) -> None:
    assert (read_message(message).kind, read_message(message).duration_ms) == ("duration", 0.123)


@pytest.mark.parametrize(
    "message",
    [
        "",
        "checkpoint starting: time",
        "connection received: host=[local]",
        "checkpoint complete: wrote 3 buffers (0.0%); write=0.001 s, total=0.1 s",
        'automatic vacuum of table "a.b.c": index scans: 0',
        'listening on IPv4 address "127.0.0.1", port 5432',
    ],
)
def test_read_message_passes_over_other_messages(message: str) -> None:
    assert read_message(message).kind == "other"


@pytest.mark.parametrize(
    ("detail", "values"),
    [
        ("parameters: $1 = 'a', $2 = NULL, $3 = ''", ["a", None, ""]),
        ("Parameters: $1 = 'it''s, $2 = ''x'''", ["it's, $2 = 'x'"]),
        ("Parameter: $1 = 'a\nb'", ["a\nb"]),
        ("paramètres : $1 = '1'", ["1"]),
        ("매개 변수: $1 = '1'", ["1"]),
        ("Parameters: $1 = 'cut", None),
        ("Parameters: $1 = 'a', $2", None),
        ("prepare: PREPARE x AS SELECT 1", None),
        ("", None),
    ],
)
def test_read_parameters(detail: str, values: list[str | None] | None) -> None:
    assert read_parameters(detail) == values


def test_read_parameters_reads_a_million() -> None:
    values = [str(number) for number in range(1_000_000)]
    detail = "Parameters: " + ", ".join(f"${at} = '{value}'" for at, value in enumerate(values, 1))
    assert read_parameters(detail) == values


def test_may_be_cut_sees_three_dots() -> None:
    assert may_be_cut(["[1,2...", None])
    assert not may_be_cut(["[1,2]", None, "..a"])
