"""What recognition returns: calls of vector searches that applications send."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vectuned.learning.model.arrays import Singles
from vectuned.learning.model.column import Metric


@dataclass(frozen=True)
class Call:
    """A vector search over one table: the rows that meet a condition, ordered by the distance to one vector.

    `vector` float32 (d,); `k` = LIMIT + OFFSET; `condition`, SQL over the table's row with the table called
    t, valid with search_path = pg_catalog, None without; `shape`, the condition with $1, $2 ... in place of
    its literals; `operator` is pgvector's.
    """

    relation: int
    schema: str
    table: str
    column: str
    metric: Metric
    operator: str
    vector: Singles
    k: int
    condition: str | None
    shape: str | None


@dataclass(frozen=True)
class TextCall:
    """A call that does not come down to the rows of one table: its text and values, and the reason.

    `is_search` is False where it orders no rows by a distance at all, or where the server refused to plan it.
    `query` is what can be replayed of the text, `k` its last LIMIT, and `columns` are the vector columns, by
    the table's oid and their name, that it searches; none if it cannot be replayed.
    """

    text: str
    values: Sequence[str | None] | None
    reason: str
    is_search: bool = True
    query: str = ""
    k: int = 0
    columns: tuple[tuple[int, str], ...] = ()
