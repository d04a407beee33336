"""Errors and their messages: one JSON form, two languages, no internal details."""

from __future__ import annotations

import json
import logging
import re

import psycopg
import pytest

from vectuned.config.errors import DatabaseUnavailableError, UsageError, VectunedError
from vectuned.config.sections import LoggingSettings
from vectuned.daemon.logs import set_up_logging
from vectuned.reasoning import errors
from vectuned.reasoning.messages import languages, texts, translate


def every(kind: type[errors.ReasoningError] = errors.ReasoningError) -> list[type[errors.ReasoningError]]:
    return [kind, *(each for sub in kind.__subclasses__() for each in every(sub))]


@pytest.mark.parametrize("kind", every(), ids=lambda kind: kind.__name__)
def test_errors_have_a_code_and_a_message_in_every_language(kind: type[errors.ReasoningError]) -> None:
    assert re.fullmatch(r"[A-Z_]+", kind.code)
    assert issubclass(kind, VectunedError)
    fields = re.findall(r"\{(\w+)\}", texts("en")[kind.key])
    error = kind(correlation_id="c", details=[{"field": "f", "message": "m"}], **dict.fromkeys(fields, "<v>"))
    for language in languages():
        assert kind.key in texts(language)
        document = error.to_json(language)
        assert set(document) == {"code", "message", "correlation_id", "i18n", "details"}
        assert "{" not in document["message"]
        assert document["message"].count("<v>") == len(re.findall(r"\{\w+\}", texts(language)[kind.key]))
        assert document["i18n"] == {"key": kind.key, "params": dict.fromkeys(fields, "<v>")}
        assert document["details"] == [{"field": "f", "message": "m"}]
        json.dumps(document)
    assert str(error) == error.message("en")


def test_texts_have_the_same_keys_and_parameters_in_every_language() -> None:
    assert languages() == ("de", "en")
    assert texts("de").keys() == texts("en").keys()
    for key, text in texts("en").items():
        assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", texts("de")[key])), key


def test_error_codes_are_unique() -> None:
    leaves = [kind for kind in every() if "code" in vars(kind)]
    assert len({kind.code for kind in leaves}) == len(leaves)


def test_translate_falls_back_to_english_and_then_to_the_key() -> None:
    key = "errors.graph.unknown_node"
    values = {"node": 7, "known": "x"}
    assert translate(key, values, "de-AT") == "Es gibt keinen Knoten 7; der Graph hat x."
    assert translate(key, values, "fr") == "There is no node 7; the graph has x."
    pattern = {"node": "{node} {0.__class__}", "known": "x"}
    assert translate(key, pattern, "en") == "There is no node {node} {0.__class__}; the graph has x."
    assert translate(key, {}, "../../etc/passwd") == "There is no node {node}; the graph has {known}."
    assert translate("errors.unheard.of", {"id": 7}, "de") == "errors.unheard.of"


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        (psycopg.OperationalError("connection to 10.0.0.7 failed"), "STORE_UNAVAILABLE", True),
        (psycopg.errors.AdminShutdown("terminating"), "STORE_UNAVAILABLE", True),
        (psycopg.errors.DeadlockDetected("deadlock"), "STORE_UNAVAILABLE", True),
        (psycopg.errors.UndefinedTable("secret"), "STORE_FAILED", False),
        (psycopg.errors.QueryCanceled("canceled"), "STORE_FAILED", False),
        (DatabaseUnavailableError("No connection to secret"), "STORE_UNAVAILABLE", True),
        (ValueError("/root/secret"), "NODE_FAILED", False),
        (UsageError("Text 3 is too long."), "REFUSED", False),
    ],
)
def test_node_error_hides_internal_details(error: Exception, code: str, retryable: bool) -> None:
    found = errors.node_error(error, "identify", "c-9")
    document = found.to_json("de")
    assert (document["code"], document["correlation_id"]) == (code, "c-9")
    assert errors.is_retryable(found) is retryable
    assert found.__cause__ is error
    assert not re.search("secret|10.0.0.7|Traceback", json.dumps(document))


def test_log_lines_have_the_correlation_id(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("vectuned.reasoning.graph.runner")
    for form in ("text", "json"):
        set_up_logging(LoggingSettings(format=form), verbose=True)
        logger.info("node %s", "x", extra={"action": "node_retried", "correlation_id": "c-3"})
    line, document = capsys.readouterr().err.splitlines()
    assert line.endswith("INFO c-3 node_retried: node x")
    assert json.loads(document)["run"] == "c-3"
