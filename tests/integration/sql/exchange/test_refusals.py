"""Rejected imports: changed, mutated and arbitrary documents, each with one clear error."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import errors
from tests.integration.document_helpers import World, changed, imported, read_import_state, signed
from tests.integration.table_helpers import Connection

from vectuned.config.errors import UsageError
from vectuned.learning.exchange import import_document


@pytest.fixture(scope="module")
def shared(world: World) -> Iterator[Connection]:
    """A copy of the database for tests that do not change it."""
    with world.copy() as conn:
        yield conn


BREAKAGES: dict[str, tuple[tuple[Any, ...], Any, str]] = {
    "format": (("format",), "other", r"$.format must be"),
    "version": (("version",), 2, "$.version is 2: this vectuned reads version 1"),
    "unknown": (("extra",), 1, "$.extra is unknown to this version"),
    "time": (("created_at",), "yesterday", "$.created_at must be a time"),
    "month": (("created_at",), "2026-13-01T00:00:00Z", "$.created_at must be a time"),
    "future": (("created_at",), "2999-01-01T00:00:00Z", "$.created_at is in the future"),
    "ladder": (("ladder", 0), 11, "$.ladder has other rungs"),
    "class": (("classes", 0), 5, "$.classes[0] must be an object, got 5"),
    "k": (("classes", 1, "k"), 4, "$.classes[1].k must be one of 1, 3"),
    "twice": (("classes", 1, "k"), 1, "$.classes[1].k is used by another class"),
    "effort": (("classes", 2, "patterns", 0, "effort"), 13.5, "$.classes[2].patterns[0].effort must be a"),
    "huge": (("classes", 2, "patterns", 1, "usage"), 10**400, "$.classes[2].patterns[1].usage must be"),
    "tiny": (("classes", 2, "patterns", 1, "recall", 3), 1e-60, "$.classes[2].patterns[1].recall must be"),
    "curve": (("classes", 2, "patterns", 0, "cost"), [1], "cost must be a list of 14 numbers"),
    "centroid": (("classes", 2, "patterns", 0, "centroid", 0), 0.5, "must be a list of 4 whole numbers"),
    "signature": (("classes", 2, "center"), None, "$.classes[2].patterns need a probe_ef"),
    "ef": (("classes", 0, "ef_search"), 1001, "$.classes[0].ef_search must be a whole number from 1 to 1000"),
    "both": (("classes", 0, "probes"), 5, "$.classes[0].probes must be set for IVFFlat"),
    "index": (("classes", 0, "index"), 99, "$.classes[0].index is not the number of an index"),
    "path": (("paths", 0, "access_path"), "magic", "$.paths[0].access_path must be one of hnsw, "),
    "witness": (("provenance", "witnesses", 1), "x", "$.provenance.witnesses[1] must be 16"),
    "null": (("provenance",), None, "$.provenance must be an object, got null"),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_import_patterns_names_the_place_of_an_invalid_value(
    shared: Connection, world: World, breakage: str
) -> None:
    place, value, message = BREAKAGES[breakage]
    document = signed(shared, changed(world.document, place, value))
    with pytest.raises(errors.InvalidParameterValue) as caught:
        imported(shared, document)
    assert message in str(caught.value)
    assert (caught.value.diag.message_hint or "").startswith("Nothing was imported.")


def test_import_patterns_rejects_a_document_with_a_wrong_checksum(shared: Connection, world: World) -> None:
    document = changed(world.document, ("classes", 0, "samples"), 10**6)
    with pytest.raises(errors.InvalidParameterValue, match=r"^\$\.checksum does not match the document"):
        imported(shared, document)
    missing = {name: value for name, value in world.document.items() if name != "checksum"}
    with pytest.raises(errors.InvalidParameterValue, match=r"^\$\.checksum is missing, it must be a text"):
        imported(shared, missing)
    with pytest.raises(errors.NullValueNotAllowed):
        shared.execute("SELECT vectuned.import_patterns('items', 'embedding', NULL)")
    with pytest.raises(errors.ProgramLimitExceeded, match="takes more than 64 MB"):
        shared.execute(
            "SELECT vectuned.import_patterns('items', 'embedding', to_jsonb(repeat('x', 65 * 1024 * 1024)))"
        )


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["k", "format", "x"]), inner, max_size=3)
    ),
    max_leaves=5,
)


def attempt(conn: Connection, document: Any, before: list[list[tuple[Any, ...]]]) -> bool:
    """Import a document and roll back; require a report or one clear error, and no partial import."""
    outcomes = []
    for dry_run in (True, False):
        message: str | None = None
        with conn.transaction(force_rollback=True):
            try:
                with conn.transaction():
                    report = imported(conn, document, dry_run=dry_run)
            except errors.InvalidParameterValue as error:
                message = error.diag.message_primary or ""
            if dry_run or message is not None or not report["changed"]:
                assert read_import_state(conn) == before
        assert message is None or message.startswith("$")
        outcomes.append(message is None)
    assert outcomes[0] == outcomes[1]
    return outcomes[0]


def test_import_patterns_is_atomic_for_mutated_documents(shared: Connection, world: World) -> None:
    small = {
        **world.document,
        "classes": [each for each in world.document["classes"] if each["k"] in (3, 10)],
    }
    small["classes"][1] = {**small["classes"][1], "patterns": small["classes"][1]["patterns"][:2]}
    small["paths"] = small["paths"][:1] + [p for p in small["paths"] if p["shape"]][:3]
    small["provenance"] = {**small["provenance"], "witnesses": small["provenance"]["witnesses"][:3]}
    before, accepted = read_import_state(shared), []

    @settings(derandomize=True, max_examples=200, deadline=None, database=None)
    @given(st.data())
    def mutate(data: st.DataObject) -> None:
        document = copy.deepcopy(small)
        for _ in range(data.draw(st.integers(1, 2))):
            at: Any = document
            while True:
                steps = sorted(at) if isinstance(at, dict) else list(range(len(at)))
                step = data.draw(st.sampled_from(steps))
                if not (isinstance(at[step], dict | list) and at[step]) or data.draw(st.integers(0, 5)) == 0:
                    break
                at = at[step]
            how = data.draw(st.sampled_from(["replace", "replace", "nudge", "remove", "repeat"]))
            if how == "remove":
                del at[step]
            elif how == "repeat" and isinstance(at, list):
                at.append(copy.deepcopy(at[step]))
            elif how == "nudge" and isinstance(at[step], int | float):
                at[step] = data.draw(
                    st.sampled_from([-1, 0, 1, 0.5, 2, 1000, 10**9, -at[step], at[step] + 1])
                )
            else:
                at[step] = data.draw(VALUES)
            if not isinstance(document, dict) or not document:
                break
        accepted.append(attempt(shared, signed(shared, document), before))

    mutate()
    assert read_import_state(shared) == before
    assert 5 < sum(accepted) < len(accepted) - 40  # some are accepted, most are rejected


def test_import_document_rejects_arbitrary_json(shared: Connection) -> None:
    before = read_import_state(shared)

    @settings(derandomize=True, max_examples=40, deadline=None, database=None)
    @given(VALUES)
    def arbitrary(value: Any) -> None:
        assert not attempt(shared, value, before)

    arbitrary()
    for broken in ('{"a": "\\u0000"}', '{"a": "\\ud800"}', '{"a": 1e999999}', "{", '{"a": NaN}'):
        with pytest.raises(UsageError, match=r"^b\.json cannot be imported: "):
            import_document(shared, "items", None, broken, place="b.json")
    assert read_import_state(shared) == before
