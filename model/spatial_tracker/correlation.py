"""A point's feature against the features around it, at several scales: lookups in pyramids of planes, as in RAFT."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

MAX_SAMPLED = 2**26  # numbers looked up at once: 256 MiB in float32


def sample(
    maps: Float[Tensor, "n c h w"], places: Float[Tensor, "n p k 2"], *, beyond: str
) -> Float[Tensor, "n c p k"]:
    """Bilinear lookup at (column, row); `beyond` the map are "zeros" or its "border"."""
    height, width = maps.shape[-2:]
    scale = places.new_tensor([2.0 / (width - 1), 2.0 / (height - 1)])
    return F.grid_sample(maps, places * scale - 1.0, mode="bilinear", padding_mode=beyond, align_corners=True)


def pyramid(maps: Float[Tensor, "n c h w"], levels: int) -> list[Tensor]:
    """The maps and their means over 2 x 2, 4 x 4 ... cells."""
    made = [maps]
    while len(made) < levels:
        made.append(F.avg_pool2d(made[-1], 2))
    return made


def correlate(
    levels: list[Tensor], centres: Float[Tensor, "n p 2"], features: Float[Tensor, "n p c"], radius: int
) -> Float[Tensor, "n p k"]:
    """Scaled products of each point's feature with those at (2 radius + 1)^2 places around it, level by level.

    Centres are (column, row) on the finest level; neighbours are a cell of their level apart. The row varies fastest.
    """
    steps = torch.arange(-radius, radius + 1, dtype=centres.dtype, device=centres.device)
    offsets = torch.cartesian_prod(steps, steps)  # (k, 2): the first, the column, varies slowest
    at_once = max(1, MAX_SAMPLED // (features[0].numel() * len(offsets)))
    parts = []
    for i, maps in enumerate(levels):
        places = centres[:, :, None] / 2**i + offsets
        pieces = zip(maps.split(at_once), places.split(at_once), features.split(at_once), strict=True)
        parts.append(
            torch.cat([torch.einsum("n c p k, n p c -> n p k", sample(m, q, beyond="zeros"), f) for m, q, f in pieces])
        )
    return torch.cat(parts, dim=-1) / math.sqrt(features.shape[-1])
