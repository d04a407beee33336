"""Documents as files: unambiguous names, atomic writes, refusals with a reason."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vectuned.config.errors import UsageError, VectunedError
from vectuned.learning import exchange
from vectuned.learning.exchange import document_name, parse_document, read_document, write_document

NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=63)


def document(*names: str, at: str = "2026-11-21T10:00:05.25+00:00") -> dict[str, Any]:
    """Make the parts of a document that its file name is made of: database, schema, relation and column."""
    provenance = dict(zip(("database", "schema", "relation", "column"), names, strict=True))
    return {"provenance": provenance, "created_at": at}


def test_document_name_holds_column_database_and_time() -> None:
    assert (
        document_name(document("shop", "public", "items", "embedding"))
        == "public.items.embedding@shop.20261121T100005Z.vectuned.json"
    )
    late = document("shop", "public", "items", "embedding", at="2026-11-21T12:00:05+02:00")
    assert document_name(late).endswith(".20261121T100005Z.vectuned.json")


@settings(derandomize=True, max_examples=150, deadline=None, database=None)
@given(*[NAMES] * 4)
def test_document_name_of_any_names_is_one_file_name(
    database: str, schema: str, relation: str, column: str
) -> None:
    name = document_name(document(database, schema, relation, column))
    assert len(name.encode()) <= 255
    assert "/" not in name
    assert not name.startswith(".")
    assert exchange._parse_name(name) == (
        exchange._part(schema, relation, column),
        exchange._part(database),
    )


def test_document_name_of_similar_names_differs() -> None:
    alike = [("a.b", "c", "d"), ("a", "b.c", "d"), ("a", "b", "c.d"), ("a%2Eb", "c", "d"), ("a@b", "c", "d")]
    long = [("s", "t" * 60, "ü" * 30 + end) for end in "xy"]
    names = {document_name(document("db", *three)) for three in (*alike, *long)}
    assert len(names) == len(alike) + len(long)


def test_write_document_is_atomic_and_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_document(path, '{"a": 1}')
    assert path.read_text() == '{"a": 1}\n'
    assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(VectunedError, match=r"a\.json cannot be written: No space left on device"):
        write_document(path, "other")
    assert path.read_text() == '{"a": 1}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not JSON: Expecting value: line 1 column 1"),
        ('{"a": 1,\n "b": }', "is not JSON: Expecting value: line 2 column 7"),
        ('{"provenance": {"rows": NaN}}', "is not JSON: NaN is not a number"),
        ('{"provenance": {"rows": -Infinity}}', "is not JSON: -Infinity is not a number"),
        ("[" * 100_000, "is not JSON: "),
        ("1" * 5000, "is not JSON: "),
        ("[]", r"not a document of vectuned: $.provenance must be an object"),
        ('{"provenance": []}', r"not a document of vectuned: $.provenance must be an object"),
    ],
)
def test_parse_document_refuses_other_content(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_document(text, "here.json")
    assert str(caught.value).startswith("here.json is ")
    assert said in str(caught.value)


def test_read_document_refuses_unreadable_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_document(tmp_path / "none.json")
    with pytest.raises(UsageError, match="is not a file"):
        read_document(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="is not a file"):
        read_document(tmp_path / "pipe")
    (tmp_path / "latin").write_bytes(b'"\xe4"')
    with pytest.raises(UsageError, match="is not UTF-8"):
        read_document(tmp_path / "latin")
    (tmp_path / "marked").write_bytes(b"\xef\xbb\xbf" + json.dumps({"a": "ä"}).encode())
    assert json.loads(read_document(tmp_path / "marked")) == {"a": "ä"}
    monkeypatch.setattr(exchange, "MAX_DOCUMENT_BYTES", 1024)
    (tmp_path / "large").write_bytes(b" " * 1025)
    with pytest.raises(UsageError, match="takes more than"):
        read_document(tmp_path / "large")


def test_check_folder_refuses_missing_and_shared_folders(tmp_path: Path) -> None:
    with pytest.raises(VectunedError, match=r"The folder .*none cannot be used: No such file or directory"):
        exchange._check_folder(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(VectunedError, match="file is not a folder"):
        exchange._check_folder(tmp_path / "file")
    tmp_path.chmod(0o777)
    exchange._check_folder(tmp_path)
    with pytest.raises(VectunedError, match="Any user may write to"):
        exchange._check_folder(tmp_path, trusted=True)
    tmp_path.chmod(0o700)
    exchange._check_folder(tmp_path, trusted=True)
