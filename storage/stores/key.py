"""Content keys: the same recipe on the same inputs gives the same key, on any machine.

A key names a recipe (stage, version, parameters, digests of weights, keys of inputs), not bytes:
sums on a GPU may differ in the last bit.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

KEY_LENGTH = 16  # hex digits, 64 bits: a collision among a million data sets has odds of 3e-8


def parameters(value: Any) -> Any:
    """`value` as plain JSON. A dataclass field sets with `metadata={"key": ...}` how it counts.

    False: not at all. For fields that say where or how fast something runs (a folder, a number of
    workers): they change no number in the output, so they must not change its key.
    A string: under this name, the field's first one, so that keys of existing stores stay valid.
    A tuple of strings: these attributes of the value count instead of it, under their own names.
    `metadata={"added": True}`: a field that came later, whose default changes nothing. It counts
    only where it has another value, so that keys of existing stores stay valid.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        plain: dict[str, Any] = {}
        for field in dataclasses.fields(value):
            plain |= _parameters_of_field(field, getattr(value, field.name))
        return plain
    if isinstance(value, dict):
        plain = {str(k): parameters(v) for k, v in value.items()}
        if len(plain) != len(value):
            raise TypeError(f"a content key needs names that differ as text, found {list(value)}")
        return plain
    if isinstance(value, list | tuple):
        return [parameters(v) for v in value]
    if isinstance(value, Enum):
        return parameters(value.value)
    if isinstance(value, PurePath):
        return str(value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"a content key cannot hold {type(value).__name__}: {value!r}")


def _parameters_of_field(field: dataclasses.Field, value: Any) -> dict[str, Any]:
    counts = field.metadata.get("key", True)
    if counts is False or (field.metadata.get("added") and value == field.default):
        return {}
    if isinstance(counts, tuple):
        return {name: parameters(getattr(value, name)) for name in counts}
    return {counts if isinstance(counts, str) else field.name: parameters(value)}


def recipe_of(
    stage: str, version: int, parameters: Any, inputs: Mapping[str, str]
) -> dict[str, Any]:
    """What a store's key is the hash of. inputs: role -> key of the store."""
    return {
        "stage": stage,
        "version": version,
        "parameters": parameters,
        "inputs": dict(inputs),
    }


def content_key(recipe: Any) -> str:
    """SHA-256 of the recipe's canonical JSON, first 16 hex digits."""
    text = json.dumps(parameters(recipe), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]
