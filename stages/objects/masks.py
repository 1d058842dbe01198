"""The objects of a clip as scores need them, whatever they were found by."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8

NO_OBJECT = 255


@dataclass(frozen=True, kw_only=True)
class TrueObjects:
    """masks: which of the scene's movable objects each pixel shows; NO_OBJECT for everything else.

    moved: whether an object, by its number, has left its place of the first frame, seen or not.
    """

    masks: UInt8[np.ndarray, "t h w"]
    moved: Bool[np.ndarray, "t o"]
