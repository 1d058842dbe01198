"""Content keys: the same recipe on the same inputs gives the same key, on any machine.

A key names a recipe (stage, version, parameters, weights digests, keys of the inputs), not bytes: sums on a GPU may
differ in the last bit.
"""

import dataclasses
import hashlib
import json
from enum import Enum
from pathlib import PurePath
from typing import Any

KEY_LENGTH = 16  # hex digits, 64 bits: a collision among a million data sets has odds of 3e-8


def parameters(value: Any) -> Any:
    """`value` as plain JSON; dataclass fields marked `metadata={"key": False}` are left out.

    Such fields say where or how fast something runs (a folder, a number of workers) and change no number in the
    output, so they must not change its key either.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [f for f in dataclasses.fields(value) if f.metadata.get("key", True)]
        return {f.name: parameters(getattr(value, f.name)) for f in fields}
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


def content_key(recipe: Any) -> str:
    """SHA-256 of the recipe's canonical JSON, first 16 hex digits."""
    text = json.dumps(parameters(recipe), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]
