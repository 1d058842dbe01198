"""Single parameters of an experiment, changed by name: {"clip.size": 64, "world_model.training.steps": 100}."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

Config = TypeVar("Config")


def override(config: Config, changes: Mapping[str, Any]) -> Config:
    """A copy with the fields named by dotted paths replaced.

    Raises ValueError naming the path, what is there and what would fit.
    """
    for path, value in changes.items():
        config = replace_at(config, path.split("."), value, path)
    return config


def replace_at(config: Any, names: list[str], value: Any, path: str) -> Any:
    fields = [f.name for f in dataclasses.fields(config) if f.init] if dataclasses.is_dataclass(config) else []
    name, rest = names[0], names[1:]
    if name not in fields:
        there = ", ".join(fields) or f"a {type(config).__name__}, which has no fields"
        raise ValueError(f"{path}: no field '{name}'; there is: {there}")
    old = getattr(config, name)
    new = replace_at(old, rest, value, path) if rest else fitting(old, value, path)
    return dataclasses.replace(config, **{name: new})  # type: ignore[type-var]


def fitting(old: Any, value: Any, path: str) -> Any:
    """`value` in the type of the one it replaces: JSON knows no tuples and writes 1 for 1.0."""
    if isinstance(old, tuple) and isinstance(value, list):
        return tuple(value)
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if old is not None and value is not None and type(value) is not type(old):
        raise ValueError(
            f"{path}={value!r} is a {type(value).__name__}; expected a {type(old).__name__} such as {old!r}"
        )
    if dataclasses.is_dataclass(old):
        raise ValueError(f"{path} is a group of fields; name one of them: {[f.name for f in dataclasses.fields(old)]}")
    return value
