"""Recognises the vector searches among the statements that applications send; nothing is ever run.

The server is the parser: it prepares the text and plans it with scans of indexes switched off. That plan
names the table, the condition and the distance. A text with parameters is planned once, with its parameters
left open, which gives a template; its later calls only put their values in.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

import numpy as np
import psycopg

from vectuned.learning.model.arrays import Singles
from vectuned.learning.model.ladder import K_CLASSES
from vectuned.sql.rows import fetch_row, fetch_rows, fetch_values

from .calls import Call, TextCall
from .guard import find_untrusted, find_untrusted_condition, find_volatile
from .limits import Limits, find_limits, last_limit
from .plan import (
    DISTANCE_FUNCTIONS,
    DISTANCE_OPERATORS,
    METRICS,
    Distance,
    NotReducibleError,
    TableScan,
    orders_by_distance,
    read_search,
    searched_columns,
)
from .preparation import NAME, Plan, explain, plan_settings, prepared_statement, quote
from .qualification import qualify
from .tokens import Token, cut_at_parameters, literal_end, shape_of, tokenize, unquote

Values = Sequence[str | None]

_SIGNS: Final = (*DISTANCE_OPERATORS, *(f"{name}(" for name in DISTANCE_FUNCTIONS))
_TIMEOUT_MS: Final = 2_000  # milliseconds that parsing and planning one statement may take
_LONGEST: Final = 500_000  # characters of a text that is looked at: 4,000 dimensions take 50,000
_CAPACITY: Final = 2_000  # texts remembered
_MAX_AGE: Final = 600.0  # seconds until a remembered text is planned again: its table may have changed
_MOST_DIMENSIONS: Final = 16_000  # of pgvector's type vector
# SQLSTATE classes whose errors lie in the text: they come again. Others may pass.
_LASTING: Final = ("0A", "22", "25", "26", "42")


def may_be_search(text: str) -> bool:
    """Say whether a text may order by a distance; costs microseconds.

    vectuned's own statements, and searches through its functions, which record themselves, are none.
    """
    return any(sign in text for sign in _SIGNS) and "vectuned" not in text


@dataclass(frozen=True)
class _Table:
    """A table and its columns of pgvector's types."""

    oid: int
    schema: str
    name: str
    vectors: tuple[str, ...]


@dataclass(frozen=True)
class _Template:
    """A search with its parameters open: calls differ in their values only.

    `pieces` are the condition cut at its parameters, whose numbers are in `parameters`.
    """

    table: _Table
    distance: Distance
    limits: Limits
    pieces: tuple[str, ...]
    parameters: tuple[int, ...]
    types: tuple[str, ...]
    shape: str | None

    @property
    def vector(self) -> int:
        """Return the number of the parameter that is the vector."""
        return int(self.distance.vector.text[1:])

    def call(self, values: Values) -> Call:
        """Return the search with these values. Raises NotReducibleError."""
        condition = None
        if self.shape is not None:
            literals = [f"{quote(values[at - 1] or '')}::{self.types[at - 1]}" for at in self.parameters]
            pairs = zip(self.pieces, [*literals, ""], strict=True)
            condition = "".join(piece + literal for piece, literal in pairs)
        vector = values[self.vector - 1]
        return _call(self.table, self.distance, vector, self.limits, values, condition, self.shape)


@dataclass
class _Form:
    """What is known of a text, whatever its values are.

    `template` or `call`, of a text that has no parameters; `reason` in place of them for what cannot be
    brought down to one table, and `columns`, the vector columns that it searches if it can be replayed.
    """

    made_at: float
    query: str = ""
    limits: Limits | str = ""
    types: tuple[str, ...] = ()
    is_search: bool = True
    is_none: bool = False
    reason: str | None = None
    columns: tuple[tuple[int, str], ...] = ()
    template: _Template | None = None
    call: Call | None = None


class Recognizer:
    """Recognises calls over one connection, and remembers texts.

    `conn` needs SELECT alone, and may be to a standby. In autocommit mode each text is planned in a read-only
    transaction; otherwise in a savepoint of the transaction that it is in, which costs more. `clock` counts
    seconds.
    """

    def __init__(
        self,
        conn: psycopg.Connection[Any],
        *,
        timeout_ms: int = _TIMEOUT_MS,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._conn, self._timeout_ms, self._clock = conn, timeout_ms, clock
        self._forms: OrderedDict[tuple[bytes, str | None], _Form] = OrderedDict()
        self._plain_shapes: OrderedDict[tuple[int, str, str | None], None] = OrderedDict()
        self.planned = 0  # how often the server was asked for the plan of a statement

    def recognize(
        self, text: str, values: Values | None = None, *, search_path: str | None = None
    ) -> Call | TextCall | None:
        """Return the search that a text with its values is, None if it is no vector search.

        `values` are those of $1, $2 ... as texts, None where they are not known; `search_path` is that of the
        role that sent the text, by default that of the connection. Only the loss of the connection raises.
        """
        if not may_be_search(text):
            return None
        if "\0" in text:
            return TextCall(text, values, "a character that no statement has", is_search=False)
        if len(text) > _LONGEST:
            return TextCall(text, values, f"longer than {_LONGEST:,} characters", is_search=False)
        form = self._form(text, search_path)
        if form.is_none:
            return None
        reason = form.reason
        if reason is None and form.types and values is None:
            reason = "its values were not logged"
        elif reason is None and len(values or ()) < len(form.types):
            reason = f"{len(values or ())} values for {len(form.types)} parameters"
        if reason is not None:
            return self._text_call(form, text, values, reason)
        if form.call is not None:
            return form.call
        return self._call(form, text, tuple(values or ()), search_path)

    def _form(self, text: str, search_path: str | None) -> _Form:
        """Return what is known of a text; parse it if it is new or was parsed long ago."""
        key = (hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest(), search_path)
        form = self._forms.get(key)
        if form is not None and self._clock() - form.made_at <= _MAX_AGE:
            self._forms.move_to_end(key)
            return form
        form = _Form(self._clock())
        try:
            if self._fill(form, text, search_path):
                self._remember(self._forms, key, form)
        except NotReducibleError as error:
            if error.is_lasting or not form.types:
                form.reason = str(error)
            self._remember(self._forms, key, form)
        return form

    def _fill(self, form: _Form, text: str, search_path: str | None) -> bool:
        """Parse a text and make its template; return False if that may go better at another time.

        Raises NotReducibleError if it has no template, lasting if it has none with any values.
        """
        tokens = tokenize(text)
        start = _query_start(tokens)
        if start is None:
            form.is_none = True
            return True
        tokens = tokens[start:]
        form.query, form.limits = text[tokens[0].start :], find_limits(tokens)
        settings = self._settings(search_path, is_generic=True)
        plan = None
        try:
            with prepared_statement(self._conn, form.query, settings):
                form.types = tuple(fetch_values(self._conn, "statement_parameters", {"name": NAME}))
                form.reason = self._untrusted(tokens)
                if form.reason is None:
                    plan = explain(self._conn, [None] * len(form.types))
                    self.planned += 1
        except (psycopg.Error, UnicodeError) as error:
            reason, is_lasting = self._describe(error)
            if form.types:
                return True  # values may allow what open parameters do not
            form.reason, form.is_search = reason, False
            return is_lasting
        if plan is None:
            return True
        form.is_search = orders_by_distance(plan)
        form.is_none = not form.is_search
        try:
            if form.is_search and form.types:
                form.template = self._template(plan, form, search_path)
            elif form.is_search:
                form.call = self._reduce(plan, form, (), search_path)
                form.is_none = form.call is None
        except NotReducibleError:
            form.columns = self._columns(plan, tokens)
            raise
        return True

    def _template(self, plan: Plan, form: _Form, search_path: str | None) -> _Template | None:
        """Make a template of a generic plan. Raises NotReducibleError."""
        distance, scan = read_search(plan)
        table = self._table(scan, distance)
        if table is None:
            form.is_none = True
            return None
        if isinstance(form.limits, str):
            raise NotReducibleError(form.limits, is_lasting=True)
        if distance.operator not in METRICS:
            raise NotReducibleError(f"the operator {distance.operator}, which is not tuned", is_lasting=True)
        if distance.vector.kind != "parameter":
            return None
        condition = scan.condition
        if condition is not None:
            self._check_condition(condition, table, is_template=True)
            if _depends_on_values(condition):
                return None
            settings = self._settings(search_path, is_generic=True)
            condition = qualify(self._conn, (table.schema, table.name), condition, form.types, settings)
            self._check_condition(condition, table, is_template=True)
        pieces, parameters = cut_at_parameters(condition or "")
        shape = None if condition is None else shape_of(condition)
        return _Template(table, distance, form.limits, pieces, parameters, form.types, shape)

    def _call(
        self, form: _Form, text: str, values: Values, search_path: str | None
    ) -> Call | TextCall | None:
        """Return the call by the template of its text, or else by the plan with its values."""
        is_search, plan = True, None
        try:
            template = form.template
            if template is not None and all(values[at - 1] is not None for at in template.parameters):
                return template.call(values)
            with prepared_statement(self._conn, form.query, self._settings(search_path)):
                reason = self._untrusted(tokenize(form.query))
                if reason is not None:
                    return TextCall(text, values, reason, is_search=False)
                plan = explain(self._conn, values[: len(form.types)])
                self.planned += 1
            is_search = orders_by_distance(plan)
            form.is_none = not is_search and None not in values
            return self._reduce(plan, form, values, search_path) if is_search else None
        except NotReducibleError as error:
            if error.is_lasting:
                form.reason = str(error)
            if plan is not None and not form.columns:
                form.columns = self._columns(plan, tokenize(form.query))
            return self._text_call(form, text, values, str(error))
        except (psycopg.Error, UnicodeError) as error:
            reason, _ = self._describe(error)
            return TextCall(text, values, reason, is_search=False)

    def _text_call(self, form: _Form, text: str, values: Values | None, reason: str) -> TextCall:
        """Return a call that is replayed as it was sent, if it can be and all of its values are known."""
        columns, k = form.columns, 0
        if columns and len(values or ()) >= len(form.types):
            k = last_limit(tokenize(form.query), values or ()) or 0
        if not 1 <= k <= K_CLASSES[-1]:
            columns = ()
        return TextCall(text, values, reason, form.is_search, form.query, k, columns)

    def _columns(self, plan: Plan, tokens: Sequence[Token]) -> tuple[tuple[int, str], ...]:
        """Return the vector columns that a plan searches; none if its text may not be run."""
        found = searched_columns(plan)
        if not found or find_volatile(self._conn, tokens) is not None:
            return ()
        schemas, tables, columns = (list(part) for part in zip(*sorted(found), strict=True))
        values = {"schemas": schemas, "tables": tables, "columns": columns}
        rows = fetch_rows(self._conn, "statement_searched", values)
        return tuple((row.relation, row.column) for row in rows)

    def _reduce(self, plan: Plan, form: _Form, values: Values, search_path: str | None) -> Call | None:
        """Return the call that a plan with its values comes down to. Raises NotReducibleError."""
        distance, scan = read_search(plan)
        table = self._table(scan, distance)
        if table is None:
            return None
        if isinstance(form.limits, str):
            raise NotReducibleError(form.limits, is_lasting=True)
        if distance.operator not in METRICS:
            raise NotReducibleError(f"the operator {distance.operator}, which is not tuned", is_lasting=True)
        if distance.vector.kind != "string":
            raise NotReducibleError("a vector that is no constant")
        condition = scan.condition
        if condition is not None:
            condition = self._qualify(table, condition, search_path)
        shape = None if condition is None else shape_of(condition)
        vector = unquote(distance.vector.text)
        return _call(table, distance, vector, form.limits, values, condition, shape)

    def _qualify(self, table: _Table, condition: str, search_path: str | None) -> str:
        """Qualify a condition without parameters; if one of its shape needed no schema, it needs none."""
        key = (table.oid, shape_of(condition, with_types=True), search_path)
        if key in self._plain_shapes:
            return condition
        self._check_condition(condition, table)
        settings = self._settings(search_path)
        written = qualify(self._conn, (table.schema, table.name), condition, (), settings)
        self._check_condition(written, table)
        if written == condition:
            self._remember(self._plain_shapes, key, None)
        return written

    def _check_condition(self, condition: str, table: _Table, *, is_template: bool = False) -> None:
        """Refuse a condition that says something about the distance, or that we must not run."""
        tokens = tokenize(condition)
        names = {token.name for token in tokens}
        operators = {token.text for token in tokens if token.kind == "operator"}
        if not names.isdisjoint(table.vectors) and (
            not operators.isdisjoint(DISTANCE_OPERATORS) or not names.isdisjoint(DISTANCE_FUNCTIONS)
        ):
            raise NotReducibleError("a threshold on the distance", is_lasting=True)
        refused = find_untrusted_condition(self._conn, condition, is_template=is_template)
        if refused is not None:
            raise NotReducibleError(f"a condition with {refused}", is_lasting=True)

    def _untrusted(self, tokens: Sequence[Token]) -> str | None:
        found = find_untrusted(self._conn, tokens)
        return None if found is None else f"it may call what is not trusted: {found}"

    def _table(self, scan: TableScan, distance: Distance) -> _Table | None:
        """Find the table of a scan; None where it has no such vector column. Raises NotReducibleError."""
        values = {"schemas": list(scan.schemas), "tables": list(scan.tables)}
        row = fetch_row(self._conn, "statement_tables", values)
        if row is None or not row.is_table or row.is_temporary:
            raise NotReducibleError("a table that is temporary, foreign, or one of several that inherit")
        table = _Table(row.oid, row.schema, row.table, tuple(row.vectors))
        return table if distance.column in table.vectors else None

    def _settings(self, search_path: str | None, *, is_generic: bool = False) -> dict[str, str | None]:
        return plan_settings(timeout_ms=self._timeout_ms, is_generic=is_generic, search_path=search_path)

    def _remember(self, cache: OrderedDict[Any, Any], key: Any, value: Any) -> None:
        cache[key] = value
        cache.move_to_end(key)
        if len(cache) > _CAPACITY:
            cache.popitem(last=False)

    def _describe(self, error: Exception) -> tuple[str, bool]:
        """Return an error as a reason, and whether it lies in the text; raise a lost connection."""
        if self._conn.closed:
            raise error
        if not isinstance(error, psycopg.Error):
            return "characters that the database's encoding lacks", True
        if isinstance(error, psycopg.errors.QueryCanceled):
            return f"planning it takes more than {self._timeout_ms} ms", False
        message = error.diag.message_primary or str(error).strip().splitlines()[0]
        return message, (error.sqlstate or "22")[:2] in _LASTING


def _query_start(tokens: Sequence[Token]) -> int | None:
    """Return where a text's query begins, behind DECLARE CURSOR; None if it is no query."""
    start = 0
    if tokens and tokens[0].keyword == "declare":
        words = [token.keyword for token in tokens[:_LONGEST_DECLARE]]
        if "cursor" not in words or "for" not in words[words.index("cursor") :]:
            return None
        start = words.index("for", words.index("cursor")) + 1
    is_query = start < len(tokens) and tokens[start].keyword in ("select", "with", "(")
    return start if is_query else None


_LONGEST_DECLARE: Final = 16  # tokens up to FOR: a name and every option of DECLARE take fewer


def _depends_on_values(condition: str) -> bool:
    """Say whether values of parameters may change the form of a condition, as in `$1 IS NULL OR ...`."""
    tokens = tokenize(condition)
    if any(token.keyword in ("coalesce", "case", "nullif", "greatest", "least") for token in tokens):
        return True
    for at in range(len(tokens)):
        end = literal_end(tokens, at)
        if end is None or end >= len(tokens):
            continue
        after = tokens[end]
        if after.keyword == "is" or (after.kind == "operator" and literal_end(tokens, end + 1) is not None):
            return True
        if after.keyword in ("and", "or") or (at and tokens[at - 1].keyword in ("and", "or", "not")):
            return True
    return False


def _call(
    table: _Table,
    distance: Distance,
    vector: str | None,
    limits: Limits,
    values: Values,
    condition: str | None,
    shape: str | None,
) -> Call:
    """Put a call together. Raises NotReducibleError where its vector or its LIMIT is none."""
    k = limits.rows(values)
    if k is None:
        raise NotReducibleError("no LIMIT, or one out of range")
    operator = distance.operator
    read = _read_vector(vector)
    return Call(
        table.oid,
        table.schema,
        table.name,
        distance.column,
        METRICS[operator],
        operator,
        read,
        k,
        condition,
        shape,
    )


def _read_vector(text: str | None) -> Singles:
    """Read a vector as pgvector or an array writes it, float32 (d,). Raises NotReducibleError."""
    if text is None:
        raise NotReducibleError("its vector is NULL")
    inner = text.strip()
    if inner[:1] + inner[-1:] not in ("[]", "{}"):
        raise NotReducibleError("a vector that cannot be read")
    try:
        vector = np.array(inner[1:-1].split(","), dtype=np.float32)
    except (ValueError, OverflowError):
        raise NotReducibleError("a vector that cannot be read") from None
    if len(vector) > _MOST_DIMENSIONS or not np.isfinite(vector).all():
        raise NotReducibleError("a vector that cannot be read")
    return vector
