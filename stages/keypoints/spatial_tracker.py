"""The paper's keypoint annotator: SpatialTracker (arXiv:2404.04319), published or own weights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Gt, Interval
from jaxtyping import Bool, Float32, Int64

from model.spatial_tracker.config import SpatialTrackerConfig
from model.spatial_tracker.cost import Cost, predict_cost
from model.spatial_tracker.model import SpatialTracker
from model.spatial_tracker.predictor import Precision, depth_from_inverse, track_points
from model.spatial_tracker.published import load_published
from model.spatial_tracker.triplane import HOLE
from stages.annotation_frames import CLIP_FRAMES
from stages.annotator import OWN, NetworkAnnotator, check_choice, of_one_length
from stages.base import Arrays, ClipInputs, Rejected, Resources
from stages.clip_format import AnnotationRate, ClipFormat
from stages.depth.stage import DepthUnits
from stages.keypoints.stage import FB_ERROR, KeypointAnnotator, Queries, TrackEstimate
from stages.networks import load_own
from storage.sources.video import nearest
from storage.stores.spec import ArraySpec
from storage.weights.ref import WeightsRef

SUPPORT_POINTS = 36  # tracked in addition to the queries


@dataclass(frozen=True, kw_only=True)
class SpatialTracking(NetworkAnnotator, KeypointAnnotator):
    """Tracks first-frame points through pictures and depth.

    depth_units: of the stage `depth`. `1/m` is inverted as it is; `relative` with a floor, a share
    of the clip's largest inverse depth, since its zero is arbitrary. backward_points: so many of
    the points, spread over the grid, are also tracked back from where they were last seen. The
    distance between both ways is the forward-backward error; it costs about that share more.

    Raises ValueError for settings with which no clip could be made.
    """

    weights: WeightsRef
    model: SpatialTrackerConfig
    depth_units: DepthUnits
    inverse_floor: Annotated[float, Interval(gt=0, lt=1)] = 0.05
    visible_above: Annotated[float, Interval(ge=0, le=1)] = 0.9  # probability, as published
    precision: Precision = "float32"  # of attention
    root: str | None = field(default=None, metadata={"key": False})
    annotation_rate_hz: AnnotationRate = field(default=None, metadata={"added": True})
    backward_points: Annotated[int, Ge(0)] = 64  # 0: no forward-backward error
    clip_format: ClipFormat = field(default=ClipFormat(), metadata={"key": False})
    clips_per_call: Annotated[int, Ge(1)] = field(default=1, metadata={"key": False})
    gpus: Annotated[float, Ge(0)] = field(default=0.0, metadata={"key": False})
    cpus: Annotated[float, Gt(0)] = field(default=1.0, metadata={"key": False})
    version: int = field(default=2, init=False)

    def __post_init__(self) -> None:
        who = type(self).__name__
        check_choice(who, "depth_units", self.depth_units, DepthUnits)
        check_choice(who, "precision", self.precision, Precision)
        self.check_share()
        self.check_rate()
        if not 0 < self.inverse_floor < 1:
            raise ValueError(
                f"{who}: inverse_floor={self.inverse_floor:g}, expected a share between 0 and 1"
            )
        if not 0 <= self.visible_above <= 1:
            raise ValueError(
                f"{who}: visible_above={self.visible_above:g}, expected a probability in [0, 1]"
            )
        if self.backward_points < 0:
            raise ValueError(
                f"{who}: backward_points={self.backward_points}, expected 0 (none) or more"
            )
        n_frames = self.n_frames
        try:
            self.model.check_length(n_frames)
        except ValueError as error:
            raise ValueError(
                f"{who}: n_frames={n_frames}, model.window={self.model.window}: {error}"
            ) from error

    @property
    def n_frames(self) -> int:
        """Of a clip's span, at the rate of annotation."""
        return self.frames_seen(self.clip_format)

    def attributes_for(self, n_points: int) -> Mapping[str, str]:
        c, cost = self.model, self.cost(n_points)
        gflops = cost.flops / self.clips_per_call / 1e9
        size = f"{c.working_height}x{c.working_width} px, windows of {c.window} frames"
        steps = f"{c.iterations} iterations, attention in {self.precision}"
        seen = f", {self.n_frames} frames a clip"
        depth = f"inverse depth inverted, floor {self.inverse_floor:g} of the clip's largest"
        if self.depth_units == "1/m":
            depth = "metres"
        if self.annotation_rate_hz is not None:
            depth += "; of the nearest of the clip's own frames"
        memory = f"{cost.peak_bytes / 1e9:.1f} GB at the peak"
        return {
            "licence": self.weights.licence or "not known",
            "made_by": f"SpatialTracker, {size}, {steps}{seen}",
            "depth_given": depth,
            "expected_cost": f"{memory}, {gflops:.0f} GFLOP a clip",
        }

    def cost(self, n_points: int) -> Cost:
        """Predicted for one call: all points forward, then clip by clip some of them backward."""
        n_frames = self.n_frames
        there = predict_cost(self.model, self.clips_per_call, n_frames, n_points + SUPPORT_POINTS)
        n_back = len(self.tracked_back(n_points))
        if not n_back:
            return there
        back = predict_cost(self.model, 1, n_frames, n_back + SUPPORT_POINTS)
        return Cost(
            flops=there.flops + self.clips_per_call * back.flops,
            peak_bytes=max(there.peak_bytes, back.peak_bytes),
        )

    def tracked_back(self, n_points: int) -> np.ndarray:
        """Which points are tracked backward, spread over the grid."""
        return np.unique(np.linspace(0, n_points - 1, self.backward_points).round().astype(int))

    def resources_for(self, n_points: int) -> Resources:
        return self.network_resources(self.cost(n_points).peak_bytes)

    def extra_outputs(self, n_frames: int, n_points: int) -> tuple[ArraySpec, ...]:
        axes, shape = ("t", "p"), (n_frames, n_points)
        unit = "m" if self.depth_units == "1/m" else "of the clip's nearest point"
        back = "distance between the way there and the way back, for each frame since the way back "
        back += "began; NaN where not measured, hidden points among them"
        seen, depth, zstd = (
            "probability that the point is seen",
            "of the point, by the tracker",
            "zstd",
        )
        return (
            ArraySpec("visibility", "float32", axes, shape, "1", seen, zstd),
            ArraySpec("track_depth", "float32", axes, shape, unit, depth, zstd),
            ArraySpec(FB_ERROR, "float32", axes, shape, "px per frame", back, zstd, fill=np.nan),
        )

    def start(
        self, device: str
    ) -> Callable[[Sequence[ClipInputs], Queries], Sequence[TrackEstimate | Rejected]]:
        network = load_spatial_tracker(self.weights.resolve(), self.model).to(torch.device(device))

        def track(clips: Sequence[ClipInputs], queries: Queries) -> list[TrackEstimate | Rejected]:
            made: dict[int, TrackEstimate | Rejected] = {}
            good: list[ClipInputs] = []
            depths: dict[int, np.ndarray] = {}
            for clip in clips:
                try:
                    depth = tracker_depth(clip.arrays, self.depth_units, self.inverse_floor)
                    depths[clip.row] = held(depth, clip.arrays.get(CLIP_FRAMES))
                    good.append(clip)
                except Rejected as rejected:
                    made[clip.row] = rejected
            for alike in of_one_length(good):
                frames = np.stack([clip.arrays["rgb"] for clip in alike])
                depth = np.stack([depths[clip.row] for clip in alike])
                found = self.track(network, frames, depth, queries)
                made |= {clip.row: estimate for clip, estimate in zip(alike, found, strict=True)}
            return [made[clip.row] for clip in clips]

        return track

    def track(
        self,
        network: SpatialTracker,
        frames: np.ndarray,
        depth: Float32[np.ndarray, "b t h w"],
        queries: Queries,
    ) -> list[TrackEstimate]:
        asked = np.concatenate([np.zeros_like(queries[:, :1]), queries], axis=1)
        how = {"visible_above": self.visible_above, "precision": self.precision}
        found = track_points(network, frames, depth, asked, **how)
        estimates = []
        chosen = self.tracked_back(len(queries))
        for i in range(len(frames)):
            error = np.full(found.visible[i].shape, np.nan, np.float32)
            if len(chosen):
                forward = found.tracks[i][:, chosen], found.visible[i][:, chosen]
                error[:, chosen] = backward_error(network, frames[i], depth[i], *forward, how)
            extras = {"visibility": found.visibility[i], "track_depth": found.depth[i]}
            estimates.append(
                TrackEstimate(
                    tracks=found.tracks[i],
                    visible=found.visible[i],
                    extras={**extras, FB_ERROR: error},
                )
            )
        return estimates


def backward_error(
    network: SpatialTracker,
    frames: np.ndarray,
    depth: Float32[np.ndarray, "t h w"],
    tracks: Float32[np.ndarray, "t i 2"],
    visible: Bool[np.ndarray, "t i"],
    how: Mapping[str, object],
) -> Float32[np.ndarray, "t i"]:
    """Distance in px from these tracks to tracks that start where each point was last seen and run
    back in time, divided by the frames since that start.

    So a long way counts no more than a short one, and optical flow's steps measure the same. NaN in
    frames where the point is hidden, and for points that are never seen after the first frame.
    """
    n_frames = len(frames)
    last = n_frames - 1 - visible[::-1].argmax(axis=0)  # of the frames in which each is seen
    # The clip in reverse, from the last place of each point, which must be inside the frame
    place = tracks[last, np.arange(tracks.shape[1])]
    start = np.concatenate([(n_frames - 1 - last)[:, None], place], axis=1)
    limits = [n_frames - 1, frames.shape[2] - 1, frames.shape[1] - 1]
    inside = np.clip(start, 0, limits).astype(np.float32)
    reverse = frames[None, ::-1].copy(), depth[None, ::-1].copy()
    back = track_points(network, *reverse, inside, **how)  # type: ignore[arg-type]
    way = last - np.arange(n_frames)[:, None]  # frames since the start
    error = np.linalg.norm(back.tracks[0, ::-1] - tracks, axis=-1) / np.maximum(way, 1)
    counted = visible & (way >= 0) & (last > 0)
    return np.where(counted, error, np.nan).astype(np.float32)


def load_spatial_tracker(path: Path, config: SpatialTrackerConfig) -> SpatialTracker:
    """The network of a published pickle or our own file. Raises ValueError if it is another one."""
    if path.suffix == OWN:
        return load_own(path, SpatialTracker, config, "keypoints")
    return load_published(path, config)


def held(
    depth: Float32[np.ndarray, "t h w"], clip_frames: Int64[np.ndarray, " t"] | None
) -> Float32[np.ndarray, "n h w"]:
    """Depth for each frame that the tracker sees: that of the nearest of the clip's own frames.

    Only these have depth. A mean of two would be the depth of nothing where something moves; the
    nearest is at most half a clip step old. clip_frames: None if the tracker sees no others.
    """
    if clip_frames is None:
        return depth
    return depth[nearest(clip_frames, np.arange(clip_frames[-1] + 1))]


def tracker_depth(arrays: Arrays, units: DepthUnits, floor: float) -> Float32[np.ndarray, "t h w"]:
    """Depth as the tracker expects it, 0 where it is not known.

    Raises Rejected: `no_depth` if nothing is known, `flat_depth` if everything has one depth.
    """
    inverse, valid = arrays["inverse_depth"].astype(np.float32), arrays["valid"]
    known = valid & (inverse > 0)
    if not known.any():
        raise Rejected("no_depth", "no pixel has a depth, and the tracker needs one")
    if units == "1/m":
        depth = np.where(known, 1 / np.where(known, inverse, np.float32(1)), np.float32(0))
    else:
        inverted = depth_from_inverse(np.where(known, inverse, np.float32(0))[None], floor)[0]
        depth = np.where(valid, inverted, np.float32(0))
    seen = depth[depth > HOLE]
    if not seen.size or seen.min() == seen.max():
        raise Rejected(
            "flat_depth", "all pixels have one depth: the tracker needs some range of depth"
        )
    return depth
