"""Content keys: the same recipe on the same inputs gives the same key, on any machine.

A key names a recipe (stage, version, parameters, weights digests, keys of the inputs), not bytes:
sums on a GPU may differ in the last bit.
"""

import dataclasses
import hashlib
import json
from enum import Enum
from pathlib import PurePath
from typing import Any

KEY_LENGTH = 16  # hex digits, 64 bits: a collision among a million data sets has odds of 3e-8


def parameters(value: Any) -> Any:
    """`value` as plain JSON. A dataclass field may say with `metadata={"key": ...}` how it counts.

    False: not at all. Such a field says where or how fast something runs (a folder, a number of
    workers) and changes no number in the output, so it must not change its key either.
    A text: under this name, which is the field's first one. Keys of stores that exist stay valid.
    A tuple of texts: these attributes of its value stand in its place, under their own names.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        plain: dict[str, Any] = {}
        for field in dataclasses.fields(value):
            plain |= _parameters_of_field(field, getattr(value, field.name))
        return plain
    if isinstance(value, dict):
        plain = {str(k): parameters(v) for k, v in value.items()}
        if len(plain) != len(value):
            raise TypeError(f"a content key cannot tell these names apart as text: {list(value)}")
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
    if counts is False:
        return {}
    if isinstance(counts, tuple):
        return {name: parameters(getattr(value, name)) for name in counts}
    return {counts if isinstance(counts, str) else field.name: parameters(value)}


def content_key(recipe: Any) -> str:
    """SHA-256 of the recipe's canonical JSON, first 16 hex digits."""
    text = json.dumps(parameters(recipe), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]
