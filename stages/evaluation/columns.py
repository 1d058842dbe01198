"""Columns, rows and their order in every table of scores; means over clips."""

from collections.abc import Sequence

import numpy as np

from stages.evaluation.controls import GAUSSIAN, HELD, MIRRORED, OTHER_CLIP
from stages.evaluation.estimated_depth import FOUND
from stages.evaluation.objects import OBJECT_REGIONS
from stages.evaluation.scores import (
    ACTIVE,
    BASELINES,
    DETAIL,
    EDGES,
    FRAME,
    GRIPPER,
    MODEL,
    MOVING,
    MOVING_CAMERA,
    PROTOCOLS,
    REFERENCES,
    STILL,
    Cell,
    Scores,
)

# metric -> heading with the direction of better (→ 1: nearer to 1), format
COLUMNS: dict[str, tuple[str, str]] = {
    "psnr": ("PSNR (dB) ↑", ".2f"),
    "psnr_chroma": ("PSNR of the chroma (dB) ↑", ".2f"),
    "delta_e": ("ΔE00 ↓", ".1f"),
    "named": ("colour named rightly ↑", ".0%"),
    "present_half": ("present half-way ↑", ".0%"),
    "present_end": ("present at the end ↑", ".0%"),
    "ssim": ("SSIM ↑", ".4f"),
    "lpips": ("LPIPS ↓", ".4f"),
    "fvd": ("FVD ↓", ".1f"),
    OTHER_CLIP: ("ΔPSNR, another clip's actions (dB) ↑", "+.2f"),
    GAUSSIAN: ("ΔPSNR, Gaussian actions (dB) ↑", "+.2f"),
    HELD: ("ΔPSNR, actions held (dB) ↑", "+.2f"),
    MIRRORED: ("ΔPSNR, mirrored movements (dB) ↑", "+.2f"),
    "flicker": ("flicker of what is still (levels of 255) ↓", ".2f"),
    "edge_sharpness": ("sharpness of depth edges → 1", ".2f"),
    "track_error": ("error of the tracks (px of 256) ↓", ".2f"),
    "track_within": ("tracks within 4 px ↑", ".0%"),
    "path_ndtw": ("path, nDTW ↑", ".3f"),
    FOUND: ("clips with a depth ↑", ".0%"),
    "abs_rel": ("AbsRel ↓", ".4f"),
    "delta1": ("δ1 ↑", ".4f"),
    "delta2": ("δ2 ↑", ".4f"),
    "abs_rel_aligned": ("AbsRel, aligned ↓", ".4f"),
    "delta1_aligned": ("δ1, aligned ↑", ".4f"),
    "delta2_aligned": ("δ2, aligned ↑", ".4f"),
}


METHODS = (MODEL, *BASELINES)
REGIONS = (FRAME, MOVING, MOVING_CAMERA, DETAIL, STILL, EDGES, ACTIVE, GRIPPER, *OBJECT_REGIONS)


def gain(metric: str, value: float) -> float:
    """The value so that larger is better: negative if less is, or minus its distance from 1."""
    heading, _ = COLUMNS[metric]
    if "→ 1" in heading:
        return -abs(value - 1)
    return value if "↑" in heading else -value


def mean_scores(per_clip: Sequence[Scores]) -> Scores:
    """Means over the clips in which each number was measured."""
    cells = dict.fromkeys(cell for scores in per_clip for cell in scores)
    means = {
        cell: float(np.mean([scores[cell] for scores in per_clip if cell in scores]))
        for cell in cells
    }
    return in_order(means)


def in_order(scores: Scores) -> Scores:
    """As the tables have them."""
    return {cell: scores[cell] for cell in sorted(scores, key=table_order)}


def table_order(cell: Cell) -> tuple[int, ...]:
    """Methods of other names than ours, such as another model's, stand first."""
    method = METHODS.index(cell.method) if cell.method in METHODS else -1
    orders, names = (PROTOCOLS, REFERENCES, REGIONS), (cell.protocol, cell.reference, cell.region)
    places = [order.index(name) for order, name in zip(orders, names, strict=True)]
    return (*places, method, tuple(COLUMNS).index(cell.metric))
