"""A depth annotator that is as simple as can be, for tests of what scores with one."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from stages.base import ClipInputs, Inputs, Rejected
from stages.clip_format import AnnotationRate
from stages.depth.stage import DepthAnnotator, DepthEstimate

UNKNOWN_BELOW = 3  # grey levels


@dataclass(frozen=True, kw_only=True)
class Brightness(DepthAnnotator):
    """What is bright is near; what is black is not known, and a black video is rejected."""

    annotation_rate_hz: AnnotationRate = None
    name: str = field(default="brightness", init=False)
    version: int = field(default=1, init=False)

    units: ClassVar = "1/m"
    inputs: ClassVar[Inputs] = {"clip": ("rgb",)}

    def start(self, device: str):
        assert self.annotation_rate_hz is None

        def estimate(clips: Sequence[ClipInputs]) -> list[DepthEstimate | Rejected]:
            found: list[DepthEstimate | Rejected] = []
            for clip in clips:
                grey = clip.arrays["rgb"].mean(axis=3)
                if not grey.any():
                    found.append(Rejected("blank_frame"))
                    continue
                inverse = (0.2 + grey / 64).astype(np.float32)
                inverse[grey > 250] = np.nan
                found.append(DepthEstimate(inverse_depth=inverse, valid=grey >= UNKNOWN_BELOW))
            return found

        return estimate
