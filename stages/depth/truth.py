"""The annotator `truth`: exact depth of simulated episodes, for studies of the model alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from stages.annotator import EXACT, EXACT_TEXT
from stages.base import ClipInputs, Inputs, Rejected, Resources, for_each
from stages.clip_format import ClipFormat
from stages.depth.stage import DepthAnnotator, DepthEstimate, DepthUnits
from stages.exact_labels import true_depth
from stages.simulated_truth import clip_truth, sample_digest


@dataclass(frozen=True, kw_only=True)
class TrueDepth(DepthAnnotator):
    """Depth as the simulation has it. A clip without truth is rejected (`no_truth`).

    sample: digest of the simulated data set under `root`.
    """

    root: str = field(metadata={"key": False})
    sample: str = field(metadata={"set_by": "--source"})
    clip_format: ClipFormat = field(default=ClipFormat(), metadata={"key": False})
    name: str = field(default="truth", init=False)
    version: int = field(default=1, init=False)

    units: ClassVar[DepthUnits] = "1/m"
    cameras: ClassVar[tuple[str, ...]] = ("head_color",)
    inputs: ClassVar[Inputs] = {"discover": ("task", "episode"), "clip": ("frame_index",)}
    resources: ClassVar[Resources] = Resources(memory_gb=1.5)

    @classmethod
    def of(cls, root: str, clip_format: ClipFormat) -> "TrueDepth":
        """For the data set as it is now; FileNotFoundError for one that is not simulated."""
        return cls(root=root, sample=sample_digest(Path(root)), clip_format=clip_format)

    @property
    def attributes(self) -> Mapping[str, str]:
        return {EXACT: EXACT_TEXT, "made_by": "the simulation itself", "licence": "Apache-2.0"}

    def start(
        self, device: str
    ) -> Callable[[Sequence[ClipInputs]], Sequence[DepthEstimate | Rejected]]:
        root, side = Path(self.root), self.clip_format.size

        def estimate(clip: ClipInputs) -> DepthEstimate:
            frames = clip.arrays["frame_index"]
            depth, known = true_depth(clip_truth(root, clip), frames, (side, side))
            known &= depth > 0
            inverse = np.where(known, 1 / np.where(known, depth, np.float32(1)), np.float32(0))
            return DepthEstimate(inverse_depth=inverse, valid=known)

        return for_each(estimate)
