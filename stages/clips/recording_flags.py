"""What the stage `clip` notes about a recording: names, meanings, and which are doubts."""

import numpy as np
from jaxtyping import Int

from stages.flag_counts import Flagged
from storage.stores.rows import Rows

# What each of the recording's flags means, and whether it puts the clip in doubt
RECORDING = {
    "action_filled": ("commands exist for some rows only; the others take the state", True),
    "action_absent": ("a group of commands is empty or all zero; the state is taken for it", True),
    "zero_quaternion": ("an arm lost its rotation somewhere in the episode, or has none", True),
    "gripper_inverted": ("the gripper's state opposed its commands and was inverted", True),
    "gripper_unverified": ("the gripper's state could not be compared with its commands", True),
    "no_head_or_waist": ("the file has no readings of head or waist", False),
    "hand_effector": ("the robot has hands; their closing stands for a gripper's", False),
    "count_mismatch": ("video, rows and extrinsics differ by a few; paired by number", True),
    "no_intrinsics": ("the camera's intrinsics are unknown (NaN)", False),
    "no_extrinsics": ("the camera's poses are unknown (NaN)", False),
}

FLAGS = tuple(RECORDING)  # in the order of the array `flags`
DOUBTS = tuple(name for name, (_, is_doubt) in RECORDING.items() if is_doubt)


def recording_flags(store: Rows, rows: Int[np.ndarray, " n"]) -> Flagged:
    """The flags of these rows of a store `clip`."""
    found = store.gather("flags", rows)
    # A store says which flags it has: other versions know others
    named = tuple(store.spec("flags").about.split(", "))
    names = named if len(named) == found.shape[1] else FLAGS
    return {name: found[:, i] for i, name in enumerate(names)}
