"""Where the objects of a simulated clip are: exact masks in the clip's own pixels, for scores only.

Nothing that a world model sees comes from here. Real episodes have no such masks.
"""

import numpy as np
from jaxtyping import Integer, UInt8

from simulation.ground_truth import GroundTruth
from stages.resizing import nearest_pixels

NO_OBJECT = 255


def object_masks(
    truth: GroundTruth, frames: Integer[np.ndarray, " t"], size: tuple[int, int]
) -> UInt8[np.ndarray, "t h w"]:
    """Which of the scene's movable objects each pixel shows; NO_OBJECT for everything else.

    frames: of the source video. size: (height, width) of the clip, which shows the same view. An
    object's number is its place in the labels' list.
    """
    number = {name: i for i, name in enumerate(truth.labels["objects"])}
    of_geom = np.full(256, NO_OBJECT, np.uint8)
    for geom, body in enumerate(truth.geom_body):
        of_geom[geom] = number.get(body, NO_OBJECT)
    rows, columns = (nearest_pixels(n, m) for n, m in zip(truth.geom.shape[1:], size, strict=True))
    return of_geom[truth.geom[np.ix_(frames, rows, columns)]]
