"""Sizes of a MAGVIT-2 tokenizer: two published layouts, and a tiny one for CPUs."""

import math
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Interval


@dataclass(frozen=True, kw_only=True)
class MagvitConfig:
    """Layout of encoder and decoder; the defaults are 1X's, which the RoboScape paper uses.

    The last three fields are for small models; published layouts keep their defaults.
    """

    base_channels: Annotated[int, Interval(ge=1, le=8192)] = 128
    # Width of each level over base_channels, finest first
    channel_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    n_res_blocks: Annotated[int, Interval(ge=1, le=256)] = 2  # per level, and in the middle
    n_bits: Annotated[int, Interval(ge=1, le=30)] = 18  # ids are in [0, 2**n_bits)
    # Code statistics scale and shift the features before each decoder level
    adaptive_decoder: bool = False
    norm_groups: Annotated[int, Ge(1)] = 32
    # Side of the pixel squares folded into channels before the first convolution
    stem_patch: Annotated[int, Interval(ge=1, le=256)] = 1
    n_mid_blocks: Annotated[int, Interval(ge=0, le=256)] | None = None  # None: n_res_blocks

    def __post_init__(self):
        if not self.channel_multipliers or min(self.channel_multipliers) < 1:
            raise ValueError(
                f"channel_multipliers={self.channel_multipliers}: expected one positive factor per "
                "level"
            )
        if self.n_res_blocks < 1 or self.stem_patch < 1 or self.mid_blocks < 0:
            raise ValueError(
                f"n_res_blocks={self.n_res_blocks}, stem_patch={self.stem_patch}, "
                f"n_mid_blocks={self.n_mid_blocks}: expected at least 1, 1 and 0"
            )
        if not 1 <= self.n_bits <= 30:
            raise ValueError(f"n_bits={self.n_bits}: ids are int32, so 1 to 30 bits fit")
        for width in self.widths:
            if width % min(self.norm_groups, width):
                raise ValueError(
                    f"width {width} (base_channels={self.base_channels} x a channel multiplier) "
                    f"does not divide into norm_groups={self.norm_groups}; choose widths that do, "
                    "or fewer groups"
                )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, finest first."""
        return tuple(self.base_channels * multiplier for multiplier in self.channel_multipliers)

    @property
    def mid_blocks(self) -> int:
        return self.n_res_blocks if self.n_mid_blocks is None else self.n_mid_blocks

    @property
    def least_parameters(self) -> int:
        """A lower bound of their number: the 3 x 3 convolutions of the residual blocks alone."""
        block = 2 * 9  # times width squared
        levels = self.n_res_blocks * sum(width**2 for width in self.widths)
        return 2 * block * (levels + self.mid_blocks * self.widths[-1] ** 2)  # encoder and decoder

    @property
    def downscale(self) -> int:
        """Side of a token's cell in pixels."""
        return self.stem_patch * 2 ** (len(self.channel_multipliers) - 1)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Token rows and columns of an image of this size in pixels.

        Raises ValueError unless both sides are multiples of `downscale`.
        """
        if height % self.downscale or width % self.downscale:
            raise ValueError(
                f"image of {height} x {width} px: each side must be a multiple of "
                f"{self.downscale}, the side of a token's cell; resize or crop it first"
            )
        return height // self.downscale, width // self.downscale


def one_x() -> MagvitConfig:
    """1X's `magvit2.ckpt` (Hugging Face, 1x-technologies/worldmodel), which RoboScape uses.

    65.5 M parameters, 16 px cells; encoding and decoding 256 x 256 px costs 322 GFLOP.
    """
    return MagvitConfig()


def tencent() -> MagvitConfig:
    """TencentARC's Open-MAGVIT2 at 256 px (since September 2024): 115 M parameters, 16 px cells."""
    return MagvitConfig(n_res_blocks=4, adaptive_decoder=True)


def tiny(patch: int = 16) -> MagvitConfig:
    """For training on a CPU; `patch` is the side of a token's cell: 8, 16, 32 ... pixels.

    4 x 4 pixels are folded into channels first: the published layouts spend most at full
    resolution. Encoding and decoding 128 x 128 px costs 0.38 (patch 8) or 0.55 GFLOP (patch 16),
    1X's layout 80. Training runs at about 130 or 100 frames/s on one core of a 2.8 GHz Xeon.
    """
    n_levels = round(math.log2(patch / 4)) + 1 if patch >= 8 else 0
    if n_levels < 2 or 4 * 2 ** (n_levels - 1) != patch:
        raise ValueError(f"patch={patch} px: expected a power of two, at least 8")
    multipliers = (1, 2, 4, *[4] * max(0, n_levels - 3))[:n_levels]
    return MagvitConfig(
        base_channels=32,
        channel_multipliers=multipliers,
        n_res_blocks=1,
        n_mid_blocks=1,
        norm_groups=8,
        stem_patch=4,
    )
