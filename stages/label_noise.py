"""Labels that are spoiled on purpose, for studies of how far an annotator's errors reach.

Off by default. What was added is an attribute of the store of labels; the pages of label quality,
training and evaluation name it. The noise of a clip follows from its id and its shape, so it is the
same in every run, and another amount of it is the same noise scaled.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge
from jaxtyping import Float32

SPOILED = "spoiled_on_purpose"  # the attribute
SIDE = 256.0  # px: sizes of errors of tracks are for frames of this side


@dataclass(frozen=True, kw_only=True)
class DepthNoise:
    """noise: standard deviation of each pixel's error, as a share of its inverse depth.

    tilt: what the right edge has more, and the left edge less, as a share: an error that one scale
    and shift a clip do not mend.
    """

    noise: Annotated[float, Ge(0)] = 0.0
    tilt: Annotated[float, Ge(0)] = 0.0

    @property
    def attributes(self) -> Mapping[str, str]:
        return {SPOILED: f"depth: noise {self.noise:g}, tilt {self.tilt:g} of the inverse depth"}

    def spoil(
        self, inverse_depth: Float32[np.ndarray, "t h w"], clip_id: str
    ) -> Float32[np.ndarray, "t h w"]:
        width = inverse_depth.shape[2]
        across = 2 * (np.arange(width, dtype=np.float32) + 0.5) / width - 1
        factor = 1 + self.tilt * across
        errors = drawn(clip_id, "depth").standard_normal(inverse_depth.shape, np.float32)
        spoiled = inverse_depth * factor * (1 + self.noise * errors)
        return np.maximum(spoiled, 0).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class TrackNoise:
    """In px of frames of 256 x 256.

    noise: standard deviation of each position's error, frame 0 excepted. drift: by which every
    point of a clip moves on from frame to frame, in one direction that the clip draws.
    """

    noise: Annotated[float, Ge(0)] = 0.0
    drift: Annotated[float, Ge(0)] = 0.0

    @property
    def attributes(self) -> Mapping[str, str]:
        return {SPOILED: f"tracks: noise {self.noise:g}, drift {self.drift:g} px of 256 a frame"}

    def spoil(
        self, tracks: Float32[np.ndarray, "t p 2"], side: int, clip_id: str
    ) -> Float32[np.ndarray, "t p 2"]:
        """side: of the frames that the positions are in."""
        random, scale = drawn(clip_id, "tracks"), side / SIDE
        angle = random.uniform(0, 2 * np.pi)
        steps = np.arange(len(tracks), dtype=np.float32)[:, None, None]
        drift = self.drift * steps * np.array([np.cos(angle), np.sin(angle)], np.float32)
        errors = self.noise * random.standard_normal(tracks.shape, np.float32)
        errors[0] = 0
        return (tracks + scale * (drift + errors)).astype(np.float32)


def drawn(clip_id: str, what: str) -> np.random.Generator:
    digest = hashlib.blake2b(f"{what} {clip_id}".encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))
