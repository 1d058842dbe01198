"""Colours of sRGB images in [-1, 1]: CIELAB, colour differences, and luma with two chromas.

CIELAB is a space in which distances are roughly those that people see; CIEDE2000 corrects it where
it is not. Everything is differentiable where the colours are not grey.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from model.value_range import IMAGES, check_range

# sRGB primaries and white D65 (IEC 61966-2-1): linear RGB -> XYZ over the white's XYZ
_TO_XYZ = (
    (0.4124564 / 0.95047, 0.3575761 / 0.95047, 0.1804375 / 0.95047),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339 / 1.08883, 0.1191920 / 1.08883, 0.9503041 / 1.08883),
)
# ITU-R BT.601: luma, and blue and red less luma, all in [-1, 1] for RGB in [-1, 1]
_TO_OPPONENT = (
    (0.299, 0.587, 0.114),
    (-0.168736, -0.331264, 0.5),
    (0.5, -0.418688, -0.081312),
)


def opponent(images: Float[Tensor, "*any 3 h w"]) -> Float[Tensor, "*any 3 h w"]:
    """Luma and two chromas (BT.601), in [-1, 1]: a linear map of the colours."""
    return torch.einsum("ij,...jhw->...ihw", images.new_tensor(_TO_OPPONENT), images)


def lab(images: Float[Tensor, "*any 3 h w"]) -> Float[Tensor, "*any 3 h w"]:
    """CIELAB of sRGB in [-1, 1]: lightness from 0 to 100, and a and b, 0 for grey.

    Raises ValueError for images that are not in [-1, 1], as those of a video in 0-255.
    """
    check_range(images, value_range=IMAGES)
    level = (images.clamp(-1, 1) + 1) / 2
    linear = torch.where(
        level <= 0.04045, level / 12.92, ((level.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4
    )
    xyz = torch.einsum("ij,...jhw->...ihw", images.new_tensor(_TO_XYZ), linear)
    least = (6 / 29) ** 3
    f = torch.where(xyz > least, xyz.clamp(min=least) ** (1 / 3), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = f.unbind(-3)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-3)


def ciede2000(
    first: Float[Tensor, "*any 3"], second: Float[Tensor, "*any 3"]
) -> Float[Tensor, "*any"]:
    """The colour difference ΔE00 of CIELAB colours (last axis); about 1 can just be seen.

    Sharma, Wu and Dalal 2005, "The CIEDE2000 color-difference formula", equations 2 to 22, with all
    weights 1.
    """
    l1, a1, b1 = first.double().unbind(-1)
    l2, a2, b2 = second.double().unbind(-1)

    # Chroma and hue, with a stretched near the grey axis
    c_mean = (torch.hypot(a1, b1) + torch.hypot(a2, b2)) / 2
    stretch = 1 + (1 - _saturating(c_mean)) / 2
    c1, c2 = torch.hypot(stretch * a1, b1), torch.hypot(stretch * a2, b2)
    h1, h2 = torch.atan2(b1, stretch * a1), torch.atan2(b2, stretch * a2)

    # Differences; that of a hue is the short way round, and 0 beside grey
    is_grey = c1 * c2 == 0
    turn = torch.remainder(h2 - h1 + math.pi, 2 * math.pi) - math.pi
    turn = torch.where(is_grey, 0.0, turn)
    dl, dc, dh = l2 - l1, c2 - c1, 2 * (c1 * c2).sqrt() * torch.sin(turn / 2)

    # Means; that of two hues lies on the short way
    l_mean, c_mean = (l1 + l2) / 2, (c1 + c2) / 2
    h_mean = torch.where(is_grey, h1 + h2, h1 + turn / 2)
    degrees = torch.remainder(torch.rad2deg(h_mean), 360)

    def cosine(factor: int, shift: int) -> Tensor:
        return torch.cos(torch.deg2rad(factor * degrees + shift))

    t = 1 - 0.17 * cosine(1, -30) + 0.24 * cosine(2, 0) + 0.32 * cosine(3, 6) - 0.2 * cosine(4, -63)
    s_l = 1 + 0.015 * (l_mean - 50) ** 2 / (20 + (l_mean - 50) ** 2).sqrt()
    s_c, s_h = 1 + 0.045 * c_mean, 1 + 0.015 * c_mean * t
    # Blue hues: chroma and hue are not independent
    rotation = torch.deg2rad(60 * torch.exp(-(((degrees - 275) / 25) ** 2)))
    r = -torch.sin(rotation) * 2 * _saturating(c_mean)
    parts = dl / s_l, dc / s_c, dh / s_h
    squared = sum(part**2 for part in parts) + r * parts[1] * parts[2]
    return squared.clamp(min=0).sqrt().to(first.dtype)


def _saturating(chroma: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    return (chroma**7 / (chroma**7 + 25.0**7)).sqrt()
