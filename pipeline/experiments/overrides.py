"""Single parameters of an experiment, changed by dotted path: {"keypoints.grid": 16}.

A weights file is given by the name of a published one or by its path: {"world_model.start_from":
"my.ckpt"}. A part that is off (None) is enabled by setting its fields:
{"rgb_tokenizer.discriminator": {"base_channels": 32}}.
"""

import dataclasses
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pipeline.experiments.field_values import hints, require
from stages.clip_format import ClipFormat
from storage.weights.folder import resolve_weights
from storage.weights.ref import WeightsRef


@dataclass(frozen=True)
class Overrides:
    """Changes fields of dataclasses by dotted path, all fields of one part at once.

    weights: the folder of published weights. Its methods raise ValueError naming the path, what was
    found and what is expected; WeightsError if a weights file is missing.
    """

    weights: Path

    def changed(self, config: Any, changes: Mapping[str, Any], prefix: str = "") -> Any:
        """A copy of `config`, whose own path is `prefix`."""
        new = self.changed_fields(config, changes, prefix)
        return dataclasses.replace(config, **new) if new else config

    def changed_fields(
        self, config: Any, changes: Mapping[str, Any], prefix: str = ""
    ) -> dict[str, Any]:
        """Field of `config` -> new value, for those that change."""
        # By first name of the path; a field given whole has the rest ""
        of_field: dict[str, dict[str, Any]] = {}
        for path, value in changes.items():
            name, _, rest = path.partition(".")
            of_field.setdefault(name, {})[rest] = value
        fields = init_fields(config)
        for name, inner in of_field.items():
            if name not in fields:
                path = ".".join(filter(None, (f"{prefix}{name}", next(iter(inner)))))
                found = ", ".join(fields) or f"a {type(config).__name__}, which has no fields"
                raise ValueError(f"{path}: no field '{name}'; there is: {found}{hint(name)}")
        return {
            name: self.new_value(config, name, inner, f"{prefix}{name}")
            for name, inner in of_field.items()
        }

    def new_value(self, config: Any, name: str, changes: dict[str, Any], path: str) -> Any:
        """The value of one field, given whole (""), by fields of it, or both."""
        value, choices = getattr(config, name), choices_of(type(config), name)
        if "" in changes:
            refuse_if_decided(type(config), name, path)
            value = self.fitting(value, changes[""], path, choices)
            require(value, hints(type(config))[name], path)
        inner = {rest: change for rest, change in changes.items() if rest}
        if inner and value is None and parts(choices):
            raise ValueError(
                f"{path}.{next(iter(inner))}: {path} is off; enable it by setting its fields, as "
                f"in {path}={{}}"
            )
        return self.changed(value, inner, f"{path}.") if inner else value

    def fitting(self, old: Any, value: Any, path: str, choices: tuple[Any, ...]) -> Any:
        """`value` as the type of the old one: JSON has no tuples and writes 1 for 1.0."""
        if value is None and type(None) in choices:
            return None
        if WeightsRef in choices and isinstance(value, str):
            return self.weights_file(value, path)
        if old is None and len(parts(choices)) == 1 and isinstance(value, dict):
            return self.enabled(parts(choices)[0], value, path)
        if isinstance(old, tuple) and isinstance(value, list):
            return tuple(value)
        if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
            return as_float(value, path)
        if float in choices and isinstance(value, int) and not isinstance(value, bool):
            return as_float(value, path)
        if type(value) in choices or value in literals(choices):
            return value
        if old is not None and value is not None and type(value) is not type(old):
            raise ValueError(
                f"{path}={value!r} has type {type(value).__name__}; expected "
                f"{type(old).__name__}, such as {old!r}"
            )
        if dataclasses.is_dataclass(old):
            raise ValueError(f"{path} is a group of fields; name one of them: {init_fields(old)}")
        return value

    def enabled(self, kind: type, values: Mapping[str, Any], path: str) -> Any:
        """A part with these fields; the others have their defaults."""
        known = {f.name: f for f in dataclasses.fields(kind) if f.init}
        if unknown := [name for name in values if name not in known]:
            raise ValueError(
                f"{path}: {kind.__name__} has no field {unknown}; there is: {list(known)}"
            )
        defaults = {name: default(f) for name, f in known.items()}
        missing = [name for name, old in defaults.items() if old is dataclasses.MISSING]
        if missing := [name for name in missing if name not in values]:
            raise ValueError(f"{path}: {kind.__name__} needs {missing} too")
        made = {}
        for name, value in values.items():
            old = None if defaults[name] is dataclasses.MISSING else defaults[name]
            fitted = self.fitting(old, value, f"{path}.{name}", choices_of(kind, name))
            require(fitted, hints(kind)[name], f"{path}.{name}")
            made[name] = fitted
        return kind(**made)

    def weights_file(self, name_or_path: str, path: str) -> WeightsRef:
        try:
            return resolve_weights(name_or_path, self.weights)
        except LookupError as error:
            raise ValueError(f"{path}: {error.args[0]}") from error


def as_float(value: int, path: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise ValueError(
            f"{path}: an integer of {value.bit_length()} bits, expected a finite number"
        ) from None


def init_fields(config: Any) -> list[str]:
    if not dataclasses.is_dataclass(config):
        return []
    return [field.name for field in dataclasses.fields(config) if field.init]


def refuse_if_decided(config: type, name: str, path: str) -> None:
    """Raises ValueError for a field that follows from an option, see `metadata={"set_by": ...}`."""
    field = next(f for f in dataclasses.fields(config) if f.name == name)
    if option := field.metadata.get("set_by"):
        raise ValueError(f"{path} cannot be set by itself: {option} decides it; use {option}")


def hint(name: str) -> str:
    """Where to set a field that all stages share; empty for other fields."""
    if name not in init_fields(ClipFormat()):
        return ""
    return f". What all stages agree on about a clip is set once: clip_format.{name}"


def choices_of(config: type, name: str) -> tuple[Any, ...]:
    """The types that a field may hold, from its annotation."""
    annotation = get_type_hints(config)[name]
    if get_origin(annotation) in (Union, types.UnionType):
        return get_args(annotation)
    return (annotation,)


def literals(choices: tuple[Any, ...]) -> list[Any]:
    """The single values among the types that a field may hold."""
    return [value for kind in choices if get_origin(kind) is Literal for value in get_args(kind)]


def parts(choices: tuple[Any, ...]) -> list[type]:
    """The dataclasses among the types that a field may hold."""
    return [kind for kind in choices if isinstance(kind, type) and dataclasses.is_dataclass(kind)]


def default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default
