"""Simulated clips -> exact labels in a store, for `roboscape train-annotator`.

No stage of a world model reads its store. Who else reads the truth: `stages.simulated_truth`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Interval
from jaxtyping import Float32, UInt8

from simulation.ground_truth import GroundTruth
from stages.base import Arrays, ClipFunction, ClipInputs, ClipStage, Inputs, Resources, for_each
from stages.batches import raw_draws
from stages.clip_format import ClipFormat
from stages.drawing.pictures import colour_depth, contact_sheet, draw_tracks, spread, strip
from stages.exact_labels import true_depth, true_tracks
from stages.simulated_truth import clip_truth, sample_digest
from storage.stores.results import Result
from storage.stores.rows import Rows
from storage.stores.spec import ArraySpec


@dataclass(frozen=True, kw_only=True)
class Truth(ClipStage):
    """points: tracked from random places of each clip's first frame (a grid would be learned)."""

    # Where the sample is; `sample` says which one it is
    root: str = field(metadata={"key": False})
    sample: str = field(metadata={"set_by": "--source"})  # digest of the simulated data set
    clip_format: ClipFormat = field(default=ClipFormat(), metadata={"key": ("n_frames", "size")})
    points: Annotated[int, Interval(ge=1, le=1_048_576)] = 1024

    name: ClassVar[str] = "truth"
    version: ClassVar[int] = 1
    inputs: ClassVar[Inputs] = {"discover": ("task", "episode"), "clip": ("frame_index",)}
    resources: ClassVar[Resources] = Resources(memory_gb=1.5, clips_per_shard=32)

    @classmethod
    def of(cls, root: Path, **parameters) -> "Truth":
        """The stage for a simulated data set as it is now; FileNotFoundError for any other one."""
        return cls(root=str(root.absolute()), sample=sample_digest(root), **parameters)

    @property
    def outputs(self) -> tuple[ArraySpec, ...]:
        t, size, p = self.clip_format.n_frames, self.clip_format.size, self.points
        image, pixels, points, zstd = ("t", "h", "w"), (t, size, size), ("t", "p"), "zstd"
        axis, places = "along the optical axis", "x, y; as in stage 'keypoints'"
        also, seen = (
            "of the point itself, also while hidden",
            "whether the point is seen in the frame",
        )
        anything, known = "whether anything is seen there", "whether the point lies on anything"
        return (
            ArraySpec("depth_m", "float16", image, pixels, "m", axis, zstd),
            ArraySpec("depth_known", "bool", image, pixels, "1", anything),
            ArraySpec("tracks", "float32", ("t", "p", "i"), (t, p, 2), "px", places, zstd),
            ArraySpec("track_depth_m", "float32", points, (t, p), "m", also, zstd),
            ArraySpec("visible", "bool", points, (t, p), "1", seen),
            ArraySpec("known", "bool", ("p",), (p,), "1", known),
        )

    def start(self, device: str, results: Mapping[str, Result]) -> ClipFunction:
        root = Path(self.root)
        return for_each(lambda clip: self.label(clip, clip_truth(root, clip)))

    def label(self, clip: ClipInputs, truth: GroundTruth) -> Arrays:
        side = self.clip_format.size
        frames, size = clip.arrays["frame_index"], (side, side)
        depth, known = true_depth(truth, frames, size)
        points = true_tracks(truth, frames, random_points(self.points, side, clip.clip_id), size)
        tracks = np.where(points.known[:, None], points.tracks, points.tracks[:1])
        return {
            "depth_m": np.where(known, depth, 0).astype(np.float16),
            "depth_known": known,
            "tracks": tracks,
            "track_depth_m": np.where(points.known, points.depth_m, np.float32(0)),
            "visible": points.visible,
            "known": points.known,
        }

    def preview(
        self, own: Rows, inputs: Mapping[str, Rows], picks: Sequence[int]
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Depth and every eighth track of a few clips."""
        shown, strips = spread(self.clip_format.n_frames, 8), []
        for row in picks:
            a = own.read(("depth_m", "depth_known", "tracks", "visible"), row)
            inverse = 1 / np.maximum(a["depth_m"].astype(np.float32), 1e-3)
            limits = np.quantile(inverse[a["depth_known"]], (0.02, 0.98)).astype(np.float32)
            depth = colour_depth(inverse, a["depth_known"], limits)
            tracks = draw_tracks(depth, a["tracks"][:, ::8], a["visible"][:, ::8])
            drawn = [("true depth\nand tracks", tracks[shown])]
            strips.append(strip(drawn, title=f"clip {own.clip_ids[row]}"))
        return contact_sheet(strips)


def random_points(count: int, size: int, clip_id: str) -> Float32[np.ndarray, "p 2"]:
    """x, y in pixels, uniform over the picture; a function of the clip's id."""
    draws = raw_draws(2 * count, "truth points", clip_id).astype(np.float64) / 2**64
    return (draws.reshape(count, 2) * (size - 1)).astype(np.float32)
