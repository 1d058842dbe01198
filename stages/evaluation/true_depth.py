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
from stages.evaluation.scores import TRUE_DEPTH, ClipDepth, Scores, score_depth
from stages.exact_labels import FARTHEST_M, true_depth
from storage.stores.rows import Rows

METRES = "1/m"  # units in which a prediction compares with the truth as it is


def score_true_depth(
    depth: ClipDepth, rows: Mapping[str, Rows], row: int, root: Path | None, units: str
) -> Scores:
    """Scores of the clip in a row; empty if its episode has no exact ground truth at `root`.

    units: of the labels, and so of the predictions. Others than 1/m are compared after one scale
    and shift a clip alone.
    """
    if root is None:
        return {}
    index = rows["discover"].read(("task", "episode"), row)
    truth = truth_beside(root, int(index["task"]), int(index["episode"]))
    if truth is None:
        return {}
    frames, size = rows["clip"].read(("frame_index",), row)["frame_index"], depth.target.shape[1:]
    metres, known = true_depth(truth, frames, (size[0], size[1]))
    known &= (metres > 0) & (metres < FARTHEST_M)
    inverse = np.where(known, 1 / np.where(known, metres, np.float32(1)), np.float32(0))
    if not known.any():
        return {}
    limits = (float(inverse[known].min()), float(inverse[known].max()))
    against = replace(
        depth, target=torch.from_numpy(inverse), valid=torch.from_numpy(known), limits=limits
    )
    scores = score_depth(against, TRUE_DEPTH)
    if units == METRES:
        return scores
    return {cell: value for cell, value in scores.items() if cell.metric.endswith("_aligned")}
