"""Frames to feature maps at a quarter of their size, by a residual network as in RAFT and PIPs.

Entry names are those of the published file (`fnet.*`). Instance norms have no parameters and run
over one frame, so a frame's features do not depend on others.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from model.spatial_tracker.config import STRIDE, SpatialTrackerConfig


class ResidualBlock(nn.Module):
    """relu(shortcut(x) + relu(norm(conv(relu(norm(conv(x))))))); a strided shortcut is 1x1."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if stride != 1:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride),
                nn.InstanceNorm2d(out_channels),
            )
        else:
            self.downsample = nn.Identity()

    def forward(self, x: Float[Tensor, "n i h w"]) -> Float[Tensor, "n j h2 w2"]:
        h = F.relu(F.instance_norm(self.conv1(x)))
        h = F.relu(F.instance_norm(self.conv2(h)))
        return F.relu(self.downsample(x) + h)


class FrameEncoder(nn.Module):
    """A stem and four stages at 1/2 to 1/16, which are resized to 1/4, concatenated and mixed."""

    def __init__(self, config: SpatialTrackerConfig):
        super().__init__()
        first, second, third, fourth = config.encoder_widths
        self.conv1 = nn.Conv2d(3, first, 7, stride=2, padding=3)
        self.layer1 = _stage(first, first, 1)
        self.layer2 = _stage(first, second, 2)
        self.layer3 = _stage(second, third, 2)
        self.layer4 = _stage(third, fourth, 2)
        self.conv2 = nn.Conv2d(sum(config.encoder_widths), 2 * config.latent, 3, padding=1)
        self.conv3 = nn.Conv2d(2 * config.latent, config.latent, 1)

    def forward(self, frames: Float[Tensor, "b t 3 h w"]) -> Float[Tensor, "b t c gh gw"]:
        """Features of frames with values in 0..255."""
        h = rearrange(2 * (frames / 255.0) - 1.0, "b t c h w -> (b t) c h w")
        size = (h.shape[-2] // STRIDE, h.shape[-1] // STRIDE)
        h = F.relu(F.instance_norm(self.conv1(h)))
        stages = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            h = stage(h)
            stages.append(F.interpolate(h, size, mode="bilinear", align_corners=True))
        mixed = F.relu(F.instance_norm(self.conv2(torch.cat(stages, dim=1))))
        return rearrange(self.conv3(mixed), "(b t) c h w -> b t c h w", b=len(frames))


def _stage(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        ResidualBlock(in_channels, out_channels, stride),
        ResidualBlock(out_channels, out_channels, 1),
    )
