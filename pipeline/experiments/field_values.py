"""Whether a value fits the field that holds it: its type, choices and range, as declared there.

A field declares its range in its annotation, `Annotated[int, Ge(1)]` (annotated-types). Every
float must be finite, every integer fit 32 bits; that needs no declaration.
"""

import dataclasses
import sys
import types
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, GroupedMetadata, Gt, Le, Lt, MinLen, Predicate

MOST_INT = 2**31 - 1


def check_fields(config: Any, path: str) -> None:
    """Raises ValueError naming the first field of `config`, at any depth, that holds what it must
    not. path: its own name.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        require(value, hints(type(config))[field.name], f"{path}.{field.name}")
        if dataclasses.is_dataclass(value):
            check_fields(value, f"{path}.{field.name}")


def require(value: Any, hint: Any, path: str) -> None:
    """Raises ValueError naming the field, what was found and what is expected."""
    if expected := misfit(value, hint):
        shown = "null" if value is None else repr(value)
        raise ValueError(f"{path}={shown}: expected {expected}")


@lru_cache
def hints(config: type) -> Mapping[str, Any]:
    """The annotations of a dataclass's fields, with their ranges."""
    return get_type_hints(config, include_extras=True)


def misfit(value: Any, hint: Any) -> str:
    """What is expected, in words, if the value does not fit the annotation; empty if it does."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _misfit_of_limits(value, inner[0], list(_flat(inner[1:])))
    if origin in (Union, types.UnionType):
        problems = [misfit(value, option) for option in inner]
        return "" if "" in problems else " or ".join(problems)
    if origin is Literal:
        fits = any(value == one and type(value) is type(one) for one in inner)
        return "" if fits else " or ".join(map(repr, inner))
    if origin is tuple:
        return _misfit_of_tuple(value, inner)
    if hint in (None, type(None)):
        return "" if value is None else "null"
    if hint is int:
        return _misfit_of_limits(value, int, [])
    if hint is float:
        return _misfit_of_limits(value, float, [])
    kind = origin or hint
    fits = not isinstance(kind, type) or isinstance(value, kind)
    return "" if fits else {bool: "true or false", str: "a text"}.get(kind, kind.__name__)


def _misfit_of_limits(value: Any, hint: Any, limits: list[Any]) -> str:
    if hint not in (int, float):
        if misfit(value, hint):  # of another type, so the limits cannot be asked
            return misfit(value, hint)
        return " and ".join(text for limit in limits if (text := _broken(value, limit)))
    number = isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
    if number and hint is int:
        limits = [*limits, *_too_long(value, limits)]
    # Not math.isfinite: it has no answer for an integer that no float can hold
    if number and abs(value) <= sys.float_info.max and not any(_broken(value, x) for x in limits):
        return ""
    kind = "an integer" if hint is int else "a finite number"
    return " ".join([kind, " and ".join(map(_words, limits))]).strip()


def _too_long(value: float, limits: list[Any]) -> list[Any]:
    """The limit of 32 bits that the value is beyond, where the field declares none on that side."""
    if value > MOST_INT and not any(isinstance(limit, Le | Lt) for limit in limits):
        return [Le(MOST_INT)]
    if value < -MOST_INT and not any(isinstance(limit, Ge | Gt) for limit in limits):
        return [Ge(-MOST_INT)]
    return []


def _misfit_of_tuple(value: Any, inner: tuple[Any, ...]) -> str:
    if inner[-1:] == (...,):
        problem = next((text for one in _items(value) if (text := misfit(one, inner[0]))), "")
        return f"a list, each item {problem}" if problem else _not_a_tuple(value, "a list")
    if not isinstance(value, tuple) or len(value) != len(inner):
        return f"a list of {len(inner)}"
    texts = [misfit(one, hint) for one, hint in zip(value, inner, strict=True)]
    problem = next(filter(None, texts), "")
    return f"a list of {len(inner)}, each {problem}" if problem else ""


def _items(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else ()


def _not_a_tuple(value: Any, expected: str) -> str:
    return "" if isinstance(value, tuple) else expected


def _flat(limits: tuple[Any, ...]) -> Iterator[Any]:
    """An interval stands for two limits."""
    for limit in limits:
        yield from limit if isinstance(limit, GroupedMetadata) else [limit]


def _broken(value: Any, limit: Any) -> str:
    """The limit in words, if the value is beyond it."""
    match limit:
        case Ge(bound):
            fits = value >= bound
        case Gt(bound):
            fits = value > bound
        case Le(bound):
            fits = value <= bound
        case Lt(bound):
            fits = value < bound
        case MinLen(bound):
            fits = len(value) >= bound
        case Predicate(holds):
            fits = holds(value)
        case _:
            raise TypeError(f"{limit!r} in an annotation: field_values.py knows no such limit")
    return "" if fits else _words(limit)


def _words(limit: Any) -> str:
    match limit:
        case Ge(bound):
            return f">= {bound}"
        case Gt(bound):
            return f"> {bound}"
        case Le(bound):
            return f"<= {bound}"
        case Lt(bound):
            return f"< {bound}"
        case MinLen(bound):
            return f"at least {bound}"
        case Predicate(holds):
            return (holds.__doc__ or holds.__name__).partition("\n")[0].rstrip(".")
    return repr(limit)
