"""The annotator `truth`: exact tracks of simulated episodes, for studies of the model alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from stages.annotator import EXACT, EXACT_TEXT
from stages.base import ClipInputs, Inputs, Rejected, Resources, for_each
from stages.exact_labels import true_tracks
from stages.keypoints.stage import KeypointAnnotator, Queries, TrackEstimate
from stages.simulated_truth import clip_truth, sample_digest


@dataclass(frozen=True, kw_only=True)
class TrueTracking(KeypointAnnotator):
    """Tracks as the simulation has them, also of hidden points. A clip without truth is rejected
    (`no_truth`); a point on nothing is said not to move.

    sample: digest of the simulated data set under `root`.
    """

    root: str = field(metadata={"key": False})
    sample: str = field(metadata={"set_by": "--source"})
    name: str = field(default="truth", init=False)
    version: int = field(default=1, init=False)

    inputs: ClassVar[Inputs] = {"discover": ("task", "episode"), "clip": ("frame_index",)}

    @classmethod
    def of(cls, root: str) -> "TrueTracking":
        """For the data set as it is now; FileNotFoundError for one that is not simulated."""
        return cls(root=root, sample=sample_digest(Path(root)))

    def attributes_for(self, n_points: int) -> Mapping[str, str]:
        return {EXACT: EXACT_TEXT, "made_by": "the simulation itself", "licence": "Apache-2.0"}

    def resources_for(self, n_points: int) -> Resources:
        return Resources(memory_gb=1.5)

    def start(
        self, device: str
    ) -> Callable[[Sequence[ClipInputs], Queries], Sequence[TrackEstimate | Rejected]]:
        root = Path(self.root)

        def track(clip: ClipInputs, queries: Queries) -> TrackEstimate:
            frames, size = clip.arrays["frame_index"], clip.arrays["rgb"].shape[1:3]
            points = true_tracks(clip_truth(root, clip), frames, queries, size)
            tracks = np.where(points.known[:, None], points.tracks, queries)
            return TrackEstimate(tracks=tracks, visible=points.visible)

        return lambda clips, queries: for_each(lambda clip: track(clip, queries))(clips)
