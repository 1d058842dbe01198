"""Single parameters of an experiment, changed by name: {"clip.size": 64,
"world_model.training.steps": 100}.

Where a weights file belongs, the name of a published one or a path will do:
{"world_model.start_from": "my.ckpt"}. A part that is off (None) is switched on by its fields:
{"rgb_tokenizer.discriminator": {"base_channels": 32}}.
"""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pipeline.settings import Settings
from storage.weights.catalogue import published
from storage.weights.ref import WeightsRef

Config = TypeVar("Config")


def override(config: Config, changes: Mapping[str, Any]) -> Config:
    """A copy with the fields named by dotted paths replaced; those of one part at once, in whatever
    order they come.

    Raises ValueError naming the path, what is there and what would fit; WeightsError if a weights
    file is missing.
    """
    return changed(config, changes, "")


def changed(config: Any, changes: Mapping[str, Any], prefix: str) -> Any:
    """`prefix` is the path of `config` itself."""
    of_field: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        name, _, rest = path.partition(".")
        of_field.setdefault(name, {})[rest] = value
    fields = (
        [f.name for f in dataclasses.fields(config) if f.init]
        if dataclasses.is_dataclass(config)
        else []
    )
    for name, inner in of_field.items():
        if name not in fields:
            path = ".".join(filter(None, (f"{prefix}{name}", next(iter(inner)))))
            there = ", ".join(fields) or f"a {type(config).__name__}, which has no fields"
            raise ValueError(f"{path}: no field '{name}'; there is: {there}")
    new = {
        name: new_value(config, name, inner, f"{prefix}{name}") for name, inner in of_field.items()
    }
    return dataclasses.replace(config, **new) if new else config  # type: ignore[type-var]


def new_value(config: Any, name: str, changes: dict[str, Any], path: str) -> Any:
    """Of one field, given whole (""), by parts of it, or both."""
    value, choices = getattr(config, name), choices_of(type(config), name)
    if "" in changes:
        value = fitting(value, changes[""], path, choices)
    inner = {rest: change for rest, change in changes.items() if rest}
    if inner and value is None and parts(choices):
        raise ValueError(
            f"{path}.{next(iter(inner))}: {path} is off; switch it on by its fields, as in {path}={{}}"
        )
    return changed(value, inner, f"{path}.") if inner else value


def choices_of(config: type, name: str) -> tuple[Any, ...]:
    """What a field may hold, as annotated."""
    hint = get_type_hints(config)[name]
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def parts(choices: tuple[Any, ...]) -> list[type]:
    """The dataclasses among them."""
    return [kind for kind in choices if isinstance(kind, type) and dataclasses.is_dataclass(kind)]


def fitting(old: Any, value: Any, path: str, choices: tuple[Any, ...]) -> Any:
    """`value` in the type of the one it replaces: JSON knows no tuples and writes 1 for 1.0."""
    if value is None and type(None) in choices:
        return None
    if WeightsRef in choices and isinstance(value, str):
        return weights(value, path)
    if old is None and len(parts(choices)) == 1 and isinstance(value, dict):
        return switched_on(parts(choices)[0], value, path)
    if isinstance(old, tuple) and isinstance(value, list):
        return tuple(value)
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if old is not None and value is not None and type(value) is not type(old):
        raise ValueError(
            f"{path}={value!r} is a {type(value).__name__}; expected a {type(old).__name__} such as {old!r}"
        )
    if dataclasses.is_dataclass(old):
        raise ValueError(
            f"{path} is a group of fields; name one of them: {[f.name for f in dataclasses.fields(old)]}"
        )
    return value


def switched_on(kind: type, values: Mapping[str, Any], path: str) -> Any:
    """A part made from some of its fields; the others have their defaults."""
    known = {f.name: f for f in dataclasses.fields(kind) if f.init}
    if unknown := [name for name in values if name not in known]:
        raise ValueError(f"{path}: {kind.__name__} has no field {unknown}; there is: {list(known)}")
    defaults = {name: default(f) for name, f in known.items()}
    if missing := [
        name for name, old in defaults.items() if old is dataclasses.MISSING and name not in values
    ]:
        raise ValueError(f"{path}: {kind.__name__} needs {missing} too")
    made = {}
    for name, value in values.items():
        old = None if defaults[name] is dataclasses.MISSING else defaults[name]
        made[name] = fitting(old, value, f"{path}.{name}", choices_of(kind, name))
    return kind(**made)


def default(field: dataclasses.Field) -> Any:
    return (
        field.default_factory()
        if field.default_factory is not dataclasses.MISSING
        else field.default
    )


def weights(name_or_path: str, path: str) -> WeightsRef:
    try:
        return published(name_or_path, Settings().weights)
    except LookupError as error:
        raise ValueError(f"{path}: {error.args[0]}") from error
