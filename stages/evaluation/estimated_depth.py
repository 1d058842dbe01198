"""Depth of the pictures: an annotator on every video, against the same annotator on the camera's
frames.

The only way to score the depth of a model without a depth branch. Where there is one its own depth
is scored against the labels instead, in another table: the two are never mixed.
"""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from stages.base import ClipInputs, Rejected
from stages.depth.scaling import inverse_depth_range
from stages.depth.stage import DepthAnnotator, DepthEstimate
from stages.evaluation.scores import (
    CAMERA,
    ESTIMATED_DEPTH,
    FRAME,
    Cell,
    ClipDepth,
    ClipVideos,
    Scores,
    candidates,
    compare_depth,
)
from stages.tokenizer.images import images_to_rgb


def check_depth_annotator(annotator: DepthAnnotator) -> None:
    """Raises ValueError for one that reads more than pictures, which a predicted video has not."""
    reads = [
        f"{role}/{name}"
        for role, names in annotator.inputs.items()
        for name in names
        if (role, name) != ("clip", "rgb")
    ]
    if reads:
        raise ValueError(
            f"evaluation.depth_annotator={annotator.name} reads {', '.join(reads)}, which is "
            "recorded and which a predicted video has not: name one that estimates depth from "
            "pictures, such as vda-tiny or vda-vits"
        )


class EstimatedDepth:
    """Scores a clip's videos by the depth that they seem to have. annotator: see
    `check_depth_annotator`.
    """

    def __init__(self, annotator: DepthAnnotator, device: torch.device):
        # A predicted video has the clip's frames and no others
        self._estimate = replace(annotator, annotation_rate_hz=None).start(str(device))  # type: ignore[type-var]

    def __call__(self, clip: ClipVideos) -> Scores:
        """The scores of every method whose video the annotator takes; empty if it does not take
        the camera's frames.
        """
        true = self._depth(clip.clip_id, clip.camera)
        if true is None or (limits := depth_limits(true)) is None:
            return {}
        scores: Scores = {}
        for protocols, method, video in candidates(clip, CAMERA):
            found = self._depth(clip.clip_id, video)
            if found is None:
                continue
            valid = true.valid & found.valid
            if not valid[1:].any():
                continue
            ours, target = (torch.from_numpy(d.inverse_depth.copy()) for d in (found, true))
            depth = ClipDepth(
                target=target,
                valid=torch.from_numpy(valid),
                limits=limits,
                decoded=target,
                predicted={},
            )
            for metric, value in compare_depth(ours, depth).items():
                for protocol in protocols:
                    scores[Cell(protocol, ESTIMATED_DEPTH, FRAME, method, metric)] = value
        return scores

    def _depth(self, clip_id: str, video: Float[Tensor, "t c h w"]) -> DepthEstimate | None:
        """None if the annotator rejects the video, as one without contrast. Depths that are not
        finite are not valid.
        """
        frames = ClipInputs(row=0, clip_id=clip_id, arrays={"rgb": images_to_rgb(video)})
        (found,) = self._estimate([frames])
        if isinstance(found, Rejected):
            return None
        finite = np.isfinite(found.inverse_depth)
        known = np.where(finite, found.inverse_depth, 0).astype(np.float32)
        return DepthEstimate(inverse_depth=known, valid=found.valid & finite)


def depth_limits(depth: DepthEstimate) -> tuple[float, float] | None:
    """The range of a clip's inverse depth, as stage `depth` would store it; None if it is flat."""
    try:
        low, high = inverse_depth_range(depth.inverse_depth.astype(np.float16), depth.valid)
    except Rejected:
        return None
    return float(low), float(high)
