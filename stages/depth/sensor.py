"""The annotator `sensor`: AGIBOT's own head depth camera, a stand-in for Video Depth Anything.

It needs no GPU. It reads the 16-bit PNGs beside the video at the clip's frames, and never ground
truth.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float32, Integer

from stages.base import ClipInputs, Inputs, Rejected, Resources
from stages.clip_format import ClipFormat
from stages.depth.stage import DepthAnnotator, DepthEstimate, DepthUnits
from stages.resizing import resize_nearest
from storage.sources.agibot.calibration import read_depth_png
from storage.sources.agibot.tree import depth_frames
from storage.sources.file_ref import FileRef, SourceError

FEW = 3  # missing frames that a rejection names


@dataclass(frozen=True, kw_only=True)
class SensorDepth(DepthAnnotator):
    root: str = field(metadata={"key": False})  # of the data set; the index says what it is
    clip_format: ClipFormat = field(default=ClipFormat(), metadata={"key": False})
    name: str = field(default="sensor", init=False)
    version: int = field(default=1, init=False)

    units: ClassVar[DepthUnits] = "1/m"
    cameras: ClassVar[tuple[str, ...]] = ("head_color",)
    inputs: ClassVar[Inputs] = {"discover": ("depth",), "clip": ("frame_index",)}
    resources: ClassVar[Resources] = Resources(memory_gb=0.5, clips_per_shard=32)

    @property
    def attributes(self) -> dict[str, str]:
        return {
            "stand_in_for": "Video Depth Anything",
            "licence": "that of the data set",
            "made_by": "the robot's own head depth camera, 16-bit millimetres, nearest pixel",
        }

    def start(
        self, device: str
    ) -> Callable[[Sequence[ClipInputs]], Sequence[DepthEstimate | Rejected]]:
        root, size = Path(self.root), (self.clip_format.size, self.clip_format.size)

        @lru_cache(maxsize=2)  # clips of one episode follow each other
        def frames_of(text: str) -> dict[int, FileRef]:
            try:
                return depth_frames(FileRef.parse(text, root))
            except FileNotFoundError as error:
                found, expected = "no such folder", "the episode's depth pictures"
                raise SourceError("missing_depth", text, found, expected) from error

        def estimate(clip: ClipInputs) -> DepthEstimate | Rejected:
            text, frames = str(clip.arrays["depth"]), clip.arrays["frame_index"]
            if not text:
                return Rejected("no_depth", "the episode or this camera has no depth pictures")
            try:
                return sensor_estimate(read_depth(frames_of(text), frames, text), size)
            except SourceError as fault:
                detail = f"{fault.item}: found {fault.found}; expected {fault.expected}"
                return Rejected(fault.reason, detail)

        return lambda clips: [estimate(clip) for clip in clips]


def read_depth(
    files: Mapping[int, FileRef], frames: Integer[np.ndarray, " t"], folder: str
) -> Float32[np.ndarray, "t h w"]:
    """Depth in m at these frames of the video; NaN where the sensor returned nothing.

    Raises SourceError: `missing_depth`, `depth_size` (pictures of different sizes),
    `corrupt_depth`.
    """
    missing = [f for f in frames.tolist() if f not in files]
    if missing:
        found = f"{len(files)} pictures, but none for frames {missing[:FEW]} "
        found += f"({len(missing)} of {len(frames)} missing)"
        expected = "head_depth_<frame>.png for every frame of the clip"
        raise SourceError("missing_depth", folder, found, expected)
    pictures = [read_depth_png(files[frame]) for frame in frames.tolist()]
    sizes = sorted({picture.shape for picture in pictures})
    if len(sizes) > 1:
        raise SourceError("depth_size", folder, f"pictures of {sizes} px", "one size")
    return np.stack(pictures)


def sensor_estimate(depth_m: Float32[np.ndarray, "t h w"], size: tuple[int, int]) -> DepthEstimate:
    """Inverse depth in 1/m at (height, width) `size`. Nothing is averaged across holes (NaN)."""
    picked = resize_nearest(depth_m, size)
    valid: Bool[np.ndarray, "t h w"] = picked > 0  # NaN compares as false
    return DepthEstimate(
        inverse_depth=1 / np.where(valid, picked, np.float32(1)) * valid, valid=valid
    )
