"""Plans of searches: which table is scanned, by what it is filtered, and which distance it is sorted by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from vectuned.learning.model.column import Metric

from .preparation import Plan
from .tokens import Token, literal_end, rename_alias, tokenize

METRICS: Final[dict[str, Metric]] = {"<=>": "cosine", "<->": "l2", "<#>": "ip"}
DISTANCE_OPERATORS: Final = ("<->", "<=>", "<#>", "<+>", "<~>", "<%>")
DISTANCE_FUNCTIONS: Final = (
    "l2_distance",
    "inner_product",
    "cosine_distance",
    "l1_distance",
    "vector_negative_inner_product",
    "vector_spherical_distance",
)
# What keeps a plan from coming down to one table, the first that applies.
_NODES: Final = (
    (("ModifyTable",), "it writes"),
    (("SetOp", "Recursive Union"), "a set operation"),
    (("Nested Loop", "Hash Join", "Merge Join"), "a join"),
    (("Unique",), "DISTINCT"),
    (("Aggregate", "Group"), "an aggregate"),
    (("WindowAgg",), "a window function"),
    (("ProjectSet",), "a function that returns rows"),
    (("Sample Scan",), "TABLESAMPLE"),
    (("Foreign Scan",), "a foreign table"),
    (("Function Scan", "Table Function Scan", "Values Scan", "Named Tuplestore Scan"), "rows of no table"),
    (("Subquery Scan", "CTE Scan", "WorkTable Scan"), "a subquery"),
)


class NotReducibleError(Exception):
    """A plan does not come down to one table; the message is the reason.

    `is_lasting` if that holds for all values of its parameters.
    """

    def __init__(self, reason: str, *, is_lasting: bool = False) -> None:
        super().__init__(reason)
        self.is_lasting = is_lasting


@dataclass(frozen=True)
class TableScan:
    """The scans of one table, one for each partition, and the condition that all of them test."""

    schemas: tuple[str, ...]
    tables: tuple[str, ...]
    condition: str | None


@dataclass(frozen=True)
class Distance:
    """A sort key: an operator between a column and a vector, which is a literal or a parameter."""

    column: str
    operator: str
    vector: Token


def nodes_of(plan: Plan) -> Iterator[Plan]:
    """Yield a node of a plan and all nodes below it."""
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes_of(child)


def orders_by_distance(plan: Plan) -> bool:
    """Say whether anything in a plan is sorted by a distance between vectors, one of a subquery included."""
    nodes = list(nodes_of(plan))
    keys = [str(key) for node in nodes for key in node.get("Sort Key", ())]
    if any(_is_distance(key) for key in keys):
        return True
    aliases = {node["Alias"] for node in nodes if node["Node Type"] in _SUBQUERY_SCANS and "Alias" in node}
    sorts_subquery = any(not aliases.isdisjoint(token.name for token in tokenize(key)) for key in keys)
    return sorts_subquery and any(
        _is_distance(str(each)) for node in nodes for each in node.get("Output", ())
    )


def searched_columns(plan: Plan) -> set[tuple[str, str, str]]:
    """Return the columns in the distances of a plan, by schema, table and name; none if it writes."""
    nodes = list(nodes_of(plan))
    if any(node["Node Type"] in ("ModifyTable", "LockRows") for node in nodes):
        return set()
    tables = {
        node["Alias"]: (str(node["Schema"]), str(node["Relation Name"]))
        for node in nodes
        if "Alias" in node and "Schema" in node and "Relation Name" in node
    }
    texts = {
        str(text)
        for node in nodes
        for part in ("Sort Key", "Output", "Filter", "Join Filter")
        for text in (node[part] if isinstance(node.get(part), list) else [node.get(part, "")])
    }
    found = set()
    for text in texts:
        tokens = tokenize(text)
        if not _is_distance(text):
            continue
        for at in range(len(tokens) - 2):
            if tokens[at + 1].text == "." and tokens[at].name in tables and tokens[at + 2].name:
                found.add((*tables[tokens[at].name], tokens[at + 2].name))
    return found


def output_distance(plan: Plan) -> tuple[int, float] | None:
    """Return the place among a plan's output of the distance that it sorts by, and 1.0, or -1.0 if negated.

    The distance may be in the output as it is, or taken from a number, as in `1 - (a <=> b)`. None if it is
    not in the output.
    """
    keys = [node["Sort Key"][0] for node in nodes_of(plan) if node.get("Sort Key")]
    # The value that a subquery is sorted by may be a score, which depends on the other rows that were found.
    if not keys or not _is_distance(str(keys[0])) or tokenize(str(keys[0]))[-1].keyword == "desc":
        return None
    key = _texts(_strip_brackets(tokenize(str(keys[0]))))
    for place, text in enumerate(plan.get("Output", ())):
        tokens = _strip_brackets(tokenize(str(text)))
        if _texts(tokens) == key:
            return place, 1.0
        end = literal_end(tokens, 0)
        is_difference = end is not None and end < len(tokens) and tokens[end].text == "-"
        if end is not None and is_difference and _texts(_strip_brackets(tokens[end + 1 :])) == key:
            return place, -1.0
    return None


def _texts(tokens: Sequence[Token]) -> list[str]:
    return [token.text for token in tokens]


_SUBQUERY_SCANS: Final = ("Subquery Scan", "CTE Scan")


def _is_distance(key: str) -> bool:
    tokens = tokenize(key)
    is_vector = any(
        token.name in ("vector", "halfvec", "initplan", "subplan") or token.kind == "parameter"
        for token in tokens
    )
    names = {token.name for token in tokens} | {token.text for token in tokens if token.kind == "operator"}
    return is_vector and not names.isdisjoint((*DISTANCE_OPERATORS, *DISTANCE_FUNCTIONS))


def read_search(plan: Plan) -> tuple[Distance, TableScan]:
    """Return the distance and the table of a search's plan. Raises NotReducibleError."""
    _refuse_other_nodes(plan)
    limits = [node for node in nodes_of(plan) if node["Node Type"] == "Limit"]
    if not limits:
        raise NotReducibleError("it has no LIMIT", is_lasting=True)
    if len(limits) > 1:
        raise NotReducibleError("it has more than one LIMIT", is_lasting=True)
    node = plan
    while node["Node Type"] in ("Limit", "LockRows", "Result") and len(node.get("Plans", ())) == 1:
        if "One-Time Filter" in node:
            break
        (node,) = node["Plans"]
    if node["Node Type"] != "Sort":
        raise NotReducibleError("its vector is NULL, or it is not sorted by a distance")
    distance = _read_distance(str(node["Sort Key"][0]))
    (source,) = node["Plans"]
    return distance, read_scan(source)


def _refuse_other_nodes(plan: Plan) -> None:
    if any(node.get("Parent Relationship") in ("InitPlan", "SubPlan") for node in nodes_of(plan)):
        raise NotReducibleError("a subquery", is_lasting=True)
    if any(
        node["Node Type"] in ("Append", "Merge Append")
        and any(child["Node Type"] != "Seq Scan" for child in node.get("Plans", ()))
        for node in nodes_of(plan)
    ):
        raise NotReducibleError("a set operation", is_lasting=True)
    types = {node["Node Type"] for node in nodes_of(plan)}
    for refused, reason in _NODES:
        if not types.isdisjoint(refused):
            raise NotReducibleError(reason, is_lasting=True)


def read_scan(plan: Plan) -> TableScan:
    """Return the table that a plan without order scans. Raises NotReducibleError."""
    if plan["Node Type"] == "Result" and "One-Time Filter" in plan:
        raise NotReducibleError("its condition is never true or does not depend on the row")
    scans = plan["Plans"] if plan["Node Type"] == "Append" else [plan]
    if any(scan["Node Type"] != "Seq Scan" for scan in scans):
        raise NotReducibleError("a scan of another kind")
    conditions = {_condition(scan) for scan in scans}
    if len(conditions) != 1:
        raise NotReducibleError("conditions that differ between partitions")
    return TableScan(
        tuple(scan["Schema"] for scan in scans),
        tuple(scan["Relation Name"] for scan in scans),
        conditions.pop(),
    )


def _condition(scan: dict[str, Any]) -> str | None:
    condition = scan.get("Filter")
    return None if condition is None else rename_alias(condition, scan["Alias"], "t")


def _read_distance(key: str) -> Distance:
    """Read a sort key such as `((t.embedding <=> '[1,2,3]'::vector))`. Raises NotReducibleError."""
    tokens: Sequence[Token] = tokenize(key)
    if tokens and tokens[-1].keyword in ("desc", "last", "first"):
        raise NotReducibleError("a descending order", is_lasting=True)
    tokens = _strip_brackets(tokens)
    for column_first in (True, False):
        read = _read_sides(tokens, column_first=column_first)
        if read is not None:
            return read
    if any(token.name in DISTANCE_FUNCTIONS for token in tokens):
        raise NotReducibleError("an order by a function, which no index serves", is_lasting=True)
    raise NotReducibleError("an order by something else than a column's distance to a vector")


def _read_sides(tokens: Sequence[Token], *, column_first: bool) -> Distance | None:
    """Read `column operator vector` or the reverse; None if the tokens are neither."""
    read_left, read_right = (_read_column, _read_vector) if column_first else (_read_vector, _read_column)
    left = read_left(tokens, 0)
    operator = None if left is None else _read_operator(tokens, left[0])
    right = None if operator is None else read_right(tokens, operator[0])
    if left is None or operator is None or right is None or right[0] != len(tokens):
        return None
    column, vector = (left[1], right[1]) if column_first else (right[1], left[1])
    return Distance(column.name, operator[1], vector)


def _read_column(tokens: Sequence[Token], at: int) -> tuple[int, Token] | None:
    """Read `t.column` or `(t.column)::halfvec(n)`; return the place after it and the column's token."""
    is_cast = at < len(tokens) and tokens[at].text == "("
    at += is_cast
    if at + 2 < len(tokens) and tokens[at + 1].text == "." and tokens[at].name:
        at += 2
    if at >= len(tokens) or not tokens[at].name:
        return None
    column, at = tokens[at], at + 1
    if not is_cast:
        return at, column
    if [token.text for token in tokens[at : at + 2]] != [")", "::"]:
        return None
    # As a literal, `''::halfvec(n)` ends where the cast does.
    end = literal_end([Token("string", "''", 0), *tokens[at + 1 :]], 0)
    types = {token.name for token in tokens[at + 1 : at + (end or 0)]}
    return None if end is None or not types & {"vector", "halfvec"} else (at + end, column)


def _read_operator(tokens: Sequence[Token], at: int) -> tuple[int, str] | None:
    """Read `<=>` or `OPERATOR(schema.<=>)`; return the place after it and the operator."""
    if at >= len(tokens):
        return None
    if tokens[at].keyword == "operator":
        texts = [token.text for token in tokens[at + 1 : at + 6]]
        if len(texts) < 5 or (texts[0], texts[2], texts[4]) != ("(", ".", ")"):
            return None
        return (at + 6, texts[3]) if texts[3] in DISTANCE_OPERATORS else None
    return (at + 1, tokens[at].text) if tokens[at].text in DISTANCE_OPERATORS else None


def _read_vector(tokens: Sequence[Token], at: int) -> tuple[int, Token] | None:
    """Read a literal or parameter with its casts; return the place after it and its token."""
    end = literal_end(tokens, at)
    if end is None:
        return None
    found = [token for token in tokens[at:end] if token.kind in ("string", "parameter")]
    return (end, found[0]) if len(found) == 1 else None


def _strip_brackets(tokens: Sequence[Token]) -> Sequence[Token]:
    """Drop the brackets around a whole expression."""
    while len(tokens) > 2 and tokens[0].text == "(" and _closing_bracket(tokens) == len(tokens) - 1:
        tokens = tokens[1:-1]
    return tokens


def _closing_bracket(tokens: Sequence[Token]) -> int:
    """Return the place of the bracket that closes the first one, -1 without."""
    depth = 0
    for at, token in enumerate(tokens):
        depth += (token.text == "(") - (token.text == ")")
        if depth == 0:
            return at
    return -1
