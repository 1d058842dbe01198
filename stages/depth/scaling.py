"""Inverse depth as an image in [-1, 1] and back, by the range of its clip."""

import numpy as np
from jaxtyping import Bool, Float, Float16, Float32

from stages.base import Rejected

QUANTILES = (0.02, 0.98)  # of a clip's valid inverse depths; they become -1 and 1
# Of the larger one: a smaller range is a flat picture, and noise once it is scaled
MIN_SPREAD = 1e-3


def inverse_depth_range(
    inverse_depth: Float16[np.ndarray, "t h w"], valid: Bool[np.ndarray, "t h w"]
) -> Float32[np.ndarray, " 2"]:
    """`QUANTILES` of a clip's valid pixels. Raises Rejected (`flat_depth`) if nearly equal."""
    low, high = np.quantile(inverse_depth[valid].astype(np.float32), QUANTILES)
    if high - low <= MIN_SPREAD * max(abs(low), abs(high)):
        raise Rejected(
            "flat_depth",
            f"inverse depths from {low:.4g} to {high:.4g}: expected a scene with depth in it",
        )
    return np.array([low, high], np.float32)


def depth_to_image(
    inverse_depth: Float[np.ndarray, "*b t h w"], inverse_depth_range: Float32[np.ndarray, "*b 2"]
) -> Float32[np.ndarray, "*b t h w"]:
    """Inverse depth as the tokenizer's image: its range becomes [-1, 1], the rest is clamped.

    Near is bright, and what is not valid (0 in the store) is the farthest. `image_to_depth` is the
    inverse, but for the clamping. Raises ValueError for an empty range.
    """
    low, high = _limits(inverse_depth_range)
    unit = (inverse_depth.astype(np.float32) - low) / (high - low)
    return np.clip(2 * unit - 1, -1, 1)


def image_to_depth(
    image: Float[np.ndarray, "*b t h w"], inverse_depth_range: Float32[np.ndarray, "*b 2"]
) -> Float32[np.ndarray, "*b t h w"]:
    """Inverse depth, in the units of the range, of a depth image in [-1, 1]."""
    low, high = _limits(inverse_depth_range)
    return ((image.astype(np.float32) + 1) / 2 * (high - low) + low).astype(np.float32)


def _limits(inverse_depth_range: Float32[np.ndarray, "*b 2"]) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends, shaped to broadcast over (t h w)."""
    low, high = np.moveaxis(inverse_depth_range.astype(np.float32), -1, 0)[..., None, None, None]
    if not (high > low).all():
        raise ValueError(
            f"inverse_depth_range {inverse_depth_range.tolist()}: "
            "expected the first below the second"
        )
    return low, high
