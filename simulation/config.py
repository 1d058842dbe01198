"""Settings of a sample, and the digest that identifies it."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Interval

from storage.stores.key import parameters

# Of the simulation; raised when a config gives other episodes. 2: videos without macroblock tree
VERSION = 2


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """By default AGIBOT's own rate and size; `demo_sample()` is smaller."""

    n_episodes: Annotated[int, Interval(ge=0, le=10_000_000)] = 30
    seed: Annotated[int, Interval(ge=0, le=2**31 - 1)] = 0
    rate_hz: Annotated[float, Interval(gt=0, le=1000)] = 30.0  # of video, states and actions
    duration_s: Annotated[float, Interval(gt=0, le=3600)] = 12.0
    width: Annotated[int, Interval(ge=32, le=8192)] = 640
    height: Annotated[int, Interval(ge=32, le=8192)] = 480
    # Of episodes with random actions instead of skills
    share_random: Annotated[float, Interval(ge=0, le=1)] = 0.25
    faults: bool = False  # add one deliberately faulty episode of each kind, for testing readers
    ground_truth: bool = True
    # How much the camera sways (`camera_motion.py`): 0 is a fixed camera, 1 a typical head
    camera_motion: Annotated[float, Interval(ge=0, le=5)] = field(
        default=0.0, metadata={"added": True}
    )

    def __post_init__(self):
        if self.n_episodes < 0 or self.seed < 0:
            raise ValueError(
                f"n_episodes={self.n_episodes} and seed={self.seed} must not be negative"
            )
        if self.rate_hz <= 0 or self.duration_s * self.rate_hz < 2:
            raise ValueError(
                f"duration_s={self.duration_s} at rate_hz={self.rate_hz} gives fewer than 2 frames"
            )
        if self.width % 2 or self.height % 2 or min(self.width, self.height) < 32:
            raise ValueError(
                f"{self.width}x{self.height}: H.264 yuv420p needs even sides; use 32 pixels or more"
            )
        if not 0 <= self.share_random <= 1:
            raise ValueError(f"share_random={self.share_random} is not in [0, 1]")
        if not 0 <= self.camera_motion <= 5:
            raise ValueError(f"camera_motion={self.camera_motion} is not in [0, 5]")

    @property
    def n_frames(self) -> int:
        return round(self.duration_s * self.rate_hz)

    @property
    def episode_bytes(self) -> int:
        """Upper estimate of an episode on disk: a pixel of video, depth and truth takes 0.6 bytes
        and, as measured, up to 0.9 where frames are small; each depth picture is a file.
        """
        per_frame = round(0.9 * self.width * self.height) + 3 * 4096
        return self.n_frames * per_frame + 20 * 4096


def demo_sample() -> SampleConfig:
    """The sample of `make demo`: about two minutes on two cores."""
    return SampleConfig(n_episodes=30, rate_hz=10.0, duration_s=12.0, width=256, height=192)


def digest(config: SampleConfig) -> str:
    """SHA-256 of the config's fields and the simulation's version.

    A field that came later counts only where it is not at its default.
    """
    recipe = json.dumps({"version": VERSION, **parameters(config)}, sort_keys=True)
    return hashlib.sha256(recipe.encode()).hexdigest()
