"""Describes an array of a store: its name, dtype, axes, shape, units and meaning."""

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

Codec = Literal["raw", "lz4", "zstd"]


@dataclass(frozen=True)
class ArraySpec:
    """One named array per clip; `axes` and `shape` are without the leading `clip` axis.

    codec: how a clip's bytes are stored, always followed by a crc32c. `raw` can be memory-mapped
    (tokens); `lz4` and `zstd` are Blosc with bit shuffle at the dtype's size, lz4 for what is read
    often, zstd for what is large. fill: the value in rejected rows; where the dtype allows, one
    that real data cannot have.
    """

    name: str
    dtype: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    units: str
    about: str
    codec: Codec = "lz4"
    fill: float | int | bool = 0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w.-]*", self.name):
            raise ValueError(f"array '{self.name}': expected a name of letters, digits, _ . and -")
        if np.dtype(self.dtype).kind not in "biufSU":
            raise ValueError(f"array '{self.name}': dtype {self.dtype}, expected plain numbers")
        if len(self.axes) != len(self.shape):
            raise ValueError(
                f"array '{self.name}': axes {self.axes} and shape {self.shape} differ in length"
            )

    def check(self, array: np.ndarray, clip_id: str) -> None:
        """Raises ValueError if dtype or shape differ or values are not finite, naming the clip."""
        if array.shape != self.shape or array.dtype != np.dtype(self.dtype):
            raise ValueError(
                f"clip {clip_id}: array '{self.name}' is {array.dtype}{list(array.shape)}, "
                f"its spec says {self.dtype}{list(self.shape)} {self.axes}"
            )
        # NaN is data only where it is the spec's fill, as for holes in sensor depth.
        if array.dtype.kind == "f" and not np.isnan(self.fill) and not np.isfinite(array).all():
            bad = int(np.size(array) - np.isfinite(array).sum())
            raise ValueError(
                f"clip {clip_id}: array '{self.name}' has {bad} of {array.size} values that are "
                "NaN or infinite; expected finite values"
            )
