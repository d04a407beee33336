"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from vectuned.config.atomic_file import replace_file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    return path


def test_replace_file_writes_the_new_content_only_at_the_end(path: Path) -> None:
    with replace_file(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_replace_file_after_an_error_leaves_the_old_file(path: Path) -> None:
    with pytest.raises(ZeroDivisionError), replace_file(path) as file:
        file.write(str(1 / file.tell()).encode())  # nothing is written yet: 1 / 0
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(("private", "mode"), [(True, 0o600), (False, 0o640)])
def test_replace_file_gives_the_rights_of_the_umask_or_of_a_private_file(
    path: Path, private: bool, mode: int
) -> None:
    before = os.umask(0o027)
    try:
        with replace_file(path, private=private):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_replace_file_in_a_missing_folder_raises_oserror(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replace_file(tmp_path / "none" / "a.txt"):
        pass
