"""Resolves signs, units and gaps of AGIBOT's arm and gripper tracks, on arrays alone."""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int64

GRIPPER_OPEN, GRIPPER_CLOSED = 35.0, 120.0  # state/effector of a G1, measured on six real clips
HAND_CLOSED_RAD = np.pi / 2  # mean finger angle of a closed hand; rough, not measured
MIN_VARIATION = 0.05  # standard deviation of a closed fraction below which its sense is unclear
MIN_CORRELATION = 0.3
IDENTITY = np.array([0.0, 0.0, 0.0, 1.0])


def filled(
    state: Float64[np.ndarray, "n ..."],
    rows: Int64[np.ndarray, " m"],
    sent: Float64[np.ndarray, "m ..."],
) -> Float64[np.ndarray, "n ..."]:
    """Commands `sent` at `rows`; other rows, where the robot got no command, equal the state."""
    action = state.copy()
    action[rows] = sent
    return action


def is_zero(quaternion: Float64[np.ndarray, "n 2 4"]) -> Bool[np.ndarray, "n 2"]:
    """Rows with zeros instead of a rotation."""
    return np.linalg.norm(quaternion, axis=-1) < 1e-6


def unit(quaternion: Float64[np.ndarray, "n 2 4"]) -> Float64[np.ndarray, "n 2 4"]:
    """Quaternions of length 1; zeros become the identity."""
    solid = np.where(is_zero(quaternion)[..., None], IDENTITY, quaternion)
    return solid / np.linalg.norm(solid, axis=-1, keepdims=True)


def align_in_time(quaternion: Float64[np.ndarray, "n 2 4"]) -> Float64[np.ndarray, "n 2 4"]:
    """The same rotations without jumps from q to -q; an arm's largest component is positive.

    The latter gives episodes with similar postures similar numbers, whatever the first row's sign.
    """
    turned = (quaternion[1:] * quaternion[:-1]).sum(-1) < 0  # (n-1, 2)
    sign = np.cumprod(np.concatenate([np.ones((1, 2)), np.where(turned, -1.0, 1.0)]), axis=0)
    track = quaternion * sign[..., None]
    mean = np.nan_to_num(track).mean(0)  # (2, 4)
    largest = np.take_along_axis(mean, np.abs(mean).argmax(-1)[:, None], axis=-1)  # (2, 1)
    return track * np.where(largest < 0, -1.0, 1.0)


def align_to(
    quaternion: Float64[np.ndarray, "n 2 4"], reference: Float64[np.ndarray, "n 2 4"]
) -> Float64[np.ndarray, "n 2 4"]:
    """The same rotations, each with the sign that is nearer to the reference."""
    return quaternion * np.where((quaternion * reference).sum(-1, keepdims=True) < 0, -1.0, 1.0)


def closed_fraction(raw: Float64[np.ndarray, "n e"]) -> Float64[np.ndarray, "n 2"]:
    """0 open .. 1 closed, left and right, from any of the units found in the data.

    Grippers (2 wide): a fraction already; about 35 open to 120 closed (usual in AGIBOT-World); or
    0 to 120. Hands (12 wide): mean angle of the six finger joints over `HAND_CLOSED_RAD`; rough,
    not validated on a real hand.
    """
    if raw.shape[1] == 12:
        return np.clip(raw.reshape(-1, 2, 6).mean(-1) / HAND_CLOSED_RAD, 0.0, 1.0)
    if np.nanmax(raw, initial=0.0) <= 1.5:
        return np.clip(raw, 0.0, 1.0)
    open_at = GRIPPER_OPEN if np.nanmin(raw) > 20 else 0.0
    return np.clip((raw - open_at) / (GRIPPER_CLOSED - open_at), 0.0, 1.0)


def gripper_sense(
    measured: Float64[np.ndarray, "m 2"], commanded: Float64[np.ndarray, "m 2"]
) -> Literal[1, -1] | None:
    """Whether measured fractions follow (1) or oppose (-1) the commanded ones; None if unclear.

    One answer for both arms: by the correlation over both, after subtracting each arm's mean.
    """
    if len(measured) < 2:
        return None
    x, y = measured - measured.mean(0), commanded - commanded.mean(0)
    if not min(x.std(), y.std()) >= MIN_VARIATION:
        return None
    correlation = (x * y).mean() / (x.std() * y.std())
    if abs(correlation) < MIN_CORRELATION:
        return None
    return 1 if correlation > 0 else -1
