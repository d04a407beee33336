"""What the client records of an application's statements: a sample, bounded, with values as texts."""

from __future__ import annotations

import datetime
import decimal
import json
import uuid
from typing import Any

import numpy as np
import pytest
from pgvector import HalfVector, Vector
from psycopg.types.json import Jsonb

from vectuned.sql.client.recording import Recorder, as_text, number

SEARCH = "SELECT id FROM t WHERE a = %s ORDER BY e <=> %s LIMIT %s"


def recorder(share: float = 1.0, **options: Any) -> Recorder:
    return Recorder(share, clock=lambda: 100.0, **options)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        ("it's", "it's"),
        (True, "t"),
        (5, "5"),
        (0.1, "0.1"),
        (decimal.Decimal("1.50"), "1.50"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (b"\x01\xff", "\\x01ff"),
        (np.array([1.5, 2], dtype=np.float32), "[1.5,2.0]"),
        (np.float32(0.5), "0.5"),
        (Vector([1, 2]), "[1.0,2.0]"),
        (HalfVector([1, 2]), "[1.0,2.0]"),
        ([1, None, 'a"b\\'], '{"1",NULL,"a\\"b\\\\"}'),
        ([[1, 2], [3, 4]], '{{"1","2"},{"3","4"}}'),
        ({"a": 1}, '{"a": 1}'),
        (Jsonb({"a": 1}), '{"a": 1}'),
    ],
)
def test_as_text_writes_values_as_the_server_reads_them(value: Any, text: str | None) -> None:
    assert as_text(value) == text


def test_number_replaces_placeholders_of_every_driver() -> None:
    assert number(SEARCH, ("x", "[1]", 10)) == (
        "SELECT id FROM t WHERE a = $1 ORDER BY e <=> $2 LIMIT $3",
        ["x", "[1]", "10"],
    )
    named = "SELECT %(v)s <=> e FROM t WHERE b LIKE 'x%%' ORDER BY e <=> %(v)s LIMIT %(k)s"
    assert number(named, {"k": 3, "v": "[1]", "unused": object()}) == (
        "SELECT $1 <=> e FROM t WHERE b LIKE 'x%' ORDER BY e <=> $1 LIMIT $2",
        ["[1]", "3"],
    )
    native = "SELECT 5 % 2 FROM t ORDER BY e <=> $1 LIMIT $2"
    assert number(native, ("[1]", 3)) == (native, ["[1]", "3"])
    assert number("SELECT 'a%%' <=> 1", None) == ("SELECT 'a%%' <=> 1", None)
    with pytest.raises(ValueError, match="another number"):
        number(SEARCH, ("x",))


def test_recorder_keeps_only_drawn_searches_and_copies_their_values() -> None:
    draws = iter([0.4, 0.6])
    half = recorder(0.5, draw=lambda: next(draws))
    assert (half.draws(), half.draws()) == (True, False)
    vector, listed = np.ones(2), [1]
    half.add("UPDATE t SET a = 1", None, 0.1)
    half.add("SELECT vectuned.search('t', e) <=> 1", None, 0.1)
    half.add(SEARCH.replace("a = %s", "a = ANY (%s)"), [listed, vector, 10], 0.25)
    vector[:], listed[:] = 7, [8]  # the application goes on with them
    (document,) = json.loads(half.take() or "[]")
    assert document["parameters"] == ['{"1"}', "[1.0,1.0]", "10"]
    assert (document["latency_ms"], document["age"]) == (250.0, 0.0)
    assert half.take() is None
    assert half.counts == {"kept": 1, "forgotten": 0, "unknown": 0, "sent": 1, "taken": 0}


def test_recorder_is_bounded_and_passes_over_values_without_a_text() -> None:
    one = recorder()
    one.add(SEARCH, ("x", object(), 10), 0.1)
    for _ in range(700):
        one.add(SEARCH, ("x" * 10_000, "[1]", 10), 0.1)
    assert len(one) == 500
    message = one.take() or ""
    assert 1_000_000 <= len(message) < 1_100_000
    rest = 0
    while document := one.take():
        rest += len(json.loads(document))
    assert len(json.loads(message)) + rest == 500
    assert one.counts["forgotten"] == 201
    one.add(SEARCH, ("x", object(), 10), 0.1)
    assert one.take() is None
    assert one.counts["unknown"] == 1
    one.add(f"SELECT {'x' * 500_000} <=> 1", None, 0.1)
    assert len(one) == 0


@pytest.mark.parametrize("share", [0, -1, 1.5])
def test_recorder_refuses_what_is_no_share(share: float) -> None:
    with pytest.raises(ValueError, match="share of the statements"):
        Recorder(share)
