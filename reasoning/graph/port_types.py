"""The types of ports: which fit together, which value is of which type, and how they are written.

Not beartype: its comparison of types refuses NumPy arrays and does not accept int for float, and its check of
values looks at a random element, so that the same value may pass or fail.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from typing import Any, TypeVar, Union, get_args, get_origin


def is_assignable(produced: Any, expected: Any) -> bool:
    """Say whether every value of the type `produced` is one of the type `expected`, as a type checker does.

    Ports are read only, so containers are covariant. Type variables and Any are assignable both ways.
    """
    if expected is Any or produced is Any or produced == expected or isinstance(expected, TypeVar):
        return True
    if _is_union(produced):
        return all(is_assignable(each, expected) for each in get_args(produced))
    if _is_union(expected):
        return any(is_assignable(produced, each) for each in get_args(expected))
    if produced is None or expected is None:
        return produced in (None, type(None)) and expected in (None, type(None))
    produced_class, expected_class = get_origin(produced) or produced, get_origin(expected) or expected
    if not (isinstance(produced_class, type) and isinstance(expected_class, type)):
        return bool(produced_class == expected_class)
    # Type checkers accept int for float (PEP 484).
    if produced_class is int and expected_class is float:
        return True
    if not _is_subclass(produced_class, expected_class):
        return False
    return _arguments_fit(produced_class, get_args(produced), expected_class, get_args(expected))


def _arguments_fit(
    produced_class: type, produced: tuple[Any, ...], expected_class: type, expected: tuple[Any, ...]
) -> bool:
    if not produced or not expected:
        return True
    if produced_class is tuple:
        if expected_class is not tuple:
            return all(is_assignable(each, expected[0]) for each in produced if each is not Ellipsis)
        if expected[-1] is Ellipsis:
            return all(is_assignable(each, expected[0]) for each in produced if each is not Ellipsis)
        return len(produced) == len(expected) and all(map(is_assignable, produced, expected))
    return len(produced) != len(expected) or all(map(is_assignable, produced, expected))


def _is_subclass(produced: type, expected: type) -> bool:
    try:
        return issubclass(produced, expected)
    except TypeError:  # a protocol with more than methods can only be checked on a value
        return True


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def is_instance(value: Any, kind: Any) -> bool:
    """Say whether a value is of a type; of the elements of a container only a sequence's first is checked."""
    if kind is Any or isinstance(kind, TypeVar):
        return True
    if _is_union(kind):
        return any(is_instance(value, each) for each in get_args(kind))
    if kind is None:
        return value is None
    if get_origin(kind) is typing.Literal:
        return value in get_args(kind)
    if get_origin(kind) is typing.Annotated:
        return is_instance(value, get_args(kind)[0])
    expected = get_origin(kind) or kind
    if expected is float:
        return isinstance(value, float | int) and not isinstance(value, bool)
    try:
        if not isinstance(value, expected):
            return False
    except TypeError:
        return True
    arguments = get_args(kind)
    if isinstance(value, Sequence) and value and not isinstance(value, str | bytes) and arguments:
        return is_instance(value[0], arguments[0])
    return True


def type_name(kind: Any) -> str:
    """Return a type as it is written in code, without modules."""
    if get_origin(kind) is None:
        return "None" if kind in (None, type(None)) else str(getattr(kind, "__name__", kind))
    if _is_union(kind):
        return " | ".join(type_name(each) for each in get_args(kind))
    inner = ", ".join("..." if each is Ellipsis else type_name(each) for each in get_args(kind))
    return f"{type_name(get_origin(kind))}[{inner}]"
