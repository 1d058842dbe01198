"""Metrics of motion: tracks of a predicted video against true ones, and paths of one point.

Tracks are (x, y) in pixels of frames of `size` = (height, width); distances are measured after
scaling the frames to 256 x 256 px, as TAP-Vid's are. One value per clip.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from model.metrics import TAPVID_SIDE, check_pixels, check_points

NEAR_PX = 4.0  # of 256: within it, a point counts as where it should be


def track_error(
    predicted: Float[Tensor, "b t p 2"],
    target: Float[Tensor, "b t p 2"],
    counted: Bool[Tensor, "b t p"],
    size: tuple[int, int],
) -> Float[Tensor, " b"]:
    """Mean distance of the counted points from where they should be, in px of 256; 0 is perfect.

    Raises ValueError for a clip in which no point counts.
    """
    distance = track_distance(predicted, target, counted, size)
    return torch.where(counted, distance, 0.0).sum(dim=(1, 2)) / counted.sum(dim=(1, 2))


def track_within(
    predicted: Float[Tensor, "b t p 2"],
    target: Float[Tensor, "b t p 2"],
    counted: Bool[Tensor, "b t p"],
    size: tuple[int, int],
    within_px: float = NEAR_PX,
) -> Float[Tensor, " b"]:
    """Share of the counted points less than `within_px` of 256 from where they should be; 1 is
    perfect. Arguments and errors are those of `track_error`.
    """
    near = track_distance(predicted, target, counted, size) < within_px
    return (near & counted).sum(dim=(1, 2)) / counted.sum(dim=(1, 2))


def track_distance(
    predicted: Float[Tensor, "b t p 2"],
    target: Float[Tensor, "b t p 2"],
    counted: Bool[Tensor, "b t p"],
    size: tuple[int, int],
) -> Float[Tensor, "b t p"]:
    """Of each point, in px of 256."""
    check_points(counted, "counted")
    check_pixels(target, counted, size)
    height, width = size
    scale = target.new_tensor((TAPVID_SIDE / width, TAPVID_SIDE / height))
    return ((predicted - target) * scale).square().sum(dim=-1).sqrt()


def warping_distance(path: Float[Tensor, "i 2"], reference: Float[Tensor, "j 2"]) -> float:
    """The least summed distance of an alignment of both paths that keeps their order (dynamic time
    warping; Sakoe and Chiba 1978), in their unit.

    Each point has one or more partners, first and last ones are partners: a path that is run
    through at another pace is at no distance.
    """
    if len(path) == 0 or len(reference) == 0:
        raise ValueError(f"paths of {len(path)} and {len(reference)} points: expected 1 or more")
    distance = torch.cdist(path.double(), reference.double()).tolist()
    # Least sums over alignments that end at each pair, one row of `path` after another
    inf = float("inf")
    before = [0.0] + [inf] * len(reference)
    for row in distance:
        here = [inf]
        for j, step in enumerate(row):
            here.append(step + min(before[j], before[j + 1], here[j]))
        before = here
    return before[-1]


def normalised_warping(
    path: Float[Tensor, "i 2"], reference: Float[Tensor, "j 2"], tolerance: float
) -> float:
    """exp(-warping distance / (points of the reference * tolerance)), in (0, 1]; 1 for one path.

    Normalised dynamic time warping of Ilharco et al. 2019 (arXiv:1907.05446), which EWMBench takes
    for the gripper's path (arXiv:2505.09694). tolerance: in the paths' unit; a path that is this
    far away all along has 1/e.
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance={tolerance:g}: expected above 0")
    mean = warping_distance(path, reference) / (len(reference) * tolerance)
    return float(torch.exp(torch.tensor(-mean, dtype=torch.float64)))
