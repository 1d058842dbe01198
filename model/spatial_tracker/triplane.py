"""Depth lifts a feature map into a volume, kept as projections on three planes (section 3.1).

The volume has x, y in cells of 4 px, and z from 0 (near) to Dz (far), where Dz is the width of the
picture in cells.
"""

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

HOLE = 0.01  # depth up to this is unknown and not part of the range
WEIGHT_EPS = 1e-7  # of the published average splatting


class Planes(NamedTuple):
    """Features of a window's frames, projected along z, x and y; axes are (rows, columns)."""

    xy: Float[Tensor, "b s c y x"]
    yz: Float[Tensor, "b s c z y"]
    xz: Float[Tensor, "b s c z x"]


def along_planes(coordinates: Float[Tensor, "*any 3"]) -> tuple[Tensor, Tensor, Tensor]:
    """(column, row) of points (x, y, z) on each of the `Planes`."""
    return coordinates[..., [0, 1]], coordinates[..., [1, 2]], coordinates[..., [0, 2]]


class DepthRange(NamedTuple):
    """Nearest and farthest known depth of each clip, and the number of z cells of the planes."""

    near: Float[Tensor, " b"]
    far: Float[Tensor, " b"]
    n_cells: int

    def to_cells(self, depth: Float[Tensor, "b *any"]) -> Float[Tensor, "b *any"]:
        """z in cells; below 0, outside the planes, in holes."""
        near, far = self._like(depth)
        return (depth - near) / (far - near) * self.n_cells

    def to_depth(self, z: Float[Tensor, "b *any"]) -> Float[Tensor, "b *any"]:
        """Depth, in the units of the given one."""
        near, far = self._like(z)
        return z / self.n_cells * (far - near) + near

    def _like(self, values: Tensor) -> tuple[Tensor, Tensor]:
        shape = (-1, *[1] * (values.ndim - 1))
        return self.near.view(shape), self.far.view(shape)


def depth_range(depth: Float[Tensor, "b t h w"], n_cells: int) -> DepthRange:
    """The range of each clip's known depth (above 0.01, in any unit)."""
    known = depth > HOLE
    near = torch.where(known, depth, torch.inf).amin(dim=(1, 2, 3))
    far = torch.where(known, depth, -torch.inf).amax(dim=(1, 2, 3))
    return DepthRange(near, far, n_cells)


def splat(
    features: Float[Tensor, "n c i j"], z: Float[Tensor, "n i j"], n_cells: int
) -> Float[Tensor, "n c k i"]:
    """The weighted mean, in each cell k = 0 .. n_cells-1 of z, of the features along axis j.

    A pixel has weight 1 - |z - k| in the (at most two) cells within 1 of its z; its other
    coordinate is a whole number, so it has no neighbours there. Computed as a product with the
    matrix of weights, whose sums have a fixed order; adding by index would depend on a GPU's
    schedule. Cells without pixels are 0.
    """
    cells = torch.arange(n_cells, dtype=z.dtype, device=z.device)
    weights = (1.0 - (z[:, :, None] - cells[:, None]).abs()).clamp(min=0.0)  # (n, i, k, j)
    sums = weights @ rearrange(features, "n c i j -> n i j c")
    return rearrange(sums / (weights.sum(dim=-1, keepdim=True) + WEIGHT_EPS), "n i k c -> n c k i")


def plane_head(channels: int) -> nn.Sequential:
    """The two convolutions after splatting, which fill gaps."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1),
    )
