"""The annotator `sensor`: AGIBOT's own head depth camera, a stand-in for Video Depth Anything.

It needs no GPU. It reads the 16-bit PNGs beside the video at the clip's frames, and never ground
truth.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Gt
from jaxtyping import Bool, Float32, Integer

from stages.base import ClipInputs, Inputs, Rejected, Resources
from stages.clip_format import ClipFormat
from stages.depth.stage import DepthAnnotator, DepthEstimate, DepthUnits
from stages.resizing import resize_nearest
from storage.sources.agibot.calibration import read_depth_png
from storage.sources.agibot.proprio import read_proprio_header
from storage.sources.agibot.tree import depth_frames
from storage.sources.file_ref import FileRef, SourceError, faults_as

FEW = 3  # missing frames that a rejection names
FINE = 8  # different readings; as many that are all multiples of COARSE were multiplied
COARSE = 16


@dataclass(frozen=True, kw_only=True)
class SensorDepth(DepthAnnotator):
    """Pictures of 16-bit millimetres. They do not say their unit, so a clip whose depths are not
    those of a robot at its table is rejected (`implausible_depth`).

    min_median_m, max_median_m: of a clip's depths. A head camera that looks down sees the floor at
    2.7 m at most; tenths of a millimetre, read as millimetres, are ten times as far.
    """

    root: str = field(metadata={"key": False})  # of the data set; the index says what it is
    clip_format: ClipFormat = field(default=ClipFormat(), metadata={"key": False})
    name: str = field(default="sensor", init=False)
    version: int = field(default=1, init=False)
    min_median_m: Annotated[float, Ge(0)] = field(default=0.1, metadata={"added": True})
    max_median_m: Annotated[float, Gt(0)] = field(default=6.0, metadata={"added": True})

    units: ClassVar[DepthUnits] = "1/m"
    cameras: ClassVar[tuple[str, ...]] = ("head_color",)
    inputs: ClassVar[Inputs] = {"discover": ("depth", "proprio"), "clip": ("frame_index",)}
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
        def frames_of(text: str, proprio: str) -> dict[int, FileRef]:
            expected = "the episode's depth pictures"
            with faults_as("missing_depth", text, expected):
                folder = FileRef.parse(text, root)
                if not folder.path.exists():
                    raise SourceError("missing_depth", text, "no such folder", expected)
                files = depth_frames(folder)
                if not files or 0 in files:
                    return files
                return from_zero(files, n_rows(FileRef.parse(proprio, root)), text)

        def estimate(clip: ClipInputs) -> DepthEstimate | Rejected:
            text, frames = str(clip.arrays["depth"]), clip.arrays["frame_index"]
            proprio = str(clip.arrays["proprio"])
            if not text:
                return Rejected("no_depth", "the episode or this camera has no depth pictures")
            try:
                depth = read_depth(frames_of(text, proprio), frames, text)
                check_metres(depth, self.min_median_m, self.max_median_m, text)
                return sensor_estimate(depth, size)
            except SourceError as fault:
                detail = f"{fault.item}: found {fault.found}; expected {fault.expected}"
                return Rejected(fault.reason, detail)

        return lambda clips: [estimate(clip) for clip in clips]


def n_rows(proprio: FileRef) -> int:
    return len(read_proprio_header(proprio).timestamps_ns)


def from_zero(files: Mapping[int, FileRef], n_rows: int, folder: str) -> dict[int, FileRef]:
    """Pictures whose numbers begin above 0, by the frame that they belong to.

    If the last one has the number of rows, they are numbered from 1. Otherwise it cannot be told
    whether the first picture is missing. Raises SourceError (`depth_numbers`).
    """
    if max(files) == n_rows:
        return {number - 1: file for number, file in files.items()}
    found = f"{len(files)} pictures, {min(files)} to {max(files)}, for {n_rows} rows"
    expected = f"numbers from 0, or from 1 to {n_rows}"
    raise SourceError("depth_numbers", folder, found, expected)


def check_metres(
    depth_m: Float32[np.ndarray, "t h w"], least: float, most: float, folder: str
) -> None:
    """Raises SourceError (`implausible_depth`) for pictures in another unit than millimetres."""
    known = depth_m[np.isfinite(depth_m)]
    if not known.size:
        return  # the stage rejects it for its holes
    median = float(np.median(known))
    if not least <= median <= most:
        found = f"a median depth of {median:.4g} m, if the pictures hold millimetres"
        expected = f"{least:g} to {most:g} m (parameters min_median_m, max_median_m)"
        raise SourceError("implausible_depth", folder, found, expected)
    readings = np.unique(np.round(known * 1000).astype("int64"))
    if len(readings) >= FINE and not (readings % COARSE).any():
        found = f"{len(readings)} different readings, all multiples of {np.gcd.reduce(readings)}"
        raise SourceError("implausible_depth", folder, found, "millimetres, not scaled up")


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
