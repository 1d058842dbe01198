"""Sizes of a Video Depth Anything network: the three published ones and a small one for CPUs."""

from dataclasses import dataclass

PATCH = 14  # px, side of the square that becomes one token
MAX_FRAMES = 32  # of one forward: the length of the temporal position tables
N_TAPS = 4  # encoder blocks whose output the head reads
MOTION_HEADS = 8  # of each temporal attention
NORM_GROUPS = 32  # of the GroupNorm of each motion module
OUTPUT_WIDTH = 32  # channels between the last two convolutions


@dataclass(frozen=True, kw_only=True)
class VideoDepthConfig:
    """Layout of encoder and head; the defaults are the published `vits`.

    Relative and metric files of one size have the same layout: `metric` says what the numbers mean.
    """

    width: int = 384  # of the encoder's tokens
    n_blocks: int = 12
    n_heads: int = 6
    taps: tuple[int, ...] = (2, 5, 8, 11)  # the blocks that the head reads, counted from 0
    tap_widths: tuple[int, ...] = (48, 96, 192, 384)  # channels of each tap's map in the head
    head_width: int = 64  # channels of the fusion blocks
    # Side of the learned position table, in patches: 518 px in the published files
    position_grid: int = 37
    metric: bool = False

    def __post_init__(self):
        if len(self.taps) != N_TAPS or len(self.tap_widths) != N_TAPS:
            raise ValueError(
                f"taps={self.taps} and tap_widths={self.tap_widths}: expected {N_TAPS} of each"
            )
        if (
            list(self.taps) != sorted(set(self.taps))
            or self.taps[0] < 0
            or self.taps[-1] != self.n_blocks - 1
        ):
            raise ValueError(
                f"taps={self.taps} must ascend and end with the last of n_blocks={self.n_blocks} blocks, "
                f"{self.n_blocks - 1}: blocks after it would be computed for nothing"
            )
        if self.width % self.n_heads:
            raise ValueError(f"width={self.width} is not a multiple of n_heads={self.n_heads}")
        if self.position_grid < 1:
            raise ValueError(f"position_grid={self.position_grid}: expected at least 1 patch")
        for width in self.motion_widths:
            if width % NORM_GROUPS:
                raise ValueError(
                    f"width {width} of a motion module (tap_widths[2], tap_widths[3] and head_width) is not a "
                    f"multiple of {NORM_GROUPS}, the groups of its GroupNorm"
                )

    @property
    def motion_widths(self) -> tuple[int, int, int, int]:
        """Channels of the motion modules: on taps 3 and 4, and after the two coarsest fusion
        blocks.
        """
        return self.tap_widths[2], self.tap_widths[3], self.head_width, self.head_width

    @property
    def units(self) -> str:
        """Of the output: `relative inverse depth` (larger is nearer, up to scale and shift) or
        `metres` of depth.
        """
        return "metres" if self.metric else "relative inverse depth"

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches of an input of this many pixels; ValueError unless both
        divide by 14.
        """
        if height % PATCH or width % PATCH or not height or not width:
            raise ValueError(
                f"frames of {height} x {width} px: each side must be a multiple of {PATCH}, the side of a patch; "
                "`model.video_depth.video.network_size` gives one that fits"
            )
        return height // PATCH, width // PATCH


def vits(*, metric: bool = False) -> VideoDepthConfig:
    """Small: 29.0 M parameters. The only published size whose weights are free for any use
    (Apache-2.0).
    """
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
    """A network of the same kind that trains on a CPU, for frames of about 140 px (10 x 10
    patches): 3.5 M parameters.

    1.14 GFLOP per frame at 140 x 140 px, against 6.55 of `vits`. On one core of a Xeon (AVX-512) a
    clip of 16 such frames takes 0.2 s, and a training step on it 0.8 s. From scratch, `metric`
    depth is learned most easily.
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
