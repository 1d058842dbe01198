"""Building blocks of encoder and decoder, with the module names of the published checkpoints."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

NORM_EPS = 1e-6  # of both published layouts


def group_norm(channels: int, groups: int) -> nn.GroupNorm:
    """GroupNorm in `groups` groups, or one group per channel if there are fewer channels."""
    return nn.GroupNorm(min(groups, channels), channels, eps=NORM_EPS)


class ResBlock(nn.Module):
    """x + conv(swish(norm(conv(swish(norm(x)))))); the shortcut is 1x1 where widths differ."""

    def __init__(self, in_channels: int, out_channels: int, norm_groups: int):
        super().__init__()
        self.norm1 = group_norm(in_channels, norm_groups)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = group_norm(out_channels, norm_groups)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        else:
            self.nin_shortcut = nn.Identity()  # no parameters, so no checkpoint entry

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b j h w"]:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return self.nin_shortcut(x) + h


def space_to_depth(x: Float[Tensor, "b c h w"], side: int) -> Float[Tensor, "b i j k"]:
    """Folds squares of side x side positions into channels: (b, side*side*c, h/side, w/side).

    Channels are last in memory, here and in `depth_to_space`: convolutions are fastest on that.
    """
    folded = rearrange(x.movedim(1, -1), "b (h p1) (w p2) c -> b h w (p1 p2 c)", p1=side, p2=side)
    return folded.movedim(-1, 1)


def depth_to_space(x: Float[Tensor, "b i j k"], side: int) -> Float[Tensor, "b c h w"]:
    """The inverse of `space_to_depth`, in which the place in the square leads the channel axis.

    (PyTorch's `pixel_shuffle` has it last.)
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
    """Group norm whose scales and shifts depend on the image's codes.

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
