"""What black and white are in a float video: said by the caller, checked, never guessed.

The same pixels in [0, 1] and in [-1, 1] differ by 6.02 dB of PSNR if one is taken for the other, so
every metric of pictures asks for the range. Integers are refused: a uint8 video in [0, 255] is made
float first (`stages.tokenizer.images.rgb_to_images`).
"""

import warnings

import torch
from jaxtyping import Float
from torch import Tensor

ValueRange = tuple[int | float, int | float]  # lowest and highest value that a pixel can have

IMAGES: ValueRange = (-1.0, 1.0)  # of all images of tokenizers and networks here
LEVELS = 255 / 2  # of grey, for one unit of such an image
ROUNDING = 5e-4  # of the range: how far outside it a value may lie


def as_images(
    *videos: Float[Tensor, "*any c h w"], value_range: ValueRange
) -> tuple[Float[Tensor, "*any c h w"], ...]:
    """The videos in [-1, 1]; those that are there already are returned as they are.

    Raises ValueError as `check_range` does.
    """
    check_range(*videos, value_range=value_range)
    low, high = value_range
    if (low, high) == IMAGES:
        return videos
    return tuple((video - low) * (2 / (high - low)) - 1 for video in videos)


def check_range(*videos: Tensor, value_range: ValueRange) -> None:
    """Raises ValueError for integers, an empty range, and values outside the range, NaN too.

    Warns if none of the videos has a value below 0 although the range begins there: they look like
    videos in [0, 1]. It is no error, since frames without a dark pixel exist.
    """
    low, high = value_range
    if not low < high:
        raise ValueError(f"value_range={value_range}: expected the value of black, then of white")
    slack, lowest = ROUNDING * (high - low), []
    for video in videos:
        if not video.is_floating_point():
            raise ValueError(
                f"video of {video.dtype}: expected floats in [{low:g}, {high:g}]; convert it first"
            )
        least, most = (value.item() for value in torch.aminmax(video.detach()))
        if not (least >= low - slack and most <= high + slack):  # also catches NaN
            raise ValueError(
                f"video with values in [{least:.3g}, {most:.3g}]: expected [{low:g}, {high:g}]; "
                "clamp or rescale it first, or say its value_range"
            )
        lowest.append(least)
    if lowest and low < 0 <= min(lowest):
        warnings.warn(
            f"no value below 0 in videos that are said to be in [{low:g}, {high:g}]: if they are "
            "in [0, 1], say value_range=(0, 1)",
            stacklevel=4,
        )
