"""Correlation of a point's feature with those around it, in pyramids of planes, as in RAFT."""

import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

MAX_PRODUCTS = 2**26  # of points with cells, computed at once: 256 MiB in float32


def sample(
    maps: Float[Tensor, "n c h w"], places: Float[Tensor, "n p k 2"], *, outside: str
) -> Float[Tensor, "n c p k"]:
    """Bilinear lookup at (column, row); `outside` the map: "zeros" or its "border"."""
    height, width = maps.shape[-2:]
    scale = places.new_tensor([2.0 / (width - 1), 2.0 / (height - 1)])
    return F.grid_sample(
        maps, places * scale - 1.0, mode="bilinear", padding_mode=outside, align_corners=True
    )


def pyramid(maps: Float[Tensor, "n c h w"], levels: int) -> list[Tensor]:
    """The maps and their means over 2 x 2, 4 x 4 ... cells."""
    made = [maps]
    while len(made) < levels:
        made.append(F.avg_pool2d(made[-1], 2))
    return made


def correlate(
    levels: list[Tensor],
    centres: Float[Tensor, "n p 2"],
    features: Float[Tensor, "n p c"],
    radius: int,
) -> Float[Tensor, "n p k"]:
    """Scaled products of each point's feature with (2 radius + 1)^2 around it, level by level.

    Centres are (column, row) on the finest level; neighbours are a cell of their level apart. The
    row varies fastest. Products with whole maps, for some points at a time, are computed first and
    looked up: the same as looking features up first, and several times as fast.
    """
    steps = torch.arange(-radius, radius + 1, dtype=centres.dtype, device=centres.device)
    offsets = torch.cartesian_prod(steps, steps)  # (k, 2): the first, the column, varies slowest
    at_once = max(1, MAX_PRODUCTS // levels[0][:, 0].numel())
    rows = []
    for centre, feature in zip(
        centres.split(at_once, dim=1), features.split(at_once, dim=1), strict=True
    ):
        parts = []
        for i, maps in enumerate(levels):
            products = rearrange(
                feature @ maps.flatten(2), "n p (h w) -> (n p) 1 h w", h=maps.shape[-2]
            )
            places = centre[:, :, None] / 2**i + offsets
            around = sample(products, rearrange(places, "n p k i -> (n p) 1 k i"), outside="zeros")
            parts.append(rearrange(around, "(n p) 1 1 k -> n p k", n=len(maps)))
        rows.append(torch.cat(parts, dim=-1))
    return torch.cat(rows, dim=1) / math.sqrt(features.shape[-1])
