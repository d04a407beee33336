"""Numbers with their nouns."""

from __future__ import annotations

import pytest

from vectuned.config.wording import counted


@pytest.mark.parametrize(
    ("count", "noun", "written"),
    [
        (0, "column", "0 columns"),
        (1, "column", "1 column"),
        (1, "search", "1 search"),
        (2000, "search", "2,000 searches"),
        (3, "index", "3 indexes"),
    ],
)
def test_counted_writes_a_number_with_its_noun(count: int, noun: str, written: str) -> None:
    assert counted(count, noun) == written
