"""Sizes of a SpatialTracker: the published network and a small one for CPUs."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval

STRIDE = 4  # pixels of the working picture per cell of the feature planes, fixed by the encoder


@dataclass(frozen=True, kw_only=True)
class SpatialTrackerConfig:
    """Layout and use of the network; the defaults are the published ones.

    Weights do not depend on `window`, `iterations` and working size: `replace(published(),
    window=8)` fits the same file. A cell is 4 x 4 px of the working picture.
    """

    # Frames tracked at once; windows overlap by half
    window: Annotated[int, Interval(ge=2, le=4096)] = 12
    iterations: Annotated[int, Interval(ge=1, le=1000)] = 6  # refinements of every window
    # The predictor resizes any clip to this size
    working_height: Annotated[int, Interval(ge=1, le=8192)] = 384
    working_width: Annotated[int, Interval(ge=1, le=8192)] = 512
    encoder_widths: tuple[int, int, int, int] = (64, 96, 128, 128)
    latent: Annotated[int, Interval(ge=1, le=65_536)] = 128  # channels of planes and point features
    # Channels of a token that code the point's displacement
    motion: Annotated[int, Interval(ge=1, le=65_536)] = 130
    correlation_levels: Annotated[int, Interval(ge=1, le=16)] = 4
    correlation_radius: Annotated[int, Interval(ge=0, le=64)] = 3  # cells: 7 x 7 places per level
    hidden: Annotated[int, Interval(ge=1, le=65_536)] = 384  # width of the update transformer
    heads: Annotated[int, Interval(ge=1, le=1024)] = 8
    # Of time attention, and as many of space attention
    blocks: Annotated[int, Interval(ge=1, le=1024)] = 6
    mlp_ratio: Annotated[int, Interval(ge=1, le=256)] = 4
    # Alternating self and cross attention
    support_layers: Annotated[int, Interval(ge=1, le=1024)] = 6
    support_heads: Annotated[int, Interval(ge=1, le=1024)] = 4
    support_tokens: Annotated[int, Interval(ge=1, le=65_536)] = 100
    # Tokens have their own track mask and visibility; False: see
    # `model.spatial_tracker.model.dealt_flags`
    own_flags: bool = False

    def __post_init__(self):
        for name in (
            "iterations",
            "latent",
            "blocks",
            "support_layers",
            "support_tokens",
            "correlation_levels",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected 1 or more")
        if self.window < 2 or self.window % 2:
            raise ValueError(
                f"window={self.window}: expected an even number of frames, since windows overlap "
                "by half"
            )
        for name in ("heads", "support_heads"):
            if self.hidden % getattr(self, name):
                raise ValueError(
                    f"hidden={self.hidden} is not a multiple of {name}={getattr(self, name)}"
                )
        if self.token % 4:
            raise ValueError(
                f"tokens of {self.token} channels (motion + correlation + latent + 2): the "
                f"position code needs a multiple of 4; change motion={self.motion} or "
                f"latent={self.latent}"
            )
        self.check_size(self.working_height, self.working_width)

    @property
    def correlation(self) -> int:
        """Channels of a token with the point's correlations."""
        return self.correlation_levels * (2 * self.correlation_radius + 1) ** 2

    @property
    def token(self) -> int:
        """Channels of a token: motion, correlation, feature, track mask and visibility."""
        return self.motion + self.correlation + self.latent + 2

    def check_size(self, height: int, width: int) -> None:
        """Raises ValueError unless cells fit the size, at least 2 on the coarsest level."""
        least = STRIDE * 2**self.correlation_levels
        if min(height, width) < least or height % STRIDE or width % STRIDE:
            raise ValueError(
                f"picture of {height} x {width} px: expected multiples of {STRIDE}, at least "
                f"{least} px (for {self.correlation_levels} correlation levels); resize it first"
            )

    def check_length(self, n_frames: int) -> None:
        """Raises ValueError for a clip that is too short for a window."""
        if n_frames <= self.window // 2:
            raise ValueError(
                f"clip of {n_frames} frames: more than half a window of {self.window} is needed; "
                "give longer clips or build the network with a smaller window (its weights fit any)"
            )


def published() -> SpatialTrackerConfig:
    """`spaT_final.pth`: 33.9 M parameters in use; 16 frames and 1060 points cost 23 TFLOP."""
    return SpatialTrackerConfig()


def tiny() -> SpatialTrackerConfig:
    """For training on a CPU on clips of 128 px: 1.8 M parameters.

    16 frames and 100 points (64 and the support grid) cost 46 GFLOP: 0.8 s on one core of a 2.6 GHz
    Xeon; a training step on such a clip with 64 points takes 1.7 s.
    """
    return SpatialTrackerConfig(
        window=8,
        iterations=4,
        working_height=128,
        working_width=128,
        encoder_widths=(16, 24, 32, 32),
        latent=32,
        hidden=128,
        heads=4,
        blocks=3,
        support_layers=2,
        support_heads=4,
        support_tokens=8,
        own_flags=True,
    )
