"""The server's messages about statements, in every language it is translated to.

PostgreSQL translates the words around a statement, not their order: a duration, what happened, a colon, the
text. Words are from its message catalogues; languages that are missing here are recognised by the order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["statement", "duration", "other"]

# Tags of lines that belong to the message before.
SECONDARY_TAGS: Final = frozenset(
    (
        *("DETAIL", "HINT", "QUERY", "CONTEXT", "LOCATION", "STATEMENT", "BACKTRACE"),
        *("TIPP", "ANFRAGE", "ZUSAMMENHANG", "ORT", "ANWEISUNG"),
        *("DETALLE", "CONSULTA", "CONTEXTO", "UBICACIÓN", "SENTENCIA", "SUGERENCIA"),
        *("DÉTAIL", "ASTUCE", "REQUÊTE", "CONTEXTE", "EMPLACEMENT", "INSTRUCTION", "PILE D'APPEL"),
        *("DETTAGLI", "SUGGERIMENTO", "CONTESTO", "POSIZIONE", "ISTRUZIONE"),
        *("DETALHE", "DICA", "LOCAL", "COMANDO"),
        *("詳細", "ヒント", "問い合わせ", "文脈", "場所", "文", "バックトレース"),
        *("დეტალები", "მინიშნება", "მოთხოვნა", "კონტექსტი", "მდებარეობა", "ოპერატორი", "სტეკი"),
        *("상세정보", "힌트", "쿼리", "내용", "위치", "명령 구문", "역추적"),
        *("SZCZEGÓŁY", "PODPOWIEDŹ", "ZAPYTANIE", "KONTEKST", "POZYCJA", "WYRAŻENIE"),
        *("ПОДРОБНОСТИ", "ПОДСКАЗКА", "ЗАПРОС", "КОНТЕКСТ", "ПОЛОЖЕНИЕ", "ОПЕРАТОР", "СТЕК"),
        *("DETALJ", "TIPS", "FRÅGA", "KONTEXT", "PLATS", "SATS"),
        *("AYRINTI", "İPUCU", "SORGU", "BAĞLAM", "YER", "İFADE"),
        *("ВІДОМОСТІ", "УКАЗІВКА", "ЗАПИТ", "РОЗТАШУВАННЯ", "ІНСТРУКЦІЯ", "ВІДСТЕЖУВАТИ"),
        *("详细信息", "提示", "查询", "上下文", "背景", "位置", "语句"),
    )
)
# Words of the two steps before a statement is executed, which are logged too where they take long.
_BEFORE: Final = re.compile(
    r"^(?:parse|bind|parsen|binden|analyse|lien|analisi di|enlazar|მიბმა|разбор|"
    r"сообщение bind|аналізування|повідомлення bind|parser|analizar|vincular|ligar|ayrıştır|bağla)"
    r"(?![^\W\d_])"
    r"|^(?:パース|バインド|解析|绑定)|\S*-ის დამუშავება$|구문분석$|접속$",
    re.IGNORECASE,
)
# Of a message without a duration, which may be about anything.
_STATEMENT: Final = re.compile(
    r"^(?:statement|anweisung|sentencia|instruction|istruzione|comando|文|ოპერატორი|명령 구문|wyrażenie|"
    r"оператор|sats|ifade|语句)$"
    r"|^(?:execute|ausführen|ejecutar|exécute|esecuzione di|გაშვება|쿼리실행|자료뽑기|"
    r"выполнение|выборка из|kör|виконувати|виконати|executar|wykonanie)(?![^\W\d_])"
    r"|^(?:実行|取り出し実行|执行)|<unnamed>",
    re.IGNORECASE,
)
_DURATION: Final = re.compile(r"[^\W\d][^\d\n:]{0,40}:?\s{0,2}(\d+\.\d{3})\s?[^\W\d]{1,6},?(?:\s+|\Z)")
_TEXT: Final = re.compile(r"(?P<what>[^\n:]{1,300}?)\s?:\s(?P<text>.*)", re.DOTALL)
_DETAIL: Final = re.compile(r"[^\n:$]{1,40}:\s(?=\$1 = )")
_PARAMETER: Final = re.compile(r"\$\d+ = (?:(NULL)|'([^']*(?:''[^']*)*)')(?:, |\s*\Z)")
_ELLIPSIS: Final = "..."  # ends a value that log_parameter_max_length cut


@dataclass(frozen=True, slots=True)
class Message:
    """A message about a statement: its text, or its duration in milliseconds, or both."""

    kind: Kind
    text: str = ""
    duration_ms: float | None = None


OTHER: Final = Message("other")


def read_message(message: str) -> Message:
    """Read the message of a record at level LOG."""
    duration = _DURATION.match(message)
    milliseconds = None if duration is None else float(duration.group(1))
    rest = message if duration is None else message[duration.end() :]
    if duration is not None and not rest:
        return Message("duration", duration_ms=milliseconds)
    read = _TEXT.match(rest)
    if read is None:
        return OTHER
    what = read.group("what").strip()
    if _BEFORE.search(what) or (duration is None and not _STATEMENT.search(what)):
        return OTHER
    return Message("statement", read.group("text"), milliseconds)


def read_parameters(detail: str) -> list[str | None] | None:
    """Read the values of a detail such as `Parameters: $1 = 'a', $2 = NULL`.

    None if it holds none, or cannot be read to its end.
    """
    start = _DETAIL.match(detail)
    if start is None:
        return None
    values: list[str | None] = []
    place = start.end()
    while place < len(detail):
        match = _PARAMETER.match(detail, place)
        if match is None:
            return None
        values.append(None if match.group(1) else match.group(2).replace("''", "'"))
        place = match.end()
    return values


def may_be_cut(values: list[str | None]) -> bool:
    """Say whether a value may have been cut by log_parameter_max_length: whether one ends in three dots."""
    return any(value is not None and value.endswith(_ELLIPSIS) for value in values)
