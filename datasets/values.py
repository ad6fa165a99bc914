"""Values against the annotations of what takes them: type, range, finite.

A range is an interval beside the type: `Annotated[float, "[0, 1)"]`, `Annotated[int, "[1, inf)"]`; of a text or a list
it bounds the length.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

Kind = Any  # an annotation
INTERVAL = re.compile(r"([\[(])(\S+), (\S+)([\])])")
NAMES = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a text", Path: "a path"}


def check_value(name: str, value: object, kind: Kind) -> None:
    """Raise ValueError unless `value` is one that the annotation `kind` allows; `name` is its key."""
    if not fits(value, kind):
        raise ValueError(f"Expected {name} to be {expected(kind)}, but got {value!r}.")


def check_fields(instance: Any) -> None:
    """Raise ValueError unless every field of a dataclass has a value that its annotation allows."""
    for name, kind in hints(type(instance)).items():  # type: ignore[arg-type]
        check_value(name, getattr(instance, name), kind)


@cache
def hints(target: Any) -> dict[str, Kind]:
    """Return the annotations of a dataclass, or of a function's parameters; those that cannot be read are left out."""
    try:
        found = get_type_hints(target, include_extras=True)
    except (NameError, TypeError):  # a name for type checkers alone
        found = {name: kind for name, kind in target.__annotations__.items() if not isinstance(kind, str)}
    return {name: kind for name, kind in found.items() if name != "return"}


def fits(value: Any, kind: Kind) -> bool:
    """Return whether the annotation `kind` allows `value`; one that says nothing about plain values allows all.

    >>> fits(1, float), fits(True, int), fits(float("nan"), float), fits(1.5, Annotated[float, "[0, 1)"])
    (True, False, False, False)
    """
    origin: Any = get_origin(kind)
    parts: Any = get_args(kind)
    if origin is Annotated:
        return fits(value, parts[0]) and all(inside(value, text) for text in parts[1:])
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if origin in (list, tuple, Sequence):
        if not isinstance(value, list | tuple):
            return False
        kinds = parts if origin is tuple and Ellipsis not in parts else parts[:1] * len(value)
        return len(kinds) == len(value) and all(map(fits, value, kinds))
    if origin in (dict, Mapping):
        return isinstance(value, Mapping) and all(fits(item, parts[1]) for item in value.values())
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    if kind in (None, NoneType):
        return value is None
    if kind is Path:
        return isinstance(value, str | Path)
    if kind in (bool, int, str):
        return type(value) is kind
    if is_dataclass(kind):
        return isinstance(value, kind) or (isinstance(value, Mapping) and "_target_" in value)  # type: ignore[arg-type]
    return True


def inside(value: Any, interval: str) -> bool:
    """Return whether a number, or the length of a text or a list, lies in an interval."""
    found = INTERVAL.fullmatch(interval)
    if found is None:
        return True
    opens, low, high, closes = found.groups()
    number = len(value) if isinstance(value, str | list | tuple) else value
    return (number > float(low) or (opens == "[" and number == float(low))) and (
        number < float(high) or (closes == "]" and number == float(high))
    )


def expected(kind: Kind) -> str:
    """Return for people what an annotation allows.

    >>> expected(Annotated[int, "[1, inf)"]), expected(Annotated[float, "(0, 1)"] | None)
    ('a whole number from 1 on', 'a finite number in (0, 1) or null')
    >>> expected(Literal["a", "b", "c"])
    'a, b or c'
    """
    origin: Any = get_origin(kind)
    parts: Any = get_args(kind)
    if origin is Annotated:
        text, found = expected(parts[0]), INTERVAL.fullmatch(parts[1])
        if found is None:
            return text
        if parts[0] not in (int, float):
            return f"{text} that is not empty"
        opens, low, high, _ = found.groups()
        return (
            f"{text} in {parts[1]}"
            if high != "inf"
            else f"{text} from {low} on"
            if opens == "["
            else f"{text} above {low}"
        )
    if origin in (Union, UnionType):
        return " or ".join(map(expected, parts))
    if origin is Literal:
        return " or ".join(filter(None, [", ".join(map(str, parts[:-1])), str(parts[-1])]))
    if origin in (list, tuple, Sequence):
        if origin is tuple and Ellipsis not in parts:
            return f"{len(parts)} values, each {expected(parts[0])}"
        return f"a list, each {expected(parts[0])}"
    if origin in (dict, Mapping):
        return "a mapping"
    return "null" if kind in (None, NoneType) else NAMES.get(kind, f"a {getattr(kind, '__name__', kind)}")
