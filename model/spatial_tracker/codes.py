"""The network's four sine codes: of a pixel's place, a point's place and frame, and its motion.

Frequencies and orders are those of the published weights.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

N_FOURIER = 10  # frequencies of a pixel's place in the volume
FOURIER = 3 + 2 * 3 * N_FOURIER
N_MOTION = 32  # frequencies of a displacement
MOTION = 3 * (2 * N_MOTION + 1)


def fourier_code(volume: Float[Tensor, "b s h w 3"]) -> Float[Tensor, "b s h w k"]:
    """(x, y, z) scaled to [-1, 1], then sin and cos of all three per frequency.

    The scale is over all frames given. NeRF's encoding, but with frequencies 2^(10 i/9).
    """
    low, high = volume.amin(dim=(1, 2, 3), keepdim=True), volume.amax(dim=(1, 2, 3), keepdim=True)
    scaled = 2 * (volume - low) / (high - low).clamp(min=1e-6) - 1
    frequencies = 2 ** torch.linspace(0, 10, N_FOURIER, dtype=volume.dtype, device=volume.device)
    angles = scaled[..., None, :] * frequencies[:, None]  # (b, s, h, w, 10, 3)
    waves = torch.stack([angles.sin(), angles.cos()], dim=-2)
    return torch.cat([scaled, rearrange(waves, "b s h w f i x -> b s h w (f i x)")], dim=-1)


def sine_table(length: int, channels: int, like: Tensor) -> Float[Tensor, "length channels"]:
    """Sines of 0 .. length-1 in the first half of the channels, then cosines.

    Periods are 2π to 20,000π.
    """
    half = channels // 2
    rates = 10_000.0 ** (-torch.arange(half, dtype=torch.float64, device=like.device) / half)
    angles = torch.arange(length, dtype=torch.float64, device=like.device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1).to(like.dtype)


def position_code(
    xy: Float[Tensor, "b p 2"], size: tuple[int, int], channels: int
) -> Float[Tensor, "b p d"]:
    """Code of cells (x, y) of a (height, width) grid: x in the first half of the channels, then y.

    Tables are interpolated between whole cells; outside the grid the nearest border counts.
    """
    height, width = size
    table = sine_table(max(height, width), channels // 2, xy)
    return torch.cat(
        [_between(table[:n], xy[..., i]) for i, n in enumerate((width, height))], dim=-1
    )


def _between(table: Float[Tensor, "n d"], place: Float[Tensor, "b p"]) -> Float[Tensor, "b p d"]:
    place = place.clamp(0, len(table) - 1)
    below = place.floor().long().clamp(max=len(table) - 2)
    return torch.lerp(table[below], table[below + 1], (place - below)[..., None])


def motion_code(displacement: Float[Tensor, "*any 3"]) -> Float[Tensor, "*any k"]:
    """Of x, y and z in turn, alternating sines and cosines; then the displacement itself.

    Frequencies are 0, 2, .. 62 times 1000/64 rad per cell.
    """
    like = {"dtype": displacement.dtype, "device": displacement.device}
    rates = torch.arange(0, 2 * N_MOTION, 2, **like) * (1000.0 / (2 * N_MOTION))
    angles = displacement[..., None] * rates
    waves = torch.stack([angles.sin(), angles.cos()], dim=-1)  # (*any, 3, 32, 2)
    return torch.cat([waves.flatten(-3), displacement], dim=-1)
