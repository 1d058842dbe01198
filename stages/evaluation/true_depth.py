"""The exact depth of simulated clips, as what the depth branch's predictions are scored against.

The labels may be wrong, or spoiled on purpose; this says how far that reaches into the predictions.
Nothing that a world model sees comes from here. Real episodes have no exact depth.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from simulation.ground_truth import truth_beside
from stages.evaluation.estimated_depth import ALIGNED
from stages.evaluation.scores import TRUE_DEPTH, ClipVideos, Scores, score_depth
from stages.exact_labels import FARTHEST_M, true_depth
from stages.label_quality.labels import AnnotatorInfo
from storage.stores.rows import Rows

METRES = "1/m"


class TrueDepthScores:
    """Scores a clip's predicted depth where its episode has exact ground truth at `root`.

    Labels of other units than 1/m, and so predictions, are compared after one scale and shift a
    clip alone.
    """

    def __init__(self, rows: Mapping[str, Rows], root: Path):
        self._rows, self._root = rows, root
        self._is_metric = AnnotatorInfo.of(rows["depth"]).units == METRES

    def __call__(self, clip: ClipVideos, row: int) -> Scores:
        """Empty without a depth branch, and without a truth."""
        index = self._rows["discover"].read(("task", "episode"), row)
        truth = truth_beside(self._root, int(index["task"]), int(index["episode"]))
        if clip.depth is None or truth is None:
            return {}
        frames = self._rows["clip"].read(("frame_index",), row)["frame_index"]
        size = (clip.camera.shape[-2], clip.camera.shape[-1])
        metres, known = true_depth(truth, frames, size)
        known &= (metres > 0) & (metres < FARTHEST_M)
        if not known.any():
            return {}
        inverse = np.where(known, 1 / np.where(known, metres, np.float32(1)), np.float32(0))
        against = replace(
            clip.depth,
            target=torch.from_numpy(inverse),
            valid=torch.from_numpy(known),
            limits=(float(inverse[known].min()), float(inverse[known].max())),
        )
        scores = score_depth(against, TRUE_DEPTH)
        if self._is_metric:
            return scores
        return {cell: value for cell, value in scores.items() if cell.metric in ALIGNED}
