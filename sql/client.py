"""Searching from Python, one call each: psycopg, sync and async, SQLAlchemy, and any DB-API cursor.

Imports nothing but the standard library: applications pay only for the driver they have.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy import Select

Vector = Sequence[float] | str
"""Numbers in any form that can be listed (a list, numpy's array, pgvector's Vector), or pgvector's text."""
Filter = Mapping[str, Any]

_SEARCH: Final = (
    "SELECT id, distance, query_id FROM vectuned.search("
    "%(relation)s, %(query)s, %(k)s, %(filter)s, %(column_name)s)"
)
_ROWS: Final = (
    "SELECT * FROM vectuned.search_rows(NULL::{relation}, %(query)s, %(k)s, %(filter)s, %(column_name)s)"
)
_FEEDBACK: Final = (
    "SELECT vectuned.record_feedback(%(query_id)s, %(relevant)s::pg_catalog.text[], "
    "%(irrelevant)s::pg_catalog.text[])"
)
_PART: Final = r'(?:"(?:[^"\0]|"")+"|[^\W\d][\w$]*)'
_NAME: Final = re.compile(rf"{_PART}(?:\.{_PART})?")


class Hit(NamedTuple):
    """A row that was found: its key as text, its distance, and the search, for feedback."""

    id: str
    distance: float
    query_id: UUID


def search(
    conn: psycopg.Connection[Any],
    relation: str,
    query: Vector,
    k: int = 10,
    filter: Filter | None = None,
    column: str | None = None,
) -> list[Hit]:
    """Return the nearest rows, nearest first, as `vectuned.search` finds them.

    `relation` as in SQL (`items`, `shop."Order"`); `filter` in vectuned's language, such as
    {"tenant": 5, "price": {"<": 10}}; `column` only where several of the table's are tuned. Raises psycopg's
    errors as the server reports them.
    """
    cursor = conn.cursor(row_factory=_hits)
    return cursor.execute(*_searching(relation, query, k, filter, column)).fetchall()


async def search_async(
    conn: psycopg.AsyncConnection[Any],
    relation: str,
    query: Vector,
    k: int = 10,
    filter: Filter | None = None,
    column: str | None = None,
) -> list[Hit]:
    """See `search`."""
    cursor = conn.cursor(row_factory=_hits)
    await cursor.execute(*_searching(relation, query, k, filter, column))
    return await cursor.fetchall()


def search_rows(
    conn: psycopg.Connection[Any],
    relation: str,
    query: Vector,
    k: int = 10,
    filter: Filter | None = None,
    column: str | None = None,
) -> list[Any]:
    """Return the nearest rows whole, nearest first, each as the connection's row factory makes it.

    Raises ValueError for a `relation` that is no name of a table.
    """
    return conn.execute(*_searching_rows(relation, query, k, filter, column)).fetchall()


async def search_rows_async(
    conn: psycopg.AsyncConnection[Any],
    relation: str,
    query: Vector,
    k: int = 10,
    filter: Filter | None = None,
    column: str | None = None,
) -> list[Any]:
    """See `search_rows`."""
    cursor = await conn.execute(*_searching_rows(relation, query, k, filter, column))
    return await cursor.fetchall()


def record_feedback(
    conn: psycopg.Connection[Any],
    query_id: UUID | str,
    relevant: Iterable[object] = (),
    irrelevant: Iterable[object] = (),
) -> str:
    """Say which of a search's rows were right and which wrong, by their keys; return what became of it.

    'recorded', 'empty', 'unsampled' (most searches are not recorded), 'unknown' or 'full'; see the README.
    """
    cursor = conn.cursor(row_factory=_first)
    answer = cursor.execute(*_feedback(query_id, relevant, irrelevant)).fetchone()
    return str(answer)


async def record_feedback_async(
    conn: psycopg.AsyncConnection[Any],
    query_id: UUID | str,
    relevant: Iterable[object] = (),
    irrelevant: Iterable[object] = (),
) -> str:
    """See `record_feedback`."""
    cursor = conn.cursor(row_factory=_first)
    await cursor.execute(*_feedback(query_id, relevant, irrelevant))
    return str(await cursor.fetchone())


def search_statement(
    relation: str, query: Vector, k: int = 10, filter: Filter | None = None, column: str | None = None
) -> tuple[str, dict[str, Any]]:
    """Return what any cursor with %(name)s parameters executes: `cursor.execute(*search_statement(...))`.

    For Django's cursors and psycopg2. The rows are (id, distance, query_id).
    """
    return _SEARCH, {
        "relation": relation,
        "query": _vector(query),
        "k": k,
        "filter": None if filter is None else json.dumps(filter),
        "column_name": column,
    }


def select_nearest(
    model: type[Any], query: Vector, k: int = 10, filter: Filter | None = None, column: str | None = None
) -> Select[Any]:
    """Return a SQLAlchemy statement for the nearest rows of a mapped class, nearest first.

    Its rows are (instance, distance, query_id); run it by a session, sync or async, of a psycopg dialect, or
    go on from it (`.join`, `.options`). Raises ValueError for a class whose key is not one column.
    """
    from sqlalchemy import Double, String, Uuid, cast, inspect, select, text
    from sqlalchemy.dialects import postgresql

    mapper = inspect(model)
    if len(mapper.primary_key) != 1:
        keys = ", ".join(key.name for key in mapper.primary_key)
        raise ValueError(
            f"{model.__name__} has the key ({keys}): select_nearest joins by one column; "
            "call vectuned.search and split its id, a JSON array, yourself."
        )
    (key,) = mapper.primary_key
    dialect: Any = postgresql.dialect  # SQLAlchemy leaves the class untyped
    preparer = dialect().identifier_preparer
    relation = preparer.format_table(mapper.local_table)
    _, values = search_statement(relation, query, k, filter, column)
    hits = (
        text(_unbound(_SEARCH))
        .bindparams(*_typeless(values))
        .columns(id=String, distance=Double, query_id=Uuid)
        .subquery("hit")
    )
    return (
        select(model, hits.c.distance, hits.c.query_id)
        .join(hits, key == cast(hits.c.id, key.type))
        .order_by(hits.c.distance)
    )


def _searching(
    relation: str, query: Vector, k: int, filter: Filter | None, column: str | None
) -> tuple[bytes, dict[str, Any]]:
    statement, values = search_statement(relation, query, k, filter, column)
    return statement.encode(), values


def _searching_rows(
    relation: str, query: Vector, k: int, filter: Filter | None, column: str | None
) -> tuple[bytes, dict[str, Any]]:
    if not _NAME.fullmatch(relation):
        raise ValueError(
            f'{relation!r} is no name of a table: write it as in SQL, such as items or shop."Order".'
        )
    _, values = search_statement(relation, query, k, filter, column)
    del values["relation"]
    return _ROWS.format(relation=relation.replace("%", "%%")).encode(), values


def _feedback(
    query_id: UUID | str, relevant: Iterable[object], irrelevant: Iterable[object]
) -> tuple[bytes, dict[str, Any]]:
    ids = {"relevant": [str(i) for i in relevant], "irrelevant": [str(i) for i in irrelevant]}
    return _FEEDBACK.encode(), {"query_id": str(query_id), **ids}


def _unbound(statement: str) -> str:
    """Write parameters as SQLAlchemy does."""
    return re.sub(r"%\((\w+)\)s", r":\1", statement)


def _typeless(values: Mapping[str, Any]) -> list[Any]:
    """Bind values without a type, so that the server finds out by the function's."""
    from sqlalchemy import Integer, bindparam
    from sqlalchemy.types import NullType

    return [
        bindparam(name, value, type_=Integer() if isinstance(value, int) else NullType(), unique=True)
        for name, value in values.items()
    ]


def _vector(query: Any) -> str:
    if isinstance(query, str):
        return query
    for lister in ("to_list", "tolist"):  # pgvector's, and numpy's and the standard library's arrays
        if hasattr(query, lister):
            query = getattr(query, lister)()
            break
    return f"[{','.join(repr(float(x)) for x in query)}]"


def _hits(_cursor: Any) -> Any:
    return Hit._make


def _first(_cursor: Any) -> Any:
    return lambda values: values[0]
