"""Metrics of how a video looks apart from what it shows: flicker, and sharpness at depth's edges.

Videos are (b t c h w) floats; `value_range` says what black and white are, as in `model.metrics`.
One value per clip.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from model.colour import opponent
from model.metrics import check_mask
from model.value_range import LEVELS, ValueRange, as_images

EDGE_JUMP = 0.1  # of the clip's range of inverse depth: neighbours that differ more have an edge
EDGE_MARGIN_PX = 1  # by which edges are grown, as those of depth and of colour are not aligned


def flicker(
    video: Float[Tensor, "b t c h w"], still: Bool[Tensor, "b h w"], *, value_range: ValueRange
) -> Float[Tensor, " b"]:
    """Mean change from frame to frame of the pixels in which nothing happens, in grey levels of
    255; 0 for a still video.

    still: pixels in which the true video never changes. Raises ValueError for a clip without one,
    and for fewer than two frames.
    """
    if video.shape[1] < 2:
        raise ValueError(f"a video of {video.shape[1]} frames does not change: expected 2 or more")
    check_mask(rearrange(still, "b h w -> b 1 h w"))
    (images,) = as_images(video, value_range=value_range)
    change = images.double().diff(dim=1).abs().mean(dim=(1, 2))  # (b, h, w)
    of_still = torch.where(still, change, 0.0).sum(dim=(1, 2)) / still.sum(dim=(1, 2))
    return (LEVELS * of_still).to(video.dtype)


def depth_edges(
    inverse_depth: Float[Tensor, "b t h w"],
    valid: Bool[Tensor, "b t h w"],
    spread: Float[Tensor, " b"],
) -> Bool[Tensor, "b t h w"]:
    """The pixels at edges of depth: of neighbours whose inverse depths differ by over EDGE_JUMP of
    the clip's `spread`, grown by EDGE_MARGIN_PX.

    So it does not matter in which units depth is, or whether it is known up to scale and shift
    only. An unknown depth has no edge.
    """
    limit = EDGE_JUMP * rearrange(spread, "b -> b 1 1 1")
    edges = torch.zeros_like(valid)
    for dim in (2, 3):
        n = valid.shape[dim] - 1
        jumps = inverse_depth.diff(dim=dim).abs() > limit
        jumps &= valid.narrow(dim, 0, n) & valid.narrow(dim, 1, n)
        edges.narrow(dim, 0, n).logical_or_(jumps)
        edges.narrow(dim, 1, n).logical_or_(jumps)
    side = 2 * EDGE_MARGIN_PX + 1
    return F.max_pool2d(edges.float(), side, stride=1, padding=EDGE_MARGIN_PX) > 0


def edge_sharpness(
    predicted: Float[Tensor, "b t c h w"],
    target: Float[Tensor, "b t c h w"],
    edges: Bool[Tensor, "b t h w"],
    *,
    value_range: ValueRange,
) -> Float[Tensor, " b"]:
    """How steep the predicted video's brightness is at these edges, as a share of the target's.

    1: as sharp as the target; below: blurred; above: noisy, or sharper than what is there. Sums of
    gradients' lengths over the edges of all frames. NaN where the target has no gradient there, as
    between things of one colour. Raises ValueError for a clip without an edge.
    """
    check_mask(edges)
    videos = as_images(predicted, target, value_range=value_range)
    ours, true = (
        torch.where(edges, steepness(opponent(video)[:, :, 0].double()), 0.0).sum(dim=(1, 2, 3))
        for video in videos
    )
    return torch.where(true > 0, ours / true, torch.nan).to(predicted.dtype)


def steepness(grey: Float[Tensor, "b t h w"]) -> Float[Tensor, "b t h w"]:
    """Length of the gradient, by central differences; at the border of the frame by half of one."""
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    dx = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    dy = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    return (dx.square() + dy.square()).sqrt() / 2
