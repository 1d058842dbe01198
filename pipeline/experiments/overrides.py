"""Single parameters of an experiment, changed by name: {"keypoints.grid": 16, "world_model.workers": 4}.

Where a weights file belongs, the name of a published one or a path will do: {"world_model.start_from":
"my.ckpt"}. A part that is off (None) is enabled by setting its fields:
{"rgb_tokenizer.discriminator": {"base_channels": 32}}.
"""

import dataclasses
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from stages.clip_format import ClipFormat
from storage.weights.folder import resolve_weights
from storage.weights.ref import WeightsRef

Config = TypeVar("Config")


def override(config: Config, changes: Mapping[str, Any], weights: Path) -> Config:
    """A copy with the fields named by dotted paths replaced; those of one part at once, in any order.

    weights: the folder of published weights. Raises ValueError naming the path, what is there and
    what would fit; WeightsError if a weights file is missing.
    """
    return Overrides(weights).changed(config, changes, "")


def changed_fields(config: Any, changes: Mapping[str, Any], weights: Path) -> dict[str, Any]:
    """The same, of the fields that change only: field -> new value."""
    return Overrides(weights).changed_fields(config, changes, "")


@dataclass(frozen=True)
class Overrides:
    """weights: the folder where published weights are looked for."""

    weights: Path

    def changed(self, config: Any, changes: Mapping[str, Any], prefix: str) -> Any:
        """`prefix` is the path of `config` itself."""
        new = self.changed_fields(config, changes, prefix)
        return dataclasses.replace(config, **new) if new else config

    def changed_fields(
        self, config: Any, changes: Mapping[str, Any], prefix: str
    ) -> dict[str, Any]:
        of_field: dict[str, dict[str, Any]] = {}
        for path, value in changes.items():
            name, _, rest = path.partition(".")
            of_field.setdefault(name, {})[rest] = value
        fields = init_fields(config)
        for name, inner in of_field.items():
            if name not in fields:
                path = ".".join(filter(None, (f"{prefix}{name}", next(iter(inner)))))
                there = ", ".join(fields) or f"a {type(config).__name__}, which has no fields"
                raise ValueError(f"{path}: no field '{name}'; there is: {there}{hint(name)}")
        return {
            name: self.new_value(config, name, inner, f"{prefix}{name}")
            for name, inner in of_field.items()
        }

    def new_value(self, config: Any, name: str, changes: dict[str, Any], path: str) -> Any:
        """Of one field, given whole (""), by parts of it, or both."""
        value, choices = getattr(config, name), choices_of(type(config), name)
        if "" in changes:
            value = self.fitting(value, changes[""], path, choices)
        inner = {rest: change for rest, change in changes.items() if rest}
        if inner and value is None and parts(choices):
            raise ValueError(
                f"{path}.{next(iter(inner))}: {path} is off; enable it by setting its fields, as in "
                f"{path}={{}}"
            )
        return self.changed(value, inner, f"{path}.") if inner else value

    def fitting(self, old: Any, value: Any, path: str, choices: tuple[Any, ...]) -> Any:
        """`value` in the type of the one it replaces: JSON knows no tuples and writes 1 for 1.0."""
        if value is None and type(None) in choices:
            return None
        if WeightsRef in choices and isinstance(value, str):
            return self.weights_file(value, path)
        if old is None and len(parts(choices)) == 1 and isinstance(value, dict):
            return self.enabled(parts(choices)[0], value, path)
        if isinstance(old, tuple) and isinstance(value, list):
            return tuple(value)
        if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if old is not None and value is not None and type(value) is not type(old):
            raise ValueError(
                f"{path}={value!r} is a {type(value).__name__}; expected a {type(old).__name__} "
                f"such as {old!r}"
            )
        if dataclasses.is_dataclass(old):
            raise ValueError(f"{path} is a group of fields; name one of them: {init_fields(old)}")
        return value

    def enabled(self, kind: type, values: Mapping[str, Any], path: str) -> Any:
        """A part made from some of its fields; the others have their defaults."""
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
            made[name] = self.fitting(old, value, f"{path}.{name}", choices_of(kind, name))
        return kind(**made)

    def weights_file(self, name_or_path: str, path: str) -> WeightsRef:
        try:
            return resolve_weights(name_or_path, self.weights)
        except LookupError as error:
            raise ValueError(f"{path}: {error.args[0]}") from error


def init_fields(config: Any) -> list[str]:
    if not dataclasses.is_dataclass(config):
        return []
    return [field.name for field in dataclasses.fields(config) if field.init]


def hint(name: str) -> str:
    """Where to look for a field that many stages share."""
    if name not in init_fields(ClipFormat()):
        return ""
    return f". What all stages agree on about a clip is set once: clip_format.{name}"


def choices_of(config: type, name: str) -> tuple[Any, ...]:
    """What a field may hold, as annotated."""
    hint = get_type_hints(config)[name]
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def parts(choices: tuple[Any, ...]) -> list[type]:
    """The dataclasses among them."""
    return [kind for kind in choices if isinstance(kind, type) and dataclasses.is_dataclass(kind)]


def default(field: dataclasses.Field) -> Any:
    return (
        field.default_factory()
        if field.default_factory is not dataclasses.MISSING
        else field.default
    )
