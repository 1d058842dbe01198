"""The head: four token maps per frame to depth, with four temporal attentions.

Follows arXiv:2501.12375, Sec. 3.1. The frame part is DPT's (Ranftl et al. 2021, arXiv:2103.13413),
from coarse to fine; the motion modules are those of AnimateDiff (Guo et al. 2023,
arXiv:2307.04725). The frames of all clips are one axis n = b * t, except inside a temporal
transformer, where n counts positions. Names are those of the published checkpoints.
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from model.video_depth.config import (
    MAX_FRAMES,
    MOTION_HEADS,
    NORM_GROUPS,
    OUTPUT_WIDTH,
    PATCH,
    VideoDepthConfig,
)

GROUP_NORM_EPS = 1e-6
FEED_FORWARD_RATIO = 4
# Per attention call: CUDA kernels take at most 65535, and a batch at 518 px has more
MAX_SEQUENCES = 2**15
OUTPUT_START = 1.0  # about the output of an untrained network: above 0, where the last ReLU is open


class PositionTable(nn.Module):
    """Adds sines (even channels) and cosines (odd) of the frame number, of 2π to 20,000π frames."""

    pe: Tensor

    def __init__(self, width: int):
        super().__init__()
        frequency = 10_000 ** (-torch.arange(0, width, 2) / width)
        angle = torch.arange(MAX_FRAMES)[:, None] * frequency
        table = torch.stack([angle.sin(), angle.cos()], dim=-1)
        self.register_buffer("pe", rearrange(table, "t i two -> 1 t (i two)"))

    def forward(self, x: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        return x + self.pe[:, : x.shape[1]]


class TemporalAttention(nn.Module):
    """Full attention among the frames of a position; values have the frame number, too."""

    def __init__(self, width: int):
        super().__init__()
        self.pos_encoder = PositionTable(width)
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        x = self.pos_encoder(x)
        q, k, v = (
            rearrange(to(x), "n t (i j) -> n i t j", i=MOTION_HEADS).split(MAX_SEQUENCES)
            for to in (self.to_q, self.to_k, self.to_v)
        )
        parts = [F.scaled_dot_product_attention(*part) for part in zip(q, k, v, strict=True)]
        return self.to_out[0](
            rearrange(torch.cat(parts) if len(parts) > 1 else parts[0], "n i t j -> n t (i j)")
        )


class GatedProjection(nn.Module):
    """GEGLU: half of a linear map times the GELU of the other (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.proj = nn.Linear(width, 2 * hidden)

    def forward(self, x: Float[Tensor, "n t d"]) -> Float[Tensor, "n t i"]:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        hidden = FEED_FORWARD_RATIO * width
        self.net = nn.Sequential(
            GatedProjection(width, hidden), nn.Identity(), nn.Linear(hidden, width)
        )

    def forward(self, x: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        return self.net(x)


class TemporalBlock(nn.Module):
    """Two attentions over time and a feed-forward, each after a norm and added to the stream."""

    def __init__(self, width: int):
        super().__init__()
        self.attention_blocks = nn.ModuleList(TemporalAttention(width) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.ff = FeedForward(width)
        self.ff_norm = nn.LayerNorm(width)

    def forward(self, x: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        for norm, attention in zip(self.norms, self.attention_blocks, strict=True):
            x = x + attention(norm(x))
        return x + self.ff(self.ff_norm(x))


class TemporalTransformer(nn.Module):
    """Attention over the frames of each position; only the norm connects positions."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.GroupNorm(NORM_GROUPS, width, eps=GROUP_NORM_EPS)  # over each frame
        self.proj_in = nn.Linear(width, width)
        self.transformer_blocks = nn.ModuleList([TemporalBlock(width)])
        self.proj_out = nn.Linear(width, width)
        nn.init.zeros_(self.proj_out.weight)  # an untrained module is the identity
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, x: Float[Tensor, "n c h w"], n_frames: int) -> Float[Tensor, "n c h w"]:
        height, width = x.shape[-2:]
        tokens = rearrange(self.norm(x), "(b t) c h w -> (b h w) t c", t=n_frames)
        tokens = self.proj_out(self.transformer_blocks[0](self.proj_in(tokens)))
        return x + rearrange(tokens, "(b h w) t c -> (b t) c h w", h=height, w=width)


class MotionModule(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.temporal_transformer = TemporalTransformer(width)

    def forward(self, x: Float[Tensor, "n c h w"], n_frames: int) -> Float[Tensor, "n c h w"]:
        return self.temporal_transformer(x, n_frames)


class ResidualConvUnit(nn.Module):
    """x + conv(relu(conv(relu(x))))."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1 = conv3x3(width, width)
        self.conv2 = conv3x3(width, width)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class FusionBlock(nn.Module):
    """Adds a finer map to the coarser path, refines the sum and resizes it for the next block."""

    def __init__(self, width: int, *, joins: bool = True):
        super().__init__()
        # The published coarsest block has this unit, but no finer map to use it on
        self.resConfUnit1 = ResidualConvUnit(width).requires_grad_(joins)
        self.resConfUnit2 = ResidualConvUnit(width)
        self.out_conv = nn.Conv2d(width, width, 1)

    def forward(
        self,
        x: Float[Tensor, "n c h w"],
        finer: Float[Tensor, "n c h w"] | None,
        size: Sequence[int],
    ) -> Float[Tensor, "n c h2 w2"]:
        if finer is not None:
            x = x + self.resConfUnit1(finer)
        return self.out_conv(resize(self.resConfUnit2(x), size))


class Scratch(nn.Module):
    """The layers without time, which run on the resized maps of the taps."""

    def __init__(self, config: VideoDepthConfig):
        super().__init__()
        width = config.head_width
        self.layer1_rn, self.layer2_rn, self.layer3_rn, self.layer4_rn = (
            conv3x3(tap_width, width, bias=False) for tap_width in config.tap_widths
        )
        self.refinenet1 = FusionBlock(width)
        self.refinenet2 = FusionBlock(width)
        self.refinenet3 = FusionBlock(width)
        self.refinenet4 = FusionBlock(width, joins=False)
        self.output_conv1 = conv3x3(width, width // 2)
        self.output_conv2 = nn.Sequential(
            conv3x3(width // 2, OUTPUT_WIDTH),
            nn.ReLU(inplace=True),
            nn.Conv2d(OUTPUT_WIDTH, 1, 1),
            nn.ReLU(inplace=True),
        )
        nn.init.constant_(self.output_conv2.get_parameter("2.bias"), OUTPUT_START)


class TemporalHead(nn.Module):
    """Token maps of four encoder blocks to a depth map per frame, at the input's size."""

    def __init__(self, config: VideoDepthConfig):
        super().__init__()
        first, second, _, fourth = config.tap_widths
        self.projects = nn.ModuleList(
            nn.Conv2d(config.width, width, 1) for width in config.tap_widths
        )
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(first, first, 4, stride=4),
                nn.ConvTranspose2d(second, second, 2, stride=2),
                nn.Identity(),
                nn.Conv2d(fourth, fourth, 3, stride=2, padding=1),
            ]
        )
        self.motion_modules = nn.ModuleList(MotionModule(width) for width in config.motion_widths)
        self.scratch = Scratch(config)

    def forward(
        self,
        taps: Sequence[Float[Tensor, "n s d"]],
        grid: tuple[int, int],
        n_frames: int,
        frames_per_step: int,
        *,
        signed: bool = False,
    ) -> Float[Tensor, "n h w"]:
        """Depth of b * `n_frames` frames whose patches form `grid`; `signed`: before the last ReLU.

        After the last motion module frames are independent: that part, at high resolution, runs on
        `frames_per_step` frames at a time, which bounds its memory and changes no number.
        """
        coarse = self.fuse_over_time(taps, grid, n_frames)
        steps = zip(*(x.split(frames_per_step) for x in (taps[0], taps[1], coarse)), strict=True)
        return torch.cat(
            [self.refine(first, second, path, grid, signed) for first, second, path in steps]
        )

    def tap_map(
        self, i: int, tokens: Float[Tensor, "n s d"], grid: tuple[int, int]
    ) -> Float[Tensor, "n c h w"]:
        """Tap i as a map: with i = 0 ... 3, 4, 2, 1 and 1/2 times as fine as the patches."""
        x = rearrange(tokens, "n (gh gw) d -> n d gh gw", gh=grid[0])
        return self.resize_layers[i](self.projects[i](x))

    def fuse_over_time(
        self, taps: Sequence[Float[Tensor, "n s d"]], grid: tuple[int, int], n_frames: int
    ) -> Float[Tensor, "n c h w"]:
        """The two coarser taps through all motion modules, at twice the resolution of patches."""
        scratch, motion = self.scratch, self.motion_modules
        third = scratch.layer3_rn(motion[0](self.tap_map(2, taps[2], grid), n_frames))
        fourth = scratch.layer4_rn(motion[1](self.tap_map(3, taps[3], grid), n_frames))
        x = motion[2](scratch.refinenet4(fourth, None, grid), n_frames)
        return motion[3](scratch.refinenet3(x, third, (2 * grid[0], 2 * grid[1])), n_frames)

    def refine(
        self,
        first: Float[Tensor, "n s d"],
        second: Float[Tensor, "n s d"],
        x: Float[Tensor, "n c h2 w2"],
        grid: tuple[int, int],
        signed: bool,
    ) -> Float[Tensor, "n h w"]:
        """Depth from the fused map and the two finer taps, at the input's size."""
        scratch, (rows, columns) = self.scratch, grid
        # The finer maps have no names here: they would stay alive, and cost memory
        x = scratch.refinenet2(
            x, scratch.layer2_rn(self.tap_map(1, second, grid)), (4 * rows, 4 * columns)
        )
        x = scratch.refinenet1(
            x, scratch.layer1_rn(self.tap_map(0, first, grid)), (8 * rows, 8 * columns)
        )
        x = scratch.output_conv1(x)
        x = resize(x, (PATCH * rows, PATCH * columns))
        output = scratch.output_conv2[:-1] if signed else scratch.output_conv2
        # The published network runs the last two convolutions outside CUDA's mixed precision
        if x.is_cuda:
            with torch.autocast("cuda", enabled=False):
                return output(x.float())[:, 0]
        return output(x)[:, 0]


def conv3x3(in_channels: int, out_channels: int, *, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=bias)


def resize(x: Float[Tensor, "n c h w"], size: Sequence[int]) -> Float[Tensor, "n c h2 w2"]:
    """x at another size: bilinear, corner pixels onto corner pixels."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)
