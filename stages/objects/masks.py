"""The objects of a clip as scores need them, whatever they were found by."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

NO_OBJECT = 255


@dataclass(frozen=True, kw_only=True)
class TrueObjects:
    """masks: which of the scene's movable objects each pixel shows; NO_OBJECT for everything else.

    moved_m: how far each object, by its number, is from its place in the first frame, seen or not.
    """

    masks: UInt8[np.ndarray, "t h w"]
    moved_m: Float[np.ndarray, "t o"]
