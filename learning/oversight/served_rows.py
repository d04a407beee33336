"""What serves a class of searches: whether it still is what the claim about their recall is about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypedDict

# An effort under this share of the largest since the claim began is another setting, for which the claim
# starts over. More effort, or a little less, still tests the same promise.
_LOWERED_EFFORT: Final = 0.9


class ServedRow(TypedDict):
    """One row that serves: path, index and effort, of filtered searches for a selectivity `bucket`.

    The index is None for the main one, the effort None for a path without.
    """

    bucket: int | None
    path: str
    index: int | None
    effort: int | None


_Key = tuple[int | None, str, int | None]


def serves_otherwise(served: Sequence[ServedRow] | None, promised: Sequence[ServedRow] | None) -> bool:
    """Say whether other paths or indexes serve than those that were promised, or clearly less effort."""
    now, before = _efforts(served), _efforts(promised)
    return now.keys() != before.keys() or any(now[key] < _LOWERED_EFFORT * before[key] for key in now)


def raise_served(served: Sequence[ServedRow] | None, promised: Sequence[ServedRow] | None) -> list[ServedRow]:
    """Return what serves now, each row with the largest effort that it was promised with or has now.

    So an effort that creeps down in small steps is compared with where it began.
    """
    before = _efforts(promised)
    return [
        {**row, "effort": row["effort"] and max(row["effort"], before.get(_key(row), 0))}
        for row in served or ()
    ]


def _efforts(rows: Sequence[ServedRow] | None) -> dict[_Key, int]:
    """Return the efforts by bucket, path and index, 0 for a path without."""
    return {_key(row): row["effort"] or 0 for row in rows or ()}


def _key(row: ServedRow) -> _Key:
    return row["bucket"], row["path"], row["index"]
