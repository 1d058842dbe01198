"""Two arms as one vector of 16 numbers, interpolated between the rows of a track."""

import numpy as np
from jaxtyping import Float32, Float64

ARM_VECTOR = tuple(
    f"{arm}_{name}"
    for arm in ("left", "right")
    for name in ("x", "y", "z", "qx", "qy", "qz", "qw", "closed")
)
ARM_WIDTH = len(ARM_VECTOR) // 2  # position 3, quaternion 4, gripper 1


def arm_vectors(
    position: Float64[np.ndarray, "n 2 3"],
    quaternion: Float64[np.ndarray, "n 2 4"],
    closed: Float64[np.ndarray, "n 2"],
    rows: Float64[np.ndarray, "t i"],
) -> Float32[np.ndarray, "t i 16"]:
    """`ARM_VECTOR` at fractional row numbers; positions linearly, rotations by slerp.

    Flange position in m, unit quaternion, gripper 0 open .. 1 closed.
    """
    last = len(position) - 1
    below = np.clip(np.floor(rows).astype(int), 0, last)
    above = np.clip(np.ceil(rows).astype(int), 0, last)  # at a whole row, the row itself
    share = (rows - below)[..., None, None]  # (t, i, 1, 1), of the way from below to above
    arms = [
        position[below] + share * (position[above] - position[below]),
        slerp(quaternion[below], quaternion[above], share),
        (closed[below] + share[..., 0] * (closed[above] - closed[below]))[..., None],
    ]
    return np.concatenate(arms, axis=-1).reshape(*rows.shape, 16).astype("float32")


def slerp(
    start: Float64[np.ndarray, "*batch 4"],
    end: Float64[np.ndarray, "*batch 4"],
    share: Float64[np.ndarray, "..."],
) -> Float64[np.ndarray, "*batch 4"]:
    """The unit quaternion `share` of the way along the shorter arc; exactly `start` at 0, in
    `start`'s sign.

    Shoemake 1985, "Animating rotation with quaternion curves".
    """
    cosine = (start * end).sum(-1, keepdims=True)
    end = np.where(cosine < 0, -end, end)
    angle = np.arccos(np.clip(np.abs(cosine), 0.0, 1.0))
    small = angle < 1e-6
    sine = np.where(small, 1.0, np.sin(angle))
    mixed = np.where(small, 1.0 - share, np.sin((1.0 - share) * angle) / sine) * start
    mixed = mixed + np.where(small, share, np.sin(share * angle) / sine) * end
    return np.where(share == 0.0, start, mixed / np.linalg.norm(mixed, axis=-1, keepdims=True))
