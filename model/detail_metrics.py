"""Metrics of what whole-frame PSNR hides: colours, and the small part of a frame with most detail.

A thing of 10 x 10 px in a frame of 128 x 128 has 0.6 % of its pixels: a video that erases it loses
little.
Videos are (b t c h w) floats; `value_range` says what black and white are, as in `model.metrics`.
One value per clip.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from model.colour import opponent
from model.metrics import MAX_PSNR, psnr
from model.value_range import ValueRange, as_images

SQUARES = 16  # along each side of a frame
DETAIL_SHARE = 0.1  # of the squares
FAINTEST = 0.02  # distance of chroma, of a range of 2, that counts as a colour: noise has less


def detailed_squares(target: Float[Tensor, "b t c h w"]) -> Bool[Tensor, "b t h w"]:
    """The pixels of the tenth of each frame's squares whose colours vary most.

    A frame has 16 x 16 squares, whatever its size, so that frames of all sizes and videos of all
    tokenizers are compared alike.
    """
    h, w = target.shape[-2:]
    side = (min(SQUARES, h), min(SQUARES, w))
    images = rearrange(target, "b t c h w -> (b t) c h w").double()
    # Distance of each pixel from its square's mean colour
    means = F.interpolate(F.adaptive_avg_pool2d(images, side), size=(h, w), mode="nearest-exact")
    spread = rearrange((images - means).square().sum(1), "(b t) h w -> b t h w", b=len(target))
    return largest_squares(spread)


def detail_psnr(
    predicted: Float[Tensor, "b t c h w"],
    target: Float[Tensor, "b t c h w"],
    *,
    value_range: ValueRange,
) -> Float[Tensor, " b"]:
    """PSNR in dB inside the target's `detailed_squares`."""
    return psnr(predicted, target, detailed_squares(target), value_range=value_range)


def chroma_psnr(
    predicted: Float[Tensor, "b t c h w"],
    target: Float[Tensor, "b t c h w"],
    *,
    value_range: ValueRange,
) -> Float[Tensor, " b"]:
    """PSNR in dB of the two chroma channels (BT.601, in [-1, 1]), mean over frames."""
    predicted, target = as_images(predicted, target, value_range=value_range)
    error = (opponent(predicted) - opponent(target))[:, :, 1:].double().square().mean((2, 3, 4))
    return (10 * torch.log10(4 / error)).clamp(max=MAX_PSNR).mean(1).to(predicted.dtype)


def colour_kept(
    predicted: Float[Tensor, "b t c h w"],
    target: Float[Tensor, "b t c h w"],
    *,
    value_range: ValueRange,
) -> Float[Tensor, " b"]:
    """The share of the colours that is kept in the most colourful tenth of each frame's squares.

    1 - squared error of the chroma / squared distance of the target's chroma from its frame's
    median. 1: nothing is lost. 0: no better than painting all in that one tint. Below 0: worse. NaN
    for a clip without colours to keep, such as a grey one.
    """
    videos = as_images(predicted, target, value_range=value_range)
    found, true = (opponent(video)[:, :, 1:].double() for video in videos)
    usual = true.flatten(3).median(dim=3).values[..., None, None]
    distance, error = (x.square().sum(2) for x in (true - usual, found - true))
    mask = largest_squares(distance)
    n = mask.sum((1, 2, 3))
    lost, there = (torch.where(mask, x, 0.0).sum((1, 2, 3)) / n for x in (error, distance))
    kept = torch.where(there > FAINTEST**2, 1 - lost / there, torch.nan)
    return kept.to(predicted.dtype)


def largest_squares(values: Float[Tensor, "b t h w"]) -> Bool[Tensor, "b t h w"]:
    """The pixels of the tenth of each frame's squares with the largest mean."""
    b, _, h, w = values.shape
    side = (min(SQUARES, h), min(SQUARES, w))
    means = F.adaptive_avg_pool2d(rearrange(values, "b t h w -> (b t) 1 h w"), side).flatten(1)
    n = max(1, round(DETAIL_SHARE * means.shape[1]))
    chosen = torch.zeros_like(means).scatter_(1, means.topk(n, dim=1).indices, 1.0)
    grown = F.interpolate(chosen.unflatten(1, (1, *side)), size=(h, w), mode="nearest-exact")
    return rearrange(grown > 0, "(b t) 1 h w -> b t h w", b=b)
