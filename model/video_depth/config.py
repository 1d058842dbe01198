"""Sizes of a Video Depth Anything network: three published ones and a small one for CPUs."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Interval

PATCH = 14  # px, side of the square that becomes one token
MAX_FRAMES = 32  # of a forward pass: the length of the temporal position tables
N_TAPS = 4  # encoder blocks whose output the head reads
MOTION_HEADS = 8  # of each temporal attention
NORM_GROUPS = 32  # of the GroupNorm of each motion module
OUTPUT_WIDTH = 32  # channels between the last two convolutions


@dataclass(frozen=True, kw_only=True)
class VideoDepthConfig:
    """Layout of encoder and head; the defaults are the published `vits`.

    Relative and metric files of a size have the same layout; `metric` is the output's meaning.
    """

    width: Annotated[int, Interval(ge=1, le=65_536)] = 384  # of the encoder's tokens
    n_blocks: Annotated[int, Interval(ge=1, le=1024)] = 12
    n_heads: Annotated[int, Interval(ge=1, le=1024)] = 6
    taps: tuple[int, ...] = (2, 5, 8, 11)  # the blocks that the head reads, counted from 0
    tap_widths: tuple[int, ...] = (48, 96, 192, 384)  # channels of each tap's map in the head
    head_width: Annotated[int, Ge(1)] = 64  # channels of the fusion blocks
    # Side of the learned position table, in patches: 518 px in the published files
    position_grid: Annotated[int, Interval(ge=1, le=4096)] = 37
    metric: bool = False

    def __post_init__(self):
        if len(self.taps) != N_TAPS or len(self.tap_widths) != N_TAPS:
            raise ValueError(
                f"taps={self.taps} and tap_widths={self.tap_widths}: expected {N_TAPS} of each"
            )
        last = self.n_blocks - 1
        ascending = list(self.taps) == sorted(set(self.taps))
        if not ascending or self.taps[0] < 0 or self.taps[-1] != last:
            raise ValueError(
                f"taps={self.taps} must ascend and end with the last of n_blocks={self.n_blocks} "
                f"blocks, {last}: later ones would be computed for nothing"
            )
        if self.width % self.n_heads:
            raise ValueError(f"width={self.width} is not a multiple of n_heads={self.n_heads}")
        if self.position_grid < 1:
            raise ValueError(f"position_grid={self.position_grid}: expected at least 1 patch")
        for width in self.motion_widths:
            if width % NORM_GROUPS:
                raise ValueError(
                    f"width {width} of a motion module (tap_widths[2], tap_widths[3] and "
                    f"head_width) is not a multiple of {NORM_GROUPS}, the groups of its GroupNorm"
                )

    @property
    def motion_widths(self) -> tuple[int, int, int, int]:
        """Channels of the motion modules: on taps 3 and 4, and after the coarsest two fusions."""
        return self.tap_widths[2], self.tap_widths[3], self.head_width, self.head_width

    @property
    def units(self) -> str:
        """Units of the output; inverse depth (larger is nearer) is up to scale and shift."""
        return "metres" if self.metric else "relative inverse depth"

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches of an input of this size in pixels.

        Raises ValueError unless both sides are multiples of 14.
        """
        if height % PATCH or width % PATCH or not height or not width:
            raise ValueError(
                f"frames of {height} x {width} px: each side must be a multiple of {PATCH}, the "
                "side of a patch; `model.video_depth.video.network_size` gives one that fits"
            )
        return height // PATCH, width // PATCH


def vits(*, metric: bool = False) -> VideoDepthConfig:
    """Small: 29.0 M parameters; weights under Apache-2.0, for any use."""
    return VideoDepthConfig(metric=metric)


def vitb(*, metric: bool = False) -> VideoDepthConfig:
    """Base: 114.4 M parameters; weights under CC-BY-NC-4.0."""
    return VideoDepthConfig(
        width=768, n_heads=12, tap_widths=(96, 192, 384, 768), head_width=128, metric=metric
    )


def vitl(*, metric: bool = False) -> VideoDepthConfig:
    """Large: 384.4 M parameters; weights under CC-BY-NC-4.0."""
    return VideoDepthConfig(
        width=1024,
        n_blocks=24,
        n_heads=16,
        taps=(4, 11, 17, 23),
        tap_widths=(256, 512, 1024, 1024),
        head_width=256,
        metric=metric,
    )


def tiny(*, metric: bool = False) -> VideoDepthConfig:
    """For training on a CPU, on frames of about 140 px (10 x 10 patches): 3.5 M parameters.

    A frame of 140 x 140 px costs 1.14 GFLOP, with `vits` 6.55. On one core of a Xeon (AVX-512) a
    clip of 16 such frames takes 0.2 s, a training step on it 0.8 s. From scratch, `metric` depth is
    easiest to learn.
    """
    return VideoDepthConfig(
        width=192,
        n_blocks=6,
        n_heads=3,
        taps=(1, 2, 3, 5),
        tap_widths=(32, 32, 64, 96),
        head_width=32,
        position_grid=10,
        metric=metric,
    )
