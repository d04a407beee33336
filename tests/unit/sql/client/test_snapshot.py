"""The snapshot of learned settings: which statement gets which, and what looking them up costs."""

from __future__ import annotations

import json
import timeit
from typing import Any

import pytest

from vectuned.sql.client.fingerprint import fingerprint
from vectuned.sql.client.snapshot import LocalSettings, Snapshot
from vectuned.sql.client.values import value_key, value_slots

SEARCH = "SELECT id FROM items ORDER BY embedding <=> {} LIMIT {}"
EF_80 = {"hnsw.ef_search": "80"}
EF_200 = {"hnsw.ef_search": "200"}


def filled(*rows: tuple[int, Any], text: str = SEARCH.format("%s", "%s"), **options: Any) -> Snapshot:
    snapshot = Snapshot(**options)
    snapshot.replace((fingerprint(text), k, json.dumps(settings)) for k, settings in rows)
    return snapshot


def chosen(snapshot: Snapshot, text: str, parameters: Any = None) -> dict[str, str] | None:
    settings = snapshot.find(text, parameters)
    return None if settings is None else dict(settings.values)


@pytest.mark.parametrize(
    ("text", "parameters", "expected"),
    [
        (SEARCH.format("'[1]'", "10"), None, EF_80),
        (SEARCH.format("'[1]'", "11"), None, EF_200),
        (SEARCH.format("'[1]'", "1000"), None, None),
        (SEARCH.format("%s", "%s"), ("[1]", 3), EF_80),
        (SEARCH.format("%s", "%s"), ["[1]", 30], EF_200),
        (SEARCH.format("%(q)s", "%(k)s"), {"q": "[1]", "k": 30}, EF_200),
        (SEARCH.format("%(q)s", "%(k)s"), {"q": "[1]"}, EF_200),
        (SEARCH.format("$1", "$2"), ("[1]", 10), EF_80),
        (SEARCH.format("$2", "$1"), (101, "[1]"), None),
        (SEARCH.format("?", "?"), ("[1]", 10), EF_80),
        (SEARCH.format("%s", "%s"), None, EF_200),
        (SEARCH.format("%s", "%s"), ("[1]", "10"), EF_200),
    ],
)
def test_find_chooses_the_class_that_holds_the_rows_asked_for(
    text: str, parameters: Any, expected: dict[str, str] | None
) -> None:
    assert chosen(filled((100, EF_200), (10, EF_80)), text, parameters) == expected


@pytest.mark.parametrize(
    ("limit", "parameters", "expected"),
    [
        ("%s OFFSET %s", ("[1]", 3, 7), EF_80),
        ("%s OFFSET %s", ("[1]", 3, 8), EF_200),
        ("%s OFFSET %s", ("[1]", 3, 98), None),
        ("3 OFFSET 8", ("[1]",), EF_200),
    ],
)
def test_find_adds_the_offset_to_the_rows_asked_for(
    limit: str, parameters: Any, expected: dict[str, str] | None
) -> None:
    text = SEARCH.format("%s", limit)
    assert chosen(filled((100, EF_200), (10, EF_80), text=text), text, parameters) == expected


def test_find_knows_nothing_before_the_first_copy_and_after_forgetting_it() -> None:
    text = SEARCH.format("$1", "10")
    snapshot = Snapshot()
    assert snapshot.find(text) is None
    snapshot.replace([(fingerprint(text), 10, EF_80)])
    assert chosen(snapshot, text) == EF_80
    snapshot.forget("gone")
    assert snapshot.find(text) is None
    assert snapshot.counters.failures == {"gone": 1}


def test_replace_leaves_out_what_may_not_be_sent_or_contradicts() -> None:
    for document in (
        '{"work_mem": "1GB"}',
        "[1]",
        "no json",
        '{"hnsw.ef_search": 80}',
        {"hnsw.ef_search": "1001"},
    ):
        snapshot = Snapshot()
        snapshot.replace([("0" * 16, 10, document)])
        assert len(snapshot) == 0
        assert snapshot.counters.failures == {"invalid settings": 1}
    contradicting = filled((10, EF_80), (10, EF_200))
    assert len(contradicting) == 0
    assert len(filled((10, EF_80), (10, EF_80))) == 1


def test_settings_without_any_are_sent_as_nothing() -> None:
    text = SEARCH.format("$1", "10")
    assert filled((10, {}), text=text).find(text) is None


def test_claim_refresh_is_granted_once_until_the_copy_is_old() -> None:
    snapshot = Snapshot(max_age=3600)
    assert [snapshot.claim_refresh(), snapshot.claim_refresh()] == [True, False]
    snapshot.expire()
    assert [snapshot.claim_refresh(), snapshot.claim_refresh()] == [True, False]
    assert Snapshot(max_age=0).claim_refresh()


def test_texts_are_remembered_up_to_a_bound() -> None:
    snapshot = filled((10, EF_80))
    for number in range(5000):
        snapshot.find(f"SELECT {number}")
    assert len(snapshot._by_text) <= 2000
    long = "SELECT '" + "x" * 100_000 + "'"
    snapshot.find(long)
    assert long not in snapshot._by_text


def test_find_costs_a_foreign_statement_next_to_nothing() -> None:
    snapshot = filled((10, EF_80))
    text = "SELECT * FROM orders WHERE id = %s"
    lookup = min(timeit.repeat(lambda: snapshot.find(text, (1,)), number=1000, repeat=5))
    # Against the time of a fingerprint, so that no speed of a machine decides.
    fingerprinted = min(timeit.repeat(lambda: fingerprint(text), number=1000, repeat=5))
    assert lookup < fingerprinted / 3


def test_local_settings_restore_what_they_saved() -> None:
    settings = LocalSettings.of({"hnsw.ef_search": "80", "enable_indexscan": "off"})
    assert settings is not None
    assert settings.values == (("enable_indexscan", "off"), ("hnsw.ef_search", "80"))
    assert settings.apply == (
        "SELECT pg_catalog.set_config('enable_indexscan', 'off', true), "
        "pg_catalog.set_config('hnsw.ef_search', '80', true)"
    )
    assert settings.save_and_apply.index("saved_1") < settings.save_and_apply.index("'80'")
    assert settings.restore.count("set_config") == 3


def test_find_chooses_by_the_share_of_rows_that_values_match() -> None:
    text = "SELECT id FROM items WHERE kind = %s ORDER BY embedding <=> %s LIMIT %s"
    name = fingerprint(text)

    def of(kind: str) -> str:
        return f"={value_key(name, value_slots(text), (kind, '[1]', 10))}"

    exact = {"enable_indexscan": "off"}
    rows: list[tuple[str, int, Any]] = [
        (name, 10, EF_200),
        (f"#{name}", 10, json.dumps({"12": exact, "3": EF_80})),
        (of("rare"), 12, None),
        (of("common"), 3, None),
        (of("other"), 7, None),
    ]
    snapshot = Snapshot()
    snapshot.replace(rows)
    for kind, expected in [("rare", exact), ("common", EF_80), ("other", EF_200), ("new", EF_200)]:
        assert chosen(snapshot, text, (kind, "[2]", 10)) == expected
    assert snapshot.counters.by_share == 2
    assert chosen(snapshot, text, ("rare", "[2]", 11)) is None  # nothing is proven for that many rows
    # Without settings for all values, only values that are known have some.
    snapshot.replace(rows[1:])
    assert chosen(snapshot, text, ("rare", "[2]", 10)) == exact
    assert chosen(snapshot, text, ("new", "[2]", 10)) is None
    assert snapshot.counters.untouched["share of matching rows not known"] == 1
    # Settings that may not be sent, or are no settings, are left out.
    snapshot.replace([(f"#{name}", 10, '{"12": {"work_mem": "1GB"}, "x": {}}'), *rows[2:]])
    assert chosen(snapshot, text, ("rare", "[2]", 10)) is None
