"""Frames from outside, of any kind of number -> the images that metrics compare, in [-1, 1].

What black and white are is known of uint8 alone. Of floats it is said by the caller, checked, and
never guessed: see `model.value_range`.
"""

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor

from model.value_range import ValueRange
from stages.tokenizer.images import rgb_to_images

ROUNDING = 1e-3  # of the range: how far outside it a float video may lie


def frames_to_images(
    frames: Shaped[np.ndarray, "t h w 3"],
    value_range: ValueRange | None,
    name: str,
    *,
    such_as: str = "value_range=(0, 1)",
) -> Float[Tensor, "t 3 h w"]:
    """uint8 frames, or floats whose black and white `value_range` says, as images in [-1, 1].

    name, such_as: for messages. Raises ValueError as `require_pixels` does.
    """
    require_pixels(frames, value_range, name, such_as=such_as)
    return pixels_to_images(frames, value_range)


def pixels_to_images(
    frames: Shaped[np.ndarray, "t h w 3"], value_range: ValueRange | None
) -> Float[Tensor, "t 3 h w"]:
    """The same of frames that `require_pixels` has passed, resized since or not."""
    if frames.dtype == np.uint8:
        return rgb_to_images(np.array(frames))
    assert value_range is not None, "floats without a range are refused"
    low, high = value_range
    unit = (torch.from_numpy(frames.astype(np.float32)) - low) / (high - low)
    return rearrange(2 * unit.clamp(0, 1) - 1, "t h w c -> t c h w")


def require_pixels(
    frames: Shaped[np.ndarray, "t h w 3"],
    value_range: ValueRange | None,
    name: str,
    *,
    such_as: str = "value_range=(0, 1)",
) -> None:
    """Raises ValueError, with what was found, for frames whose black and white are not known.

    These are other numbers than uint8 and float, floats without a range, NaN, values outside the
    range, and values that all lie in [0, 1] of a wider one: the same pixels in [0, 1] and in
    [-1, 1] differ by 6.02 dB if one is taken for the other.
    """
    if frames.dtype == np.uint8:
        return
    if frames.dtype.kind != "f":
        raise ValueError(
            f"{name} of {frames.dtype}: expected uint8, or float and a value_range ({such_as})"
        )
    if bad := int((~np.isfinite(frames)).sum()):
        raise ValueError(
            f"{bad} of {frames.size} values of the {name} are NaN or infinite: expected finite ones"
        )
    least, most = float(frames.min()), float(frames.max())
    found = f"{name} with values in [{least:.3g}, {most:.3g}]"
    if value_range is None:
        raise ValueError(
            f"{found} of {frames.dtype}: say what black and white are, such as {such_as}"
        )
    low, high = value_range
    slack = ROUNDING * (high - low)
    if not (high > low and least >= low - slack and most <= high + slack):
        raise ValueError(f"{found}: they are outside value_range={value_range}")
    if high - low > 1 and low <= 0 <= least and most <= 1 <= high:
        raise ValueError(
            f"{found}, all of them in [0, 1]: that is a video with {such_as}, not "
            f"{value_range}. If it truly has no other values, give it as uint8"
        )
