"""Clip -> keypoints: tracks of a grid of first-frame points, by an annotator of the experiment.

Paper, Sec. 3.3. Which tracks move enough to train on is decided in `model.world.keypoints`, not
here. The stage has what all annotators share: queries, the arrays in the store, checks, and the
depth under each point.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Interval
from jaxtyping import Bool, Float16, Float32, Int64, UInt8

from stages.annotation_frames import annotate_frames, frame_inputs, frame_resources, merged
from stages.annotator import AnnotatedStage, Annotator, check_frames
from stages.base import Arrays, ClipFunction, ClipInputs, Inputs, Rejected, Resources
from stages.clip_format import ClipFormat
from stages.depth.stage import DepthUnits
from stages.drawing.pictures import contact_sheet, draw_tracks, spread, strip
from stages.label_noise import TrackNoise
from storage.stores.results import Result
from storage.stores.rows import Rows
from storage.stores.spec import ArraySpec

FB_ERROR = "fb_error"


@dataclass(frozen=True, kw_only=True)
class TrackEstimate:
    """tracks: x, y in pixels of the frames given, (0, 0) the centre of the top-left one.

    extras: the annotator's own arrays. Among them may be `fb_error` (t p): the distance between
    tracking forward and back again, in px for each frame on the way; 0 or NaN where not measured.
    """

    tracks: Float32[np.ndarray, "t p 2"]
    visible: Bool[np.ndarray, "t p"]
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)

    def sampled(self, frames: Int64[np.ndarray, " i"]) -> "TrackEstimate":
        """Of these frames only."""
        return TrackEstimate(
            tracks=self.tracks[frames],
            visible=self.visible[frames],
            extras={name: array[frames] for name, array in self.extras.items()},
        )

    def resized(self, scale: float) -> "TrackEstimate":
        """In the pixels of pictures that are `scale` times as wide and as high."""
        if scale == 1:
            return self
        extras = dict(self.extras)
        if FB_ERROR in extras:
            extras[FB_ERROR] = extras[FB_ERROR] * np.float32(scale)
        tracks = ((self.tracks + 0.5) * scale - 0.5).astype(np.float32)
        return TrackEstimate(tracks=tracks, visible=self.visible, extras=extras)


Queries = Float32[np.ndarray, "p 2"]


class KeypointAnnotator(Annotator):
    """Tracks points of clips, whose arrays are `rgb`, `inverse_depth` and `valid`.

    With an `annotation_rate_hz`, `rgb` has more frames than the depth, which is of the clip's own:
    `clip_frames` says which these are.
    """

    depth_units: DepthUnits | None = None  # of the depth that it reads; None if it reads none

    @property
    def inputs(self) -> Inputs:
        """Arrays that it reads besides."""
        return {}

    def attributes_for(self, n_points: int) -> Mapping[str, str]:
        """What reports say of it; `stand_in_for` names the annotator that it replaces."""
        return {}

    def resources_for(self, n_points: int) -> Resources:
        return Resources()

    def extra_outputs(self, n_frames: int, n_points: int) -> tuple[ArraySpec, ...]:
        """The specs of `TrackEstimate.extras`, in addition to the arrays that all trackers make."""
        return ()

    @abstractmethod
    def start(
        self, device: str
    ) -> Callable[[Sequence[ClipInputs], Queries], Sequence[TrackEstimate | Rejected]]:
        """The function that a worker calls; queries are x, y in the first frame of every clip. It
        follows them through each frame that it is given.
        """


@dataclass(frozen=True, kw_only=True)
class Keypoints(AnnotatedStage):
    """grid: points along each side, at the centres of equal cells.

    min_contrast: least standard deviation of a frame's grey levels (0-255). A frame without
    contrast (black, covered lens) has nothing to track and rejects the clip.
    """

    annotator: KeypointAnnotator
    grid: Annotated[int, Interval(ge=1, le=1024)] = 32  # open in the paper
    clip_format: ClipFormat = field(default=ClipFormat(), metadata={"key": ("n_frames",)})
    min_contrast: Annotated[float, Ge(0)] = 2.0
    # For studies: spoils what the annotator found
    spoil: TrackNoise | None = field(default=None, metadata={"added": True})

    name: ClassVar[str] = "keypoints"
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.grid < 1:
            raise ValueError(f"grid={self.grid}: expected 1 or more points along each side")

    @property
    def inputs(self) -> Inputs:
        read = {"clip": ("rgb",), "depth": ("inverse_depth", "valid")}
        return frame_inputs(self.annotator, merged(read, self.annotator.inputs))

    @property
    def n_points(self) -> int:
        return self.grid**2

    @property
    def outputs(self) -> tuple[ArraySpec, ...]:
        t, p = self.clip_format.n_frames, self.n_points
        pixels = "x, y; (0, 0) is the centre of the clip's top-left pixel; "
        pixels += "point i is column i % grid of row i // grid"
        depth = "inverse depth at the point, in the units of stage 'depth'; "
        depth += "0 where hidden or not known"
        seen, nan = "whether the point is seen in the frame", np.nan
        axes, shape, i = ("t", "p"), (t, p), ("t", "p", "i")
        extras = self.annotator.extra_outputs(t, p)
        if FB_ERROR not in {spec.name for spec in extras}:
            about = "how far forward and backward tracking end from the start: "
            about += "not measured by this annotator, so NaN"
            extras += (ArraySpec(FB_ERROR, "float32", axes, shape, "px", about, fill=nan),)
        return (
            ArraySpec("tracks", "float32", i, (t, p, 2), "px", pixels, "zstd", fill=nan),
            ArraySpec("visible", "bool", axes, shape, "1", seen),
            ArraySpec("point_inverse_depth", "float32", axes, shape, "see stage 'depth'", depth),
            *extras,
        )

    @property
    def attributes(self) -> dict[str, str]:
        facts = self.annotator.attributes_for(self.n_points)
        spoiled = self.spoil.attributes if self.spoil else {}
        return {"annotator": self.annotator.name, **facts, **spoiled}

    @property
    def resources(self) -> Resources:
        own = self.annotator.resources_for(self.n_points)
        return frame_resources(self.annotator, own, self.clip_format)

    def start(self, device: str, results: Mapping[str, Result]) -> ClipFunction:
        track_points = self.annotator.start(device)
        n = self.annotator.resources_for(self.n_points).clips_per_call

        def track(clips: Sequence[ClipInputs]) -> list[TrackEstimate | Rejected]:
            seen = clips[0].arrays["rgb"].shape[1:3]
            found = track_points(clips, grid_queries(self.grid, seen))
            return [
                one
                if isinstance(one, Rejected)
                else one.resized(clip.arrays["inverse_depth"].shape[1] / seen[0])
                for one, clip in zip(found, clips, strict=True)
            ]

        def annotate(clips: Sequence[ClipInputs]) -> list[Arrays | Rejected]:
            made: dict[int, Arrays | Rejected] = {}
            good: list[ClipInputs] = []
            for clip in clips:
                try:
                    check_frames(clip, self.clip_format.n_frames, self.min_contrast, self.name)
                    good.append(clip)
                except Rejected as rejected:
                    made[clip.row] = rejected
            estimates = annotate_frames(track, good, self.annotator, self.clip_format, n)
            for clip, found in zip(good, estimates, strict=True):
                made[clip.row] = found if isinstance(found, Rejected) else self.checked(found, clip)
            return [made[clip.row] for clip in clips]

        return annotate

    def checked(self, found: TrackEstimate, clip: ClipInputs) -> Arrays | Rejected:
        """The clip's arrays, checked, and spoiled if this is wanted."""
        if self.spoil:
            side = clip.arrays["inverse_depth"].shape[1]
            found = replace(found, tracks=self.spoil.spoil(found.tracks, side, clip.clip_id))
        return checked_tracks(found, clip)

    def preview(
        self, own: Rows, inputs: Mapping[str, Rows], picks: Sequence[int]
    ) -> UInt8[np.ndarray, "h w 3"]:
        """A few clips, tracks over the camera frames."""
        return contact_sheet([self._strip(own, inputs, row) for row in picks])

    def _strip(self, own: Rows, inputs: Mapping[str, Rows], row: int) -> UInt8[np.ndarray, "h w 3"]:
        arrays = own.read(("tracks", "visible"), row)
        rgb = inputs["clip"].read(("rgb",), row)["rgb"]
        shown = spread(self.clip_format.n_frames, 6)
        drawn = draw_tracks(rgb, arrays["tracks"], arrays["visible"])[shown]
        label = (f"keypoints\n({self.annotator.name})", drawn)
        title, frames = f"clip {own.clip_ids[row]}", [f"{t}" for t in shown]
        seen = f"{100 * arrays['visible'].mean():.0f} % visible"
        return strip([label], title=title, note=seen, columns=frames, cell_px=192)


def grid_queries(grid: int, size: tuple[int, int]) -> Queries:
    """x, y of the centres of grid x grid cells of a picture of (height, width) `size`, by rows."""
    height, width = size
    cells = (np.arange(grid) + 0.5) / grid
    x, y = np.meshgrid(cells * width - 0.5, cells * height - 0.5)
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)


def checked_tracks(found: TrackEstimate, clip: ClipInputs) -> Arrays | Rejected:
    """The clip's arrays, or Rejected (`nan_tracks`) if a coordinate is not finite."""
    bad = int((~np.isfinite(found.tracks)).any(axis=2).sum())
    if bad:
        of = found.visible.size
        return Rejected("nan_tracks", f"{bad} of {of} positions are NaN or infinite")
    inverse, valid = clip.arrays["inverse_depth"], clip.arrays["valid"]
    depth = depth_under(found.tracks, found.visible, inverse, valid)
    common = {"tracks": found.tracks, "visible": found.visible, "point_inverse_depth": depth}
    return {**common, FB_ERROR: np.full(found.visible.shape, np.nan, np.float32), **found.extras}


def depth_under(
    tracks: Float32[np.ndarray, "t p 2"],
    visible: Bool[np.ndarray, "t p"],
    inverse_depth: Float16[np.ndarray, "t h w"],
    valid: Bool[np.ndarray, "t h w"],
) -> Float32[np.ndarray, "t p"]:
    """Inverse depth of the pixel under each point; 0 if hidden, outside the frame, or unknown.

    The nearest pixel is read, since a mean across an edge is the depth of nothing.
    """
    height, width = valid.shape[1:]
    x, y = np.moveaxis(np.round(tracks), -1, 0)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    column, row = np.where(inside, x, 0).astype(int), np.where(inside, y, 0).astype(int)
    frame = np.arange(len(tracks))[:, None]
    known = visible & inside & valid[frame, row, column]
    return np.where(known, inverse_depth[frame, row, column], 0).astype(np.float32)
