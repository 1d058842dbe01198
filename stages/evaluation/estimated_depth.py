"""Depth of the pictures: an annotator on every video, against the same annotator on the camera's
frames.

The only way to score the depth of a model without a depth branch. Where there is one its own depth
is scored against the labels instead, in another table: the two are never mixed.
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from stages.base import ClipInputs, Rejected
from stages.depth.scaling import inverse_depth_range
from stages.depth.stage import DepthAnnotator, DepthEstimate
from stages.evaluation.scores import (
    ESTIMATED_DEPTH,
    FRAME,
    Candidate,
    Cell,
    ClipDepth,
    Scores,
    compare_depth,
)
from stages.tokenizer.images import images_to_rgb

FOUND = "depth_found"  # 1 for a video that has a depth, 0 for one that the annotator rejects
ALIGNED = ("abs_rel_aligned", "delta1_aligned", "delta2_aligned")
DEPTH_METRICS = ("abs_rel", "delta1", "delta2", *ALIGNED)


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
        # Without units a depth has neither scale nor shift, so that only its aligned form says much
        self._metrics = ALIGNED if annotator.units == "relative" else DEPTH_METRICS
        # A predicted video has the clip's frames and no others
        self._estimate = replace(annotator, annotation_rate_hz=None).start(str(device))  # type: ignore[type-var]

    def __call__(
        self, clip_id: str, camera: Float[Tensor, "t c h w"], videos: Iterable[Candidate]
    ) -> Scores:
        """Of every method whether its video has a depth that the annotator finds (FOUND), and its
        scores. Empty if the annotator does not take the camera's frames.

        Under a protocol in which one video has no depth no method has scores, so that the means of
        all of them are over the same clips.
        """
        true = self._depth(clip_id, camera)
        if true is None or (limits := depth_limits(true)) is None or not true.valid[1:].any():
            return {}
        scores: Scores = {}
        incomplete = set[str]()
        for protocols, method, video in videos:
            found = self._depth(clip_id, video)
            values = self._compare(found, true, limits) if found is not None else {}
            if not values:
                incomplete |= set(protocols)
            for protocol in protocols:
                for metric, value in {FOUND: float(bool(values)), **values}.items():
                    scores[Cell(protocol, ESTIMATED_DEPTH, FRAME, method, metric)] = value
        return {
            cell: value
            for cell, value in scores.items()
            if cell.metric == FOUND or cell.protocol not in incomplete
        }

    def _compare(
        self, found: DepthEstimate, true: DepthEstimate, limits: tuple[float, float]
    ) -> dict[str, float]:
        """Empty where no pixel after frame 0 has both depths."""
        valid = true.valid & found.valid
        if not valid[1:].any():
            return {}
        ours, target = (torch.from_numpy(d.inverse_depth.copy()) for d in (found, true))
        depth = ClipDepth(
            target=target,
            valid=torch.from_numpy(valid),
            limits=limits,
            decoded=target,
            predicted={},
        )
        values = compare_depth(ours, depth)
        return {metric: values[metric] for metric in self._metrics}

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
    """The range of a clip's inverse depth, as stage `depth` would store it; None if it is flat, or
    known nowhere.
    """
    if not depth.valid.any():
        return None
    try:
        low, high = inverse_depth_range(depth.inverse_depth.astype(np.float16), depth.valid)
    except Rejected:
        return None
    return float(low), float(high)
