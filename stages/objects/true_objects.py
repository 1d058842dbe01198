"""Where the objects of a simulated clip are: exact masks in the clip's own pixels, for scores only.

Nothing that a world model sees comes from here. Real episodes have no such masks.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Integer

from simulation.ground_truth import GroundTruth, truth_beside
from stages.objects.masks import NO_OBJECT, TrueObjects
from stages.resizing import nearest_pixels
from storage.stores.rows import Rows

# What `clip_objects` reads, by role
READS = {"discover": ("task", "episode"), "clip": ("frame_index",)}


def clip_objects(
    rows: Mapping[str, Rows], row: int, root: Path | None, size: tuple[int, int]
) -> TrueObjects | None:
    """The objects of a clip; None if its episode has no exact ground truth at `root`."""
    if root is None:
        return None
    index = rows["discover"].read(READS["discover"], row)
    truth = truth_beside(root, int(index["task"]), int(index["episode"]))
    if truth is None:
        return None
    return true_objects(truth, rows["clip"].read(READS["clip"], row)["frame_index"], size)


def true_objects(
    truth: GroundTruth, frames: Integer[np.ndarray, " t"], size: tuple[int, int]
) -> TrueObjects:
    """frames: of the source video. size: (height, width) of the clip, which shows the same view.

    An object's number is its place in the labels' list.
    """
    number = {name: i for i, name in enumerate(truth.labels["objects"])}
    of_geom = np.full(256, NO_OBJECT, np.uint8)
    moved_m = np.zeros((len(frames), len(number)))
    for geom, body in enumerate(truth.geom_body):
        of_geom[geom] = number.get(body, NO_OBJECT)
        if body in number:
            place = truth.geom_position_m[frames, geom]
            way = np.linalg.norm(place - place[0], axis=1)
            moved_m[:, number[body]] = np.maximum(moved_m[:, number[body]], way)
    rows, columns = (nearest_pixels(n, m) for n, m in zip(truth.geom.shape[1:], size, strict=True))
    return TrueObjects(masks=of_geom[truth.geom[np.ix_(frames, rows, columns)]], moved_m=moved_m)
