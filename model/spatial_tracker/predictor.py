"""Clips, their depth and query points as arrays in; tracks in clip pixels and visibility out.

This is the published predictor with explicit queries: clips are resized to the network's working
size, and a grid of support points of the first frame is tracked as well, since points are tracked
better together.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor
from torch.nn import functional as F

from model.spatial_tracker.correlation import sample
from model.spatial_tracker.model import SpatialTracker
from model.spatial_tracker.triplane import HOLE, depth_range

Precision = Literal["float32", "float16", "bfloat16"]

SUPPORT_MARGIN = 64  # the support grid's distance to every side is 1/64 of the working width


@dataclass(frozen=True, kw_only=True)
class Tracks:
    """Each query point in each frame of each clip.

    Frames before a point's first window are not covered: NaN, visibility 0. Queries in the first
    `window` frames have no such frames.
    """

    tracks: Float32[np.ndarray, "b t p 2"]  # x, y px; (0, 0) is the centre of the top-left pixel
    depth: Float32[np.ndarray, "b t p"]  # in the units of the given depth
    visibility: Float32[np.ndarray, "b t p"]  # probability
    visible: Bool[np.ndarray, "b t p"]  # probability above the threshold, or the query's own frame


def support_points(grid: int, height: int, width: int) -> Float32[np.ndarray, "p 3"]:
    """Queries (frame 0, x, y) of the support grid, row by row, in working pictures of this size."""
    margin = width // SUPPORT_MARGIN
    x, y = np.meshgrid(
        np.linspace(margin, width - margin, grid), np.linspace(margin, height - margin, grid)
    )
    return np.stack([np.zeros(grid**2), x.ravel(), y.ravel()], axis=1).astype(np.float32)


def depth_from_inverse(
    inverse_depth: Float32[np.ndarray, "b t h w"], floor: float
) -> Float32[np.ndarray, "b t h w"]:
    """Depth of relative inverse depth (larger is nearer), in units of each clip's nearest point.

    Inverse depth is at least the share `floor` of the clip's largest, so that depth ends at
    1/floor: the network sees depth relative to its range in the clip, which the sky would stretch.
    Metric depth needs no conversion; it is 0 where unknown. Raises ValueError for a floor outside
    (0, 1), and for a clip with NaN, infinity or no value above 0.
    """
    if not 0 < floor < 1:
        raise ValueError(
            f"floor={floor}: expected a share of the clip's largest inverse depth, between 0 and 1"
        )
    _check_finite(inverse_depth, "inverse depth")
    largest = inverse_depth.max(axis=(1, 2, 3), keepdims=True)
    if not (largest > 0).all():
        clip = int(largest.argmin())
        raise ValueError(
            f"clip {clip} of {len(largest)}: inverse depth is nowhere above 0: reject this clip"
        )
    return largest / np.maximum(inverse_depth, np.float32(floor) * largest)


@torch.inference_mode()
def track_points(
    network: SpatialTracker,
    frames: UInt8[np.ndarray, "b t h w 3"],
    depth: Float32[np.ndarray, "b t h w"],
    queries: Float32[np.ndarray, "p 3"],
    *,
    support_grid: int = 6,
    visible_above: float = 0.9,
    backward: bool = False,
    precision: Precision = "float32",
) -> Tracks:
    """Tracks of the same queries (frame, x px, y px) in every clip, on the network's device.

    `depth` is depth (not inverse) in any unit, 0 where unknown: metric depth, or relative depth
    from `depth_from_inverse`. `backward` also tracks the reversed clip, for frames before the first
    windows of late queries. `precision` is that of attention; all else is float32, also on GPUs
    (see `full_float32`). With published weights the order of the queries matters, too: see
    `model.spatial_tracker.model.dealt_flags`. Raises ValueError for queries outside the clip; for
    depth with NaN, nothing above 0.01 or one value only; for clips not longer than half a window;
    and for an unknown precision.
    """
    n_frames, height, width = frames.shape[1:4]
    if precision not in get_args(Precision):
        raise ValueError(
            f"precision={precision!r}: expected one of {', '.join(get_args(Precision))}"
        )
    _check_queries(queries, n_frames, height, width)
    network.config.check_length(n_frames)
    size = (network.config.working_height, network.config.working_width)
    video, z = _at_working_size(frames, depth, size, next(network.parameters()).device)

    # Plain ratios, as published. Resizing maps pixel x to (x + 0.5) * ratio - 0.5, so the tracked
    # point is at most half a pixel of the smaller picture away from the query, the same in all
    # frames.
    ratio = np.array([1, size[1] / width, size[0] / height], dtype=np.float32)
    points = np.concatenate([queries * ratio, support_points(support_grid, *size)])
    dtype = getattr(torch, precision)
    found, visibility = _run(network, video, z, points, dtype)
    if backward:
        points[:, 0] = n_frames - 1 - points[:, 0]
        back = _run(network, video.flip(1), z.flip(1), points, dtype)
        missing = np.isnan(found)
        found = np.where(missing, back[0][:, ::-1], found)
        visibility = np.where(missing[..., 0], back[1][:, ::-1], visibility)

    found, visibility = found[:, :, : len(queries)], visibility[:, :, : len(queries)]
    visible = visibility > visible_above
    visible[:, queries[:, 0].astype(int), np.arange(len(queries))] = True
    return Tracks(
        tracks=found[..., :2] / ratio[1:],
        depth=found[..., 2],
        visibility=visibility,
        visible=visible,
    )


def _at_working_size(
    frames: UInt8[np.ndarray, "b t h w 3"],
    depth: Float32[np.ndarray, "b t h w"],
    size: tuple[int, int],
    device: torch.device,
) -> tuple[Float[Tensor, "b t 3 h2 w2"], Float[Tensor, "b t h2 w2"]]:
    """Frames and depth as the network takes them; ValueError for depth that it cannot use."""
    if frames.dtype != np.uint8:
        raise ValueError(f"frames of {frames.dtype}: expected uint8, RGB in 0-255; convert them")
    if depth.shape != frames.shape[:4]:
        raise ValueError(
            f"depth of shape {depth.shape}, frames {frames.shape[:4]}: expected one depth for each "
            "pixel"
        )
    _check_finite(depth, "depth")
    video = rearrange(torch.tensor(frames, device=device), "b t h w c -> b t c h w").float()
    video = F.interpolate(video.flatten(0, 1), size, mode="bilinear").unflatten(0, video.shape[:2])
    z = F.interpolate(torch.tensor(depth, device=device), size, mode="nearest")
    _check_range(z)
    return video, z


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Turns off TF32, the default, in CUDA's float32 convolutions: it keeps 10 of 23 bits.

    A point's motion is coded by waves of up to 969 radians a cell, so a rounded position would have
    another code. Matrix products use the process's setting, by default without TF32.
    """
    if device.type != "cuda":
        yield
        return
    convolutions = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = convolutions.fp32_precision
    convolutions.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = before


def _run(
    network: SpatialTracker,
    video: Float[Tensor, "b t 3 h w"],
    depth: Float[Tensor, "b t h w"],
    queries: Float32[np.ndarray, "p 3"],
    dtype: torch.dtype,
) -> tuple[Float32[np.ndarray, "b t p 3"], Float32[np.ndarray, "b t p"]]:
    """Tracks (x, y in working pixels, depth) and visibility; a query's own frame has the query."""
    b, p = len(video), len(queries)
    query_frames = torch.from_numpy(queries[:, 0]).long()
    places = torch.from_numpy(queries[:, 1:]).to(video)
    each = torch.arange(p)
    everywhere = repeat(places, "p i -> n p 1 i", n=depth[:, :, 0, 0].numel())
    looked_up = sample(rearrange(depth, "b t h w -> (b t) 1 h w"), everywhere, outside="border")
    in_own_frame = looked_up.view(b, -1, p)[:, query_frames, each]
    points = torch.cat([places.expand(b, p, 2), in_own_frame[..., None]], dim=-1)
    with full_float32(depth.device):
        output = network(video, depth, query_frames, points, attention_dtype=dtype)

    tracks = torch.where(output.covered[..., None], output.tracks, torch.nan)
    visibility = torch.where(output.covered, output.visibility.sigmoid(), 0.0)
    tracks[:, query_frames, each] = points
    return tracks.cpu().numpy(), visibility.cpu().numpy()


def _check_queries(
    queries: Float32[np.ndarray, "p 3"], n_frames: int, height: int, width: int
) -> None:
    """Raises ValueError naming the first query outside the clip, whose border is at -0.5 px."""
    frame, x, y = queries.T
    whole = (frame == np.floor(frame)) & (frame >= 0) & (frame < n_frames)
    inside = (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
    if not (whole & inside).all():
        worst = int((whole & inside).argmin())
        raise ValueError(
            f"query {worst} (frame, x, y) = {tuple(queries[worst].tolist())}: expected a whole "
            f"frame in [0, {n_frames}) and a place in the picture of {width} x {height} px"
        )


def _check_finite(values: Float32[np.ndarray, "b t h w"], what: str) -> None:
    finite = np.isfinite(values).all(axis=(1, 2, 3))
    if not finite.all():
        clip = int(finite.argmin())
        count = int((~np.isfinite(values[clip])).sum())
        raise ValueError(
            f"clip {clip} of {len(values)}: {what} is NaN or infinite in {count} pixels: reject "
            "this clip, or put 0 where it is unknown"
        )


def _check_range(depth: Float[Tensor, "b t h w"]) -> None:
    """Raises ValueError for clips whose known depth has no range."""
    near, far, _ = depth_range(depth, 1)
    for clip, (low, high) in enumerate(zip(near.tolist(), far.tolist(), strict=True)):
        if not low < high:
            found = f"nowhere above {HOLE}" if low > high else f"{low:g} everywhere"
            raise ValueError(
                f"clip {clip} of {len(depth)}: depth is {found}; points in space need a range of "
                "depth: reject this clip (relative depth is to be made by depth_from_inverse)"
            )
