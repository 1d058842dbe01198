"""Reads `proprio_stats.h5`: the robot's measurements (`state`) and commands (`action`).

The rows are the source's own (nominally 30 Hz), with the file's irregularities resolved: actions
for some rows only, quaternions that change sign or are zero, grippers in three different units.
`notes` lists what was done. Readings that were lost are NaN.
"""

from dataclasses import dataclass, replace

import h5py
import numpy as np
from jaxtyping import Float64, Int64

from storage.sources.agibot.arms import (
    align_in_time,
    align_to,
    filled,
    is_zero,
    known_position,
    unit,
    within_reach,
)
from storage.sources.agibot.gripper import closed_fraction, gripper_sense
from storage.sources.agibot.proprio_file import (
    Effector,
    action_dataset,
    action_rows,
    effector_of,
    open_h5,
    optional_dataset,
    read_times,
    state_dataset,
)
from storage.sources.file_ref import FileRef, SourceError

NOTES = (
    "action_filled",  # commands for some rows only: the others equal the state
    "action_absent",  # a group of commands is empty or all zero: it equals the state
    # Rows are NaN where an arm lost its rotation; an arm without any has the identity
    "zero_quaternion",
    "gripper_inverted",  # state/effector opposed action/effector and was inverted
    "gripper_unverified",  # state/effector could not be compared with action/effector
    "no_head_or_waist",
)


MAX_TYPICAL_M = 10.0  # of a hand from its base, in most rows; in mm it would be some 500


@dataclass(frozen=True, kw_only=True)
class Motion:
    """Both arms (0 left, 1 right), head and waist of an episode, measured or commanded.

    position in m and quaternion (xyzw, unit, without sign changes in time): flange in the base
    frame, whose x points forward, y left, z up. joint in rad, left 0:7, right 7:14. closed: 0 open
    .. 1 closed. These are NaN where the reading was lost. effector: as in the file. head: yaw,
    pitch in rad; waist: pitch in rad, lift in m; NaN if the file has none.
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
    inconsistent lengths, more actions than rows); `foreign_data` (it points to other files);
    `bad_timestamps` (not nanoseconds, not rising); `implausible_units`.
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
        found = optional_dataset(file, ref, f"state/{name}")
        if found is not None and found.shape == (n, 2):
            return found[:].astype(float)
        notes.add("no_head_or_waist")
        return np.full((n, 2), np.nan)

    position, quaternion = read("end/position"), read("end/orientation")
    check_metres(position, ref)
    if is_zero(quaternion).any():
        notes.add("zero_quaternion")
    return Motion(
        position=known_position(position),
        quaternion=align_in_time(unit(quaternion)),
        joint=read("joint/position"),
        closed=_closed(read("effector/position"), ref, "state"),
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
        position=within_reach(
            np.where(unsent, state.position, known_position(action["end/position"])),
            state.position,
        ),
        quaternion=align_to(unit(quaternion), state.quaternion),
        joint=action["joint/position"],
        closed=filled(state.closed, rows, _closed(effector, ref, "action")),
        effector=action["effector/position"],
        head=action["head/position"],
        waist=action["waist/position"],
    )


def _closed(
    raw: Float64[np.ndarray, "n e"], ref: FileRef, group: str
) -> Float64[np.ndarray, "n 2"]:
    try:
        return closed_fraction(raw)
    except ValueError as error:
        expected = "fractions, 35 open to 120 closed, or 0 to 120; hands in rad"
        item = f"'{group}/effector/position': {error}"
        raise SourceError("implausible_units", ref, item, expected) from error


def check_metres(position: Float64[np.ndarray, "n 2 3"], ref: FileRef) -> None:
    """Raises SourceError (`implausible_units`) for hands far away from their robot."""
    typical = float(np.nan_to_num(np.nanmedian(np.linalg.norm(position, axis=-1))))
    if typical > MAX_TYPICAL_M:
        found = f"'state/end/position': hands {typical:.4g} from the base in most rows"
        raise SourceError("implausible_units", ref, found, f"m, at most {MAX_TYPICAL_M:g}")


def _sent(
    file: h5py.File, ref: FileRef, name: str, state: Float64[np.ndarray, "n ..."]
) -> tuple[Int64[np.ndarray, " m"], Float64[np.ndarray, "m ..."]]:
    """(rows, values) of `action/<name>`; no rows if nothing was sent.

    Poses and joints that are all zero were not sent; effectors and head may rest at zero.
    """
    rows = action_rows(file, ref, name, len(state))
    if not len(rows):
        return rows, np.zeros((0, *state.shape[1:]))
    values = action_dataset(file, ref, name, state.shape[1:])[:].astype(float)
    if name.startswith(("end", "joint")) and not values.any():
        return rows[:0], values[:0]
    return rows, values
