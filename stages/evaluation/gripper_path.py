"""The grippers' paths in the picture, by the camera's calibration, and which tracks go along.

A gripper is a little in front of its arm's flange, as the robot measured it; paths are in pixels of
the clip.
"""

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float

from model.metrics import TAPVID_SIDE
from model.motion_metrics import normalised_warping

# In px of 256: how far from a gripper's place in frame 0 its points may be, as its fingers reach
# past the flange; how far from its path, on average, they may stray
AROUND_PX, ALONG_PX = 40.0, 12.0
REACH_PX = 16.0  # by which it must move; a hand is about as wide
LEAST_POINTS = 3
LEAST_SEEN = 0.5  # of the frames with the gripper in the picture: in these a point must be visible
LEAST_FRAMES = 4  # with the gripper in the picture
GRIPPER_M = 0.15  # of its middle from the flange, along the hand; its fingertips are 0.23 m away


def gripper_paths(
    states: Float[np.ndarray, "t i a"],
    intrinsics: Float[np.ndarray, " 4"],
    extrinsics: Float[np.ndarray, "t 3 4"],
) -> Float[np.ndarray, "2 t 2"]:
    """x, y of both grippers in the clip's frames; NaN without calibration or behind the camera.

    states: `stages.clips.arm_vectors`, the last sub-step at the frame. Camera as in stage `clip`.
    """
    arms = rearrange(states[:, -1].astype(np.float64), "t (arm a) -> t arm a", arm=2)
    gripper = arms[..., :3] + GRIPPER_M * hand_axis(arms[..., 3:7])
    rotation, origin = extrinsics[..., :3], extrinsics[..., 3]
    x, y, z = np.moveaxis(np.einsum("tji,taj->ati", rotation, gripper - origin[:, None]), -1, 0)
    fx, fy, cx, cy = intrinsics
    z = np.where(z > 0, z, np.nan)
    return np.stack([fx * x / z + cx, fy * y / z + cy], axis=-1)


def hand_axis(quaternion: Float[np.ndarray, "*any 4"]) -> Float[np.ndarray, "*any 3"]:
    """The z axis of a frame with this unit quaternion, (x, y, z, w): along the hand."""
    x, y, z, w = np.moveaxis(quaternion, -1, 0)
    return np.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], axis=-1)


def inside(path: Float[np.ndarray, "t 2"], size: tuple[int, int]) -> Bool[np.ndarray, " t"]:
    """The frames of (height, width) `size` in which the path is; none where it is not known."""
    return np.logical_and.reduce((path > -0.5) & (path < np.array(size[::-1]) - 0.5), axis=-1)


def points_along(
    path: Float[np.ndarray, "t 2"],
    tracks: Float[np.ndarray, "t p 2"],
    visible: Bool[np.ndarray, "t p"],
    size: tuple[int, int],
) -> Bool[np.ndarray, " p"]:
    """The true tracks that start near the path's start and move as it does; none where the path
    starts outside the picture, or does not move in it.
    """
    scale = TAPVID_SIDE / np.array(size[::-1])
    there = inside(path, size)
    reach = np.linalg.norm((path[there] - path[0]) * scale, axis=-1).max(initial=0.0)
    if not there[0] or there.sum() < LEAST_FRAMES or reach < REACH_PX:
        return np.zeros(tracks.shape[1], bool)
    near = np.linalg.norm((tracks[0] - path[0]) * scale, axis=-1) < AROUND_PX
    shift = (tracks - tracks[0]) - (path - path[0])[:, None]
    seen = visible & there[:, None]
    apart = np.where(seen, np.linalg.norm(shift * scale, axis=-1), 0).sum(0)
    strays = apart / np.maximum(seen.sum(0), 1)
    return near & (seen.sum(0) >= LEAST_SEEN * there.sum()) & (strays < ALONG_PX)


def is_followed(along: Bool[np.ndarray, " p"]) -> bool:
    """Whether enough points go along for a path of a video's gripper."""
    return int(along.sum()) >= LEAST_POINTS


def path_score(
    path: Float[np.ndarray, "t 2"],
    tracks: Float[np.ndarray, "t p 2"],
    along: Bool[np.ndarray, " p"],
    size: tuple[int, int],
) -> float:
    """How near a video's gripper stays to `path`, by normalised dynamic time warping: 1 is best.

    Its path is the median of those of its points `along`, in the frames in which the true one is in
    the picture.
    """
    there = inside(path, size)
    taken = path[0] + np.median(tracks[:, along] - tracks[0, along], axis=1)
    scale = TAPVID_SIDE / np.array(size[::-1])
    ours, true = (torch.from_numpy((at[there] * scale).astype(np.float64)) for at in (taken, path))
    return normalised_warping(ours, true, REACH_PX)
