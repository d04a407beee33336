"""Search a tuned column from Python: by psycopg, sync or async, by SQLAlchemy, or by any DB-API cursor.

Also importable as `vectuned.client`. Imports only the standard library, so an application loads no more
than the driver it uses.
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
"""A sequence of numbers (list, NumPy array, pgvector's Vector) or pgvector's text representation."""
Filter = Mapping[str, Any]
"""A filter in vectuned's language, such as {"tenant": 5, "price": {"<": 10}}."""

_SEARCH: Final = (
    "SELECT id, distance, query_id FROM vectuned.search("
    "%(relation)s, %(query)s, %(k)s, %(filter)s, %(column_name)s)"
)
_SEARCH_ROWS: Final = (
    "SELECT * FROM vectuned.search_rows(NULL::{relation}, %(query)s, %(k)s, %(filter)s, %(column_name)s)"
)
_FEEDBACK: Final = (
    "SELECT vectuned.record_feedback(%(query_id)s, %(relevant)s::pg_catalog.text[], "
    "%(irrelevant)s::pg_catalog.text[])"
)
_IDENTIFIER: Final = r'(?:"(?:[^"\0]|"")+"|[^\W\d][\w$]*)'
_QUALIFIED_NAME: Final = re.compile(rf"{_IDENTIFIER}(?:\.{_IDENTIFIER})?")


class Hit(NamedTuple):
    """One result of a search: the row's key as text, its distance, and the search's id for feedback."""

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
    """Return the k nearest rows by `vectuned.search`, nearest first.

    relation: the table's name as SQL spells it (`items`, `shop."Order"`).
    column: needed only if more than one column of the table is tuned.

    Raises psycopg.Error as the server reports it.
    """
    cursor = conn.cursor(row_factory=_hit_row)
    return cursor.execute(*_search_call(relation, query, k, filter, column)).fetchall()


async def search_async(
    conn: psycopg.AsyncConnection[Any],
    relation: str,
    query: Vector,
    k: int = 10,
    filter: Filter | None = None,
    column: str | None = None,
) -> list[Hit]:
    """Return the k nearest rows over an async connection; see `search`."""
    cursor = conn.cursor(row_factory=_hit_row)
    await cursor.execute(*_search_call(relation, query, k, filter, column))
    return await cursor.fetchall()


def search_rows(
    conn: psycopg.Connection[Any],
    relation: str,
    query: Vector,
    k: int = 10,
    filter: Filter | None = None,
    column: str | None = None,
) -> list[Any]:
    """Return the k nearest rows with all their columns, nearest first, built by the connection's row factory.

    Raises ValueError if `relation` is not a valid table name; otherwise like `search`.
    """
    return conn.execute(*_search_rows_call(relation, query, k, filter, column)).fetchall()


async def search_rows_async(
    conn: psycopg.AsyncConnection[Any],
    relation: str,
    query: Vector,
    k: int = 10,
    filter: Filter | None = None,
    column: str | None = None,
) -> list[Any]:
    """Return the k nearest rows with all their columns over an async connection; see `search_rows`."""
    cursor = await conn.execute(*_search_rows_call(relation, query, k, filter, column))
    return await cursor.fetchall()


def record_feedback(
    conn: psycopg.Connection[Any],
    query_id: UUID | str,
    relevant: Iterable[object] = (),
    irrelevant: Iterable[object] = (),
) -> str:
    """Report which results of a search were relevant and which were not, by their keys.

    Returns the outcome: 'recorded', 'empty', 'unsampled' (most searches are not recorded), 'unknown' or
    'full'; see sql/docs/feedback.md.
    """
    cursor = conn.cursor(row_factory=_scalar_row)
    answer = cursor.execute(*_feedback_call(query_id, relevant, irrelevant)).fetchone()
    return str(answer)


async def record_feedback_async(
    conn: psycopg.AsyncConnection[Any],
    query_id: UUID | str,
    relevant: Iterable[object] = (),
    irrelevant: Iterable[object] = (),
) -> str:
    """Report feedback over an async connection; see `record_feedback`."""
    cursor = conn.cursor(row_factory=_scalar_row)
    await cursor.execute(*_feedback_call(query_id, relevant, irrelevant))
    return str(await cursor.fetchone())


def search_statement(
    relation: str, query: Vector, k: int = 10, filter: Filter | None = None, column: str | None = None
) -> tuple[str, dict[str, Any]]:
    """Return a statement and its parameters for any cursor that takes %(name)s placeholders.

    For Django's cursors and psycopg2: `cursor.execute(*search_statement(...))`. The rows are
    (id, distance, query_id).
    """
    return _SEARCH, {
        "relation": relation,
        "query": _vector_text(query),
        "k": k,
        "filter": None if filter is None else json.dumps(filter),
        "column_name": column,
    }


def select_nearest(
    model: type[Any], query: Vector, k: int = 10, filter: Filter | None = None, column: str | None = None
) -> Select[Any]:
    """Return a SQLAlchemy SELECT of the k nearest rows of a mapped class, nearest first.

    Its rows are (instance, distance, query_id). Execute it in a sync or async session of a psycopg dialect,
    or extend it (`.join`, `.options`). Raises ValueError if the class's primary key is not a single column.
    """
    from sqlalchemy import Double, String, Uuid, cast, inspect, select, text
    from sqlalchemy.dialects import postgresql

    mapper = inspect(model)
    if len(mapper.primary_key) != 1:
        keys = ", ".join(key.name for key in mapper.primary_key)
        raise ValueError(
            f"{model.__name__} has the key ({keys}), but select_nearest joins on a single column: "
            "call vectuned.search instead and split its id, which is a JSON array."
        )
    (key,) = mapper.primary_key
    dialect: Any = postgresql.dialect  # Any: SQLAlchemy does not annotate the class
    preparer = dialect().identifier_preparer
    relation = preparer.format_table(mapper.local_table)
    _, values = search_statement(relation, query, k, filter, column)
    nearest = (
        text(_sqlalchemy_text(_SEARCH))
        .bindparams(*_untyped_parameters(values))
        .columns(id=String, distance=Double, query_id=Uuid)
        .subquery("nearest")
    )
    return (
        select(model, nearest.c.distance, nearest.c.query_id)
        .join(nearest, key == cast(nearest.c.id, key.type))
        .order_by(nearest.c.distance)
    )


def _search_call(
    relation: str, query: Vector, k: int, filter: Filter | None, column: str | None
) -> tuple[bytes, dict[str, Any]]:
    statement, values = search_statement(relation, query, k, filter, column)
    return statement.encode(), values


def _search_rows_call(
    relation: str, query: Vector, k: int, filter: Filter | None, column: str | None
) -> tuple[bytes, dict[str, Any]]:
    if not _QUALIFIED_NAME.fullmatch(relation):
        raise ValueError(
            f'{relation!r} is not a table name: write it as in SQL, for example items or shop."Order".'
        )
    _, values = search_statement(relation, query, k, filter, column)
    del values["relation"]
    return _SEARCH_ROWS.format(relation=relation.replace("%", "%%")).encode(), values


def _feedback_call(
    query_id: UUID | str, relevant: Iterable[object], irrelevant: Iterable[object]
) -> tuple[bytes, dict[str, Any]]:
    ids = {"relevant": [str(i) for i in relevant], "irrelevant": [str(i) for i in irrelevant]}
    return _FEEDBACK.encode(), {"query_id": str(query_id), **ids}


def _sqlalchemy_text(statement: str) -> str:
    """Rewrite %(name)s placeholders as SQLAlchemy's :name."""
    return re.sub(r"%\((\w+)\)s", r":\1", statement)


def _untyped_parameters(values: Mapping[str, Any]) -> list[Any]:
    """Bind values without a type, so that the server infers each from the function's parameter."""
    from sqlalchemy import Integer, bindparam
    from sqlalchemy.types import NullType

    return [
        bindparam(name, value, type_=Integer() if isinstance(value, int) else NullType(), unique=True)
        for name, value in values.items()
    ]


def _vector_text(query: Any) -> str:
    """Write a vector in pgvector's text representation."""
    if isinstance(query, str):
        return query
    for method in ("to_list", "tolist"):  # of pgvector; of NumPy and the standard library's array
        if hasattr(query, method):
            query = getattr(query, method)()
            break
    return f"[{','.join(repr(float(x)) for x in query)}]"


def _hit_row(_cursor: Any) -> Any:
    return Hit._make


def _scalar_row(_cursor: Any) -> Any:
    return lambda values: values[0]
