"""Reads `proprio_stats.h5`: the robot's measurements (`state`) and commands (`action`).

The rows are the source's own (nominally 30 Hz), with the file's irregularities resolved: actions
for some rows only, quaternions that change sign or are zero, grippers in three different units.
`notes` lists what was done.
"""

from dataclasses import dataclass, replace

import h5py
import numpy as np
from jaxtyping import Float64, Int64

from storage.sources.agibot.arms import (
    align_in_time,
    align_to,
    closed_fraction,
    filled,
    gripper_sense,
    is_zero,
    unit,
)
from storage.sources.agibot.proprio_file import (
    Effector,
    action_rows,
    effector_of,
    open_h5,
    read_times,
    state_dataset,
)
from storage.sources.file_ref import FileRef, SourceError

NOTES = (
    "action_filled",  # commands for some rows only: the others equal the state
    "action_absent",  # a group of commands is empty or all zero: it equals the state
    "zero_quaternion",  # became the identity
    "gripper_inverted",  # state/effector opposed action/effector and was inverted
    "gripper_unverified",  # state/effector could not be compared with action/effector
    "no_head_or_waist",
)


@dataclass(frozen=True, kw_only=True)
class Motion:
    """Both arms (0 left, 1 right), head and waist of an episode, measured or commanded.

    position in m and quaternion (xyzw, unit, without sign changes in time): flange in the base
    frame, whose x points forward, y left, z up. joint in rad, left 0:7, right 7:14. closed: 0 open
    .. 1 closed. effector: as in the file. head: yaw, pitch in rad; waist: pitch in rad, lift in m;
    NaN if the file has none.
    """

    position: Float64[np.ndarray, "n 2 3"]
    quaternion: Float64[np.ndarray, "n 2 4"]
    joint: Float64[np.ndarray, "n 14"]
    closed: Float64[np.ndarray, "n 2"]
    effector: Float64[np.ndarray, "n e"]
    head: Float64[np.ndarray, "n 2"]
    waist: Float64[np.ndarray, "n 2"]


@dataclass(frozen=True, kw_only=True)
class Proprio:
    """notes: irregularities that were resolved, of `NOTES`."""

    timestamps_ns: Int64[np.ndarray, " n"]
    state: Motion
    action: Motion
    effector: Effector
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ProprioHeader:
    """What the index needs of an episode, without its tracks."""

    timestamps_ns: Int64[np.ndarray, " n"]
    effector: Effector


def read_proprio_header(ref: FileRef) -> ProprioHeader:
    """Times and effector. Raises SourceError like `read_proprio`, for names, shapes and times."""
    with open_h5(ref) as file:
        times = read_times(file, ref)
        for name in ("effector/position", "joint/position", "end/position", "end/orientation"):
            state_dataset(file, ref, name, len(times))
            action_rows(file, ref, name, len(times))
        return ProprioHeader(timestamps_ns=times, effector=effector_of(file, ref))


def read_proprio(ref: FileRef) -> Proprio:
    """All rows of the episode.

    Raises SourceError: `missing_file`; `missing_proprio_key`; `corrupt_proprio` (no HDF5,
    inconsistent lengths, more actions than rows); `bad_timestamps` (not nanoseconds, not rising).
    """
    notes: set[str] = set()
    with open_h5(ref) as file:
        times = read_times(file, ref)
        effector = effector_of(file, ref)
        state = _state(file, ref, len(times), notes)
        action = _action(file, ref, state, notes)
        sent, _ = _sent(file, ref, "effector/position", state.effector)
    sense = gripper_sense(state.closed[sent], action.closed[sent])
    if effector == "gripper" and sense is None:
        notes.add("gripper_unverified")
    if effector == "gripper" and sense == -1:
        notes.add("gripper_inverted")
        state = replace(state, closed=1.0 - state.closed)
        action = replace(action, closed=filled(state.closed, sent, action.closed[sent]))
    return Proprio(
        timestamps_ns=times,
        state=state,
        action=action,
        effector=effector,
        notes=tuple(note for note in NOTES if note in notes),
    )


def _state(file: h5py.File, ref: FileRef, n: int, notes: set[str]) -> Motion:
    def read(name: str) -> Float64[np.ndarray, "n ..."]:
        return state_dataset(file, ref, name, n)[:].astype(float)

    def read_pair(name: str) -> Float64[np.ndarray, "n 2"]:
        found = file.get(f"state/{name}")
        if isinstance(found, h5py.Dataset) and found.shape == (n, 2):
            return found[:].astype(float)
        notes.add("no_head_or_waist")
        return np.full((n, 2), np.nan)

    quaternion = read("end/orientation")
    if is_zero(quaternion).any():
        notes.add("zero_quaternion")
    return Motion(
        position=read("end/position"),
        quaternion=align_in_time(unit(quaternion)),
        joint=read("joint/position"),
        closed=closed_fraction(read("effector/position")),
        effector=read("effector/position"),
        head=read_pair("head/position"),
        waist=read_pair("waist/position"),
    )


def _action(file: h5py.File, ref: FileRef, state: Motion, notes: set[str]) -> Motion:
    tracks = {
        "end/position": state.position,
        "end/orientation": state.quaternion,
        "joint/position": state.joint,
        "effector/position": state.effector,
        "head/position": state.head,
        "waist/position": state.waist,
    }
    sent = {name: _sent(file, ref, name, track) for name, track in tracks.items()}
    lengths = {
        len(rows) for name, (rows, _) in sent.items() if not name.startswith(("head", "waist"))
    }
    if 0 in lengths:
        notes.add("action_absent")
    if lengths - {0, len(state.position)}:
        notes.add("action_filled")
    action = {name: filled(track, *sent[name]) for name, track in tracks.items()}
    # Files with a row for every frame have zeros where no pose was sent.
    unsent = is_zero(action["end/orientation"])[..., None]
    quaternion = np.where(unsent, state.quaternion, action["end/orientation"])
    rows, effector = sent["effector/position"]
    return Motion(
        position=np.where(unsent, state.position, action["end/position"]),
        quaternion=align_to(unit(quaternion), state.quaternion),
        joint=action["joint/position"],
        closed=filled(state.closed, rows, closed_fraction(effector)),
        effector=action["effector/position"],
        head=action["head/position"],
        waist=action["waist/position"],
    )


def _sent(
    file: h5py.File, ref: FileRef, name: str, state: Float64[np.ndarray, "n ..."]
) -> tuple[Int64[np.ndarray, " m"], Float64[np.ndarray, "m ..."]]:
    """(rows, values) of `action/<name>`; no rows if nothing was sent.

    Poses and joints that are all zero were not sent; effectors and head may rest at zero.
    """
    rows = action_rows(file, ref, name, len(state))
    if not len(rows):
        return rows, np.zeros((0, *state.shape[1:]))
    values = np.asarray(file[f"action/{name}"], float)
    if values.shape[1:] != state.shape[1:]:
        found = f"'action/{name}' {list(values.shape)}"
        expected = f"rows of {list(state.shape[1:])} as in the state"
        raise SourceError("corrupt_proprio", ref, found, expected)
    if name.startswith(("end", "joint")) and not values.any():
        return rows[:0], values[:0]
    return rows, values
