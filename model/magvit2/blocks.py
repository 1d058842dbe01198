"""The parts that encoder and decoder are made of. Module names are those of the published
checkpoints.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

NORM_EPS = 1e-6  # of both published layouts


def group_norm(channels: int, groups: int) -> nn.GroupNorm:
    """GroupNorm in `groups` groups, or one per channel where there are fewer channels than that."""
    return nn.GroupNorm(min(groups, channels), channels, eps=NORM_EPS)


class ResBlock(nn.Module):
    """x + conv(swish(norm(conv(swish(norm(x)))))); a 1x1 convolution on the way past where the
    widths differ.
    """

    def __init__(self, in_channels: int, out_channels: int, norm_groups: int):
        super().__init__()
        self.norm1 = group_norm(in_channels, norm_groups)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = group_norm(out_channels, norm_groups)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        else:
            self.nin_shortcut = nn.Identity()  # no parameters, so no key

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b j h w"]:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return self.nin_shortcut(x) + h


def space_to_depth(x: Float[Tensor, "b c h w"], side: int) -> Float[Tensor, "b i j k"]:
    """Folds squares of side x side positions into channels: (b, side*side*c, h/side, w/side).

    Channels are last in memory, here and in `depth_to_space`: what convolutions are fastest on.
    """
    folded = rearrange(x.movedim(1, -1), "b (h p1) (w p2) c -> b h w (p1 p2 c)", p1=side, p2=side)
    return folded.movedim(-1, 1)


def depth_to_space(x: Float[Tensor, "b i j k"], side: int) -> Float[Tensor, "b c h w"]:
    """The inverse of `space_to_depth`: the place in the square leads the channel axis
    (`pixel_shuffle` has it last).
    """
    unfolded = rearrange(x.movedim(1, -1), "b h w (p1 p2 c) -> b (h p1) (w p2) c", p1=side, p2=side)
    return unfolded.movedim(-1, 1)


class Upsample(nn.Module):
    """Twice the resolution: a convolution to four times the channels, then `depth_to_space`."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 4 * channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 2*h 2*w"]:
        return depth_to_space(self.conv1(x), 2)


class AdaptiveGroupNorm(nn.Module):
    """Normalises the features, then scales and shifts each channel by the statistics of the image's
    code map.

    `gamma` reads the codes' standard deviation over the grid (unbiased), `beta` their mean.
    """

    def __init__(self, channels: int, n_bits: int, norm_groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(min(norm_groups, channels), channels, eps=NORM_EPS, affine=False)
        self.gamma = nn.Linear(n_bits, channels)
        self.beta = nn.Linear(n_bits, channels)

    def forward(
        self, x: Float[Tensor, "b c h w"], codes: Float[Tensor, "b d gh gw"]
    ) -> Float[Tensor, "b c h w"]:
        var, mean = torch.var_mean(codes, dim=(2, 3))  # unbiased, hence at least two cells
        gamma = rearrange(self.gamma((var + NORM_EPS).sqrt()), "b c -> b c 1 1")
        beta = rearrange(self.beta(mean), "b c -> b c 1 1")
        return gamma * self.norm(x) + beta
