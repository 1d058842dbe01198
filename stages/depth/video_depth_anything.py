"""The paper's depth annotator: Video Depth Anything (arXiv:2501.12375)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Gt, Interval
from jaxtyping import Float32

from model.video_depth.config import MAX_FRAMES, PATCH, VideoDepthConfig
from model.video_depth.cost import Precision, flops_per_frame, peak_bytes
from model.video_depth.model import VideoDepth, compile_blocks
from model.video_depth.published import load_published
from model.video_depth.video import INPUT_SIZE, STEP, Windows, estimate_depth, network_size
from stages.annotator import OWN, NetworkAnnotator, check_choice, check_frames, of_one_length
from stages.base import ClipInputs, Inputs, Rejected, Resources
from stages.clip_format import AnnotationRate, ClipFormat
from stages.depth.stage import DepthAnnotator, DepthEstimate, DepthUnits
from stages.networks import load_own
from storage.weights.ref import WeightsRef

NEAREST_M = 0.05  # metric depths below count as this: their inverse must stay finite


@dataclass(frozen=True, kw_only=True)
class VideoDepthAnything(NetworkAnnotator, DepthAnnotator):
    """Inverse depth of whole clips at once.

    windows: `official` pads a clip of 16 frames to 32, which costs twice as much and gives other
    numbers than `direct`, one forward pass of the clip as it is; the store names the choice. A
    relative network gives inverse depth up to scale and shift. A metric one gives metres, and their
    inverse is stored.

    Raises ValueError for settings with which no clip could be made.
    """

    weights: WeightsRef
    model: VideoDepthConfig
    # Px, shorter side of the network's input
    input_size: Annotated[int, Interval(ge=14, le=4096)] = INPUT_SIZE
    windows: Windows = "official"
    precision: Precision = "float32"
    root: str | None = field(default=None, metadata={"key": False})
    annotation_rate_hz: AnnotationRate = field(default=None, metadata={"added": True})
    clip_format: ClipFormat = field(default=ClipFormat(), metadata={"key": ("n_frames",)})
    min_contrast: Annotated[float, Ge(0)] = 2.0  # see `check_frames`
    # torch.compile the encoder's blocks
    compile: bool = field(default=False, metadata={"key": False})
    clips_per_call: Annotated[int, Ge(1)] = field(default=1, metadata={"key": False})
    gpus: Annotated[float, Ge(0)] = field(default=0.0, metadata={"key": False})
    cpus: Annotated[float, Gt(0)] = field(default=1.0, metadata={"key": False})
    version: int = field(default=1, init=False)

    inputs: ClassVar[Inputs] = {"clip": ("rgb",)}

    def __post_init__(self) -> None:
        who = type(self).__name__
        check_choice(who, "windows", self.windows, Windows)
        check_choice(who, "precision", self.precision, Precision)
        self.check_share()
        self.check_rate()
        if self.input_size < PATCH or self.input_size % PATCH:
            above = max(1, -(-self.input_size // PATCH)) * PATCH
            raise ValueError(
                f"{who}: input_size={self.input_size}, expected a multiple of {PATCH}, "
                f"the side of a patch, such as {above}"
            )
        n_frames = self.n_frames
        if self.windows == "direct" and n_frames > MAX_FRAMES:
            raise ValueError(
                f"{who}: {n_frames} frames a clip with windows=direct, expected at most "
                f"{MAX_FRAMES}, the length of one forward pass: take windows=official"
            )

    @property
    def units(self) -> DepthUnits:
        return "1/m" if self.model.metric else "relative"

    @property
    def attributes(self) -> dict[str, str]:
        height, width = self.input_shape
        run = f"{self.windows} windows, {height}x{width} px, {self.precision}, "
        run += f"{self.n_frames} frames a clip"
        alignment = "one window a clip"
        if self.windows == "official" and self.n_frames > STEP:
            alignment = "windows are aligned"
            if self.model.metric:
                alignment = "windows are faded into each other, not aligned"
        memory, gflops = self.peak_bytes / 1e9, self.gflops_per_clip
        return {
            "licence": self.weights.licence or "not known",
            "made_by": f"Video Depth Anything, {run}",
            "network_output": self.model.units,
            "alignment": alignment,
            "expected_cost": f"{memory:.1f} GB at the peak, {gflops:.0f} GFLOP a clip",
        }

    @property
    def input_shape(self) -> tuple[int, int]:
        return network_size(self.clip_format.size, self.clip_format.size, self.input_size)

    @property
    def n_frames(self) -> int:
        """Of a clip's span, at the rate of annotation."""
        return self.frames_seen(self.clip_format)

    @property
    def frames_run(self) -> int:
        """Frames of one forward pass."""
        return MAX_FRAMES if self.windows == "official" else self.n_frames

    @cached_property
    def peak_bytes(self) -> int:
        """Memory that one call will need, as predicted."""
        return peak_bytes(
            self.model,
            size=self.input_shape,
            n_clips=self.clips_per_call,
            n_frames=self.frames_run,
            precision=self.precision,
        )

    @cached_property
    def gflops_per_clip(self) -> float:
        per_frame = flops_per_frame(self.model, size=self.input_shape, n_frames=self.frames_run)
        n_windows = 1 if self.windows == "direct" else -(-self.n_frames // STEP)
        return n_windows * self.frames_run * per_frame / 1e9

    @property
    def resources(self) -> Resources:
        return self.network_resources(self.peak_bytes)

    def start(
        self, device: str
    ) -> Callable[[Sequence[ClipInputs]], Sequence[DepthEstimate | Rejected]]:
        network = load_video_depth(self.weights.resolve(), self.model).to(torch.device(device))
        if self.compile:
            compile_blocks(network)
        expected = self.n_frames if self.annotation_rate_hz is None else None

        def estimate(clips: Sequence[ClipInputs]) -> list[DepthEstimate | Rejected]:
            made: dict[int, DepthEstimate | Rejected] = {}
            good: list[ClipInputs] = []
            for clip in clips:
                try:
                    check_frames(clip, expected, self.min_contrast, "depth")
                    good.append(clip)
                except Rejected as rejected:
                    made[clip.row] = rejected
            for alike in of_one_length(good):
                depths = estimate_depth(
                    network,
                    np.stack([clip.arrays["rgb"] for clip in alike]),
                    input_size=self.input_size,
                    windows=self.windows,
                    precision=self.precision,
                )
                made |= {
                    clip.row: network_estimate(d, self.model.metric)
                    for clip, d in zip(alike, depths, strict=True)
                }
            return [made[clip.row] for clip in clips]

        return estimate


def load_video_depth(path: Path, config: VideoDepthConfig) -> VideoDepth:
    """The network of a published pickle or our own file. Raises ValueError if it is another one."""
    if path.suffix == OWN:
        return load_own(path, VideoDepth, config, "depth")
    return load_published(path, config)


def network_estimate(depth: Float32[np.ndarray, "t h w"], metric: bool) -> DepthEstimate:
    """The network's output as inverse depth; values that are not finite become NaN.

    NaN rejects the clip later. So does infinite metric depth, whose inverse, 0, would seem known.
    """
    inverse = 1 / np.maximum(depth, np.float32(NEAREST_M)) if metric else depth
    known = np.where(np.isfinite(depth), inverse, np.float32(np.nan))
    return DepthEstimate(inverse_depth=known, valid=np.ones(depth.shape, bool))
