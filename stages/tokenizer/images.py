"""Stored RGB frames and inverse depth -> the tokenizer's images, (b c h w) in [-1, 1], and back."""

from collections.abc import Mapping
from typing import Literal

import cv2
import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from model.colour import opponent
from model.magvit2.losses import CHROMA_FACTOR
from stages.depth.scaling import depth_to_image
from stages.drawing.pictures import colour_depth

Source = Literal["rgb", "depth"]

# source -> the upstream role, and those of its arrays that make an image
READS: dict[Source, tuple[str, tuple[str, ...]]] = {
    "rgb": ("clip", ("rgb",)),
    "depth": ("depth", ("inverse_depth", "inverse_depth_range")),
}

# Difference from the background that counts as motion, of a range of 2 (15 of 255 grey levels)
MOVED = 0.12
# `detail_map`: side of the surroundings in frame widths, and the distance that counts as full
SURROUNDINGS = 1 / 8
FULL_DETAIL = 0.4
MARGIN_PX = 2  # the moving region is dilated by this much, to include edges and shadows


def images_of(source: Source, arrays: Mapping[str, np.ndarray]) -> Float[Tensor, "b t c h w"]:
    """The images of whole clips, (b t ...) as `READS` names them, in [-1, 1]."""
    if source == "rgb":
        return rgb_to_images(arrays["rgb"])
    scaled = depth_to_image(arrays["inverse_depth"], arrays["inverse_depth_range"])
    return repeat(torch.from_numpy(scaled), "b t h w -> b t c h w", c=3)


def rgb_to_images(rgb: UInt8[np.ndarray, "*any h w c"]) -> Float[Tensor, "*any c h w"]:
    """In [-1, 1]. Raises ValueError for anything but uint8, whose range is not known."""
    if rgb.dtype != np.uint8:
        raise ValueError(f"frames of {rgb.dtype}: expected uint8 in 0-255; convert them first")
    return rearrange(torch.from_numpy(rgb).float() / 127.5 - 1, "... h w c -> ... c h w")


def images_to_rgb(images: Float[Tensor, "*any c h w"]) -> UInt8[np.ndarray, "*any h w c"]:
    """Images in [-1, 1] (clamped) to the nearest of 256 levels."""
    levels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return rearrange(levels, "... c h w -> ... h w c").cpu().numpy()


def moving_mask(
    images: Float[Tensor, "t c h w"], still: Float[Tensor, "1 c h w"] | None = None
) -> Bool[Tensor, "t h w"]:
    """Where a frame differs from the background, dilated by `MARGIN_PX`.

    The background is `still`, or else the clip's median frame.
    """
    background = median_frame(images) if still is None else still
    changed = ((images - background).abs().amax(dim=1) > MOVED).float()
    return F.max_pool2d(changed[:, None], 2 * MARGIN_PX + 1, stride=1, padding=MARGIN_PX)[:, 0] > 0


def median_frame(images: Float[Tensor, "t c h w"]) -> Float[Tensor, "1 c h w"]:
    """The lower median over time: `Tensor.median`, 2.7 times as fast on a CPU."""
    middle = (len(images) - 1) // 2
    ordered = np.partition(images.cpu().numpy(), middle, axis=0)
    return torch.from_numpy(ordered[middle : middle + 1]).to(images.device)


def detail_map(images: Float[Tensor, "t c h w"]) -> UInt8[np.ndarray, "t h w"]:
    """How far each pixel's colour is from the mean of its surroundings, from 0 to 255.

    Small things and edges stand out, coloured ones most: squared chroma counts CHROMA_FACTOR times.
    """
    side = max(3, round(SURROUNDINGS * images.shape[-1]) | 1)
    drawn = []
    for image in opponent(images).permute(0, 2, 3, 1).numpy():
        luma, *chroma = np.moveaxis(image - cv2.blur(image, (side, side)), -1, 0)
        squared = luma**2 + CHROMA_FACTOR * sum(tint**2 for tint in chroma)
        drawn.append(np.minimum(np.sqrt(squared) / FULL_DETAIL, 1) * 255)
    return np.stack(drawn).astype(np.uint8)


def picture_frames(
    source: Source, images: Float[Tensor, "t c h w"]
) -> UInt8[np.ndarray, "t h w c"]:
    """Images for display: RGB as it is, inverse depth in colours."""
    if source == "rgb":
        return images_to_rgb(images)
    near = images.mean(dim=1).cpu().numpy()
    return colour_depth(near, np.ones(near.shape, bool), np.array([-1.0, 1.0]))
