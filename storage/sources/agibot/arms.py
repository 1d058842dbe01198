"""Resolves signs, lengths and gaps of AGIBOT's arm tracks, on arrays alone.

A reading that was lost is NaN, never a pose: the clips that need it are rejected.
"""

import numpy as np
from jaxtyping import Bool, Float64, Int64

IDENTITY = np.array([0.0, 0.0, 0.0, 1.0])
UNIT_LENGTHS = (0.5, 2.0)  # a quaternion of another length is no rotation that lacks its scale
MAX_REACH_M = 2.0  # a command farther from where the hand usually is, is none


def filled(
    state: Float64[np.ndarray, "n ..."],
    rows: Int64[np.ndarray, " m"],
    sent: Float64[np.ndarray, "m ..."],
) -> Float64[np.ndarray, "n ..."]:
    """Commands `sent` at `rows`; other rows, where the robot got no command, equal the state."""
    action = state.copy()
    action[rows] = sent
    return action


def is_zero(vectors: Float64[np.ndarray, "n 2 i"]) -> Bool[np.ndarray, "n 2"]:
    """Rows with zeros instead of a rotation or a position."""
    return np.linalg.norm(vectors, axis=-1) < 1e-6


def unit(quaternion: Float64[np.ndarray, "n 2 4"]) -> Float64[np.ndarray, "n 2 4"]:
    """Quaternions of length 1; NaN where the reading was lost: zeros, or of no rotation's length.

    An arm with zeros in all rows is not there: it has the identity.
    """
    solid = np.where(is_zero(quaternion).all(axis=0, keepdims=True).T, IDENTITY, quaternion)
    length = np.linalg.norm(solid, axis=-1, keepdims=True)
    lost = ~((length > UNIT_LENGTHS[0]) & (length < UNIT_LENGTHS[1]))  # NaN compares as false
    return np.where(lost, np.nan, solid / np.where(lost, 1.0, length))


def known_position(position: Float64[np.ndarray, "n 2 3"]) -> Float64[np.ndarray, "n 2 3"]:
    """NaN where an arm that is there reads zeros: the base's origin is no place for a hand."""
    zero = is_zero(position)
    return np.where((zero & ~zero.all(0))[..., None], np.nan, position)


def within_reach(
    command: Float64[np.ndarray, "n 2 3"], hand: Float64[np.ndarray, "n 2 3"]
) -> Float64[np.ndarray, "n 2 3"]:
    """NaN where a command is farther than `MAX_REACH_M` from the hand's median position."""
    known = np.isfinite(hand).all(-1, keepdims=True)
    usual = np.ma.median(np.ma.masked_array(hand, np.broadcast_to(~known, hand.shape)), axis=0)
    far = np.linalg.norm(command - usual.filled(np.nan), axis=-1, keepdims=True) > MAX_REACH_M
    return np.where(far, np.nan, command)


def align_in_time(quaternion: Float64[np.ndarray, "n 2 4"]) -> Float64[np.ndarray, "n 2 4"]:
    """The same rotations without jumps from q to -q; an arm's largest component is positive.

    The latter gives episodes with similar postures similar numbers, whatever the first row's sign.
    A row after a hole has the sign that is nearer to the last row before it.
    """
    before = last_known(quaternion)[:-1]
    turned = (quaternion[1:] * before).sum(-1) < 0  # (n-1, 2); NaN compares as false
    sign = np.cumprod(np.concatenate([np.ones((1, 2)), np.where(turned, -1.0, 1.0)]), axis=0)
    track = quaternion * sign[..., None]
    mean = np.nan_to_num(track).mean(0)  # (2, 4)
    largest = np.take_along_axis(mean, np.abs(mean).argmax(-1)[:, None], axis=-1)  # (2, 1)
    return track * np.where(largest < 0, -1.0, 1.0)


def align_to(
    quaternion: Float64[np.ndarray, "n 2 4"], reference: Float64[np.ndarray, "n 2 4"]
) -> Float64[np.ndarray, "n 2 4"]:
    """The same rotations, each with the sign that is nearer to the reference's last known row."""
    near = last_known(last_known(reference)[::-1])[::-1]  # before the first one: that one
    return quaternion * np.where((quaternion * near).sum(-1, keepdims=True) < 0, -1.0, 1.0)


def last_known(track: Float64[np.ndarray, "n 2 i"]) -> Float64[np.ndarray, "n 2 i"]:
    """Each arm's last row without NaN, up to and including this one; NaN before the first."""
    known = np.isfinite(track).all(-1)  # (n, 2)
    rows = np.maximum.accumulate(np.where(known, np.arange(len(track))[:, None], 0), axis=0)
    return np.take_along_axis(track, rows[..., None], axis=0)
