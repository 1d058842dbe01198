"""Pictures of depth at another size: each new pixel is one of the old ones, none is a mean."""

import numpy as np
from jaxtyping import Float32, Integer


def resize_nearest(
    images: Float32[np.ndarray, "t h w"], size: tuple[int, int]
) -> Float32[np.ndarray, "t i j"]:
    """The images resized as the video is: each new pixel is the old one under its centre."""
    rows, columns = (
        nearest_pixels(old, new) for old, new in zip(images.shape[1:], size, strict=True)
    )
    return images[:, rows[:, None], columns]


def nearest_pixels(n_source: int, n: int) -> Integer[np.ndarray, " n"]:
    """For each of n pixels along an axis, the source pixel under its centre."""
    return ((np.arange(n) + 0.5) * n_source / n).astype(int)
