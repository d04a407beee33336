"""The types of ports: which fit together, which value is of which type, and how they are written.

Not beartype: its comparison of types refuses NumPy arrays and does not accept int for float, and its check of
values looks at a random element, so that the same value may pass or fail.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from typing import Any, TypeVar, Union, get_args, get_origin


def is_assignable(given: Any, wanted: Any) -> bool:
    """Say whether every value of the type `given` is one of the type `wanted`, as a type checker does.

    Ports are read only, so containers are covariant. Type variables and Any are assignable both ways.
    """
    if wanted is Any or given is Any or given == wanted or isinstance(wanted, TypeVar):
        return True
    if _is_union(given):
        return all(is_assignable(each, wanted) for each in get_args(given))
    if _is_union(wanted):
        return any(is_assignable(given, each) for each in get_args(wanted))
    if given is None or wanted is None:
        return given in (None, type(None)) and wanted in (None, type(None))
    given_class, wanted_class = get_origin(given) or given, get_origin(wanted) or wanted
    if not (isinstance(given_class, type) and isinstance(wanted_class, type)):
        return bool(given_class == wanted_class)
    # Type checkers accept int for float (PEP 484).
    if given_class is int and wanted_class is float:
        return True
    if not _is_subclass(given_class, wanted_class):
        return False
    return _arguments_fit(given_class, get_args(given), wanted_class, get_args(wanted))


def _arguments_fit(
    given_class: type, given: tuple[Any, ...], wanted_class: type, wanted: tuple[Any, ...]
) -> bool:
    if not given or not wanted:
        return True
    if given_class is tuple:
        if wanted_class is not tuple:
            return all(is_assignable(each, wanted[0]) for each in given if each is not Ellipsis)
        if wanted[-1] is Ellipsis:
            return all(is_assignable(each, wanted[0]) for each in given if each is not Ellipsis)
        return len(given) == len(wanted) and all(map(is_assignable, given, wanted))
    return len(given) != len(wanted) or all(map(is_assignable, given, wanted))


def _is_subclass(given: type, wanted: type) -> bool:
    try:
        return issubclass(given, wanted)
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
    wanted = get_origin(kind) or kind
    if wanted is float:
        return isinstance(value, float | int) and not isinstance(value, bool)
    try:
        if not isinstance(value, wanted):
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
