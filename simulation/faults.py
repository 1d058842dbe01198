"""Deliberately faulty episodes for testing readers, with the faults of real AGIBOT-World downloads.

An episode is simulated and written as usual; then its files are damaged. `FAULTS` lists the kinds,
`sample.json` which episode has which. `simulate_faulty` makes those that change the simulation
instead of its files.
"""

import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import av
import h5py
import numpy as np

from simulation import agibot_writer as agibot
from simulation.config import SampleConfig
from simulation.episode import Trajectory
from simulation.recording import Episode, simulate_episode

SHORT_S = 5.0  # shorter than a clip of 16 frames at 2 Hz (7.5 s)


def simulate_faulty(config: SampleConfig, number: int, kind: str) -> Episode:
    """The episode before its files are damaged."""
    if kind == "too_short":
        config = replace(config, duration_s=min(config.duration_s, SHORT_S))
    episode = simulate_episode(config, number)
    if kind == "static":
        still = episode.cameras[:1] * len(episode.cameras)
        return replace(episode, trajectory=_freeze(episode.trajectory), cameras=still)
    return episode


def damage(root: Path, episode: Episode, kind: str) -> None:
    """Damages the files of an episode that `write_episode` has written under `root`."""
    FAULTS[kind](root, episode)


def _leave(root: Path, episode: Episode) -> None:
    """No damage: the fault is in the simulation or in `task_info`."""


def _short_actions(root: Path, episode: Episode) -> None:
    """Joint and end actions lack their first and last rows.

    `action/joint/index` lists their rows, and `action/end/index` is empty, as seen in Beta.
    """
    with _proprio(root, episode) as file:
        n = len(_get(file, "timestamp"))
        rows = np.arange(max(n // 50, 1), n - max(n // 33, 1))
        for name in ("action/joint/position", "action/end/position", "action/end/orientation"):
            _put(file, name, _get(file, name)[rows])
        _put(file, "action/joint/index", rows.astype(np.int64))
        _put(file, "action/end/index", np.zeros(0, np.int64))


def _long_actions(root: Path, episode: Episode) -> None:
    """More action rows than time stamps: nothing says which rows are right."""
    with _proprio(root, episode) as file:
        for name in ("action/joint/position", "action/end/position", "action/end/orientation"):
            rows = _get(file, name)
            _put(file, name, np.concatenate([rows, rows[-3:]]))


def _quaternion_flips(root: Path, episode: Episode) -> None:
    """Some quaternions have the opposite sign, for the same rotations."""
    with _proprio(root, episode) as file:
        for name in ("state/end/orientation", "action/end/orientation"):
            q = _get(file, name)
            q[len(q) // 3 :, 0] *= -1
            q[len(q) // 2, 1] *= -1
            _put(file, name, q)


def _missing_key(root: Path, episode: Episode) -> None:
    with _proprio(root, episode) as file:
        del file["state/end/position"]


def _truncated_video(root: Path, episode: Episode) -> None:
    """The file ends after 60 % of its bytes, as after an interrupted download."""
    path = root / agibot.video_path(episode.task.id, episode.id)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])


def _short_video(root: Path, episode: Episode) -> None:
    """The video has 30 % fewer frames than the h5 has rows."""
    frames = _decode(root, episode)
    _encode(root, episode, frames[: len(frames) * 7 // 10])


def _shot_cut(root: Path, episode: Episode) -> None:
    """The second half is the first one again, upside down and in other colours."""
    frames = _decode(root, episode)
    middle = len(frames) // 2
    again = frames[: len(frames) - middle]
    other = [np.ascontiguousarray(255 - rgb[::-1, :, [2, 0, 1]]) for rgb in again]
    _encode(root, episode, frames[:middle] + other)


def _depth_off_by_one(root: Path, episode: Episode) -> None:
    folder = root / agibot.observation_folder(episode.task.id, episode.id) / "depth"
    max(folder.iterdir()).unlink()


def _no_calibration(root: Path, episode: Episode) -> None:
    shutil.rmtree(root / "parameters" / str(episode.task.id) / str(episode.id))


def _no_files(root: Path, episode: Episode) -> None:
    """`task_info` lists an episode without files."""
    for folder in ("observations", "parameters", "proprio_stats", "ground_truth"):
        shutil.rmtree(root / folder / str(episode.task.id) / str(episode.id), ignore_errors=True)


FAULTS: dict[str, Callable[[Path, Episode], None]] = {
    "short_actions": _short_actions,
    "long_actions": _long_actions,
    "quaternion_flips": _quaternion_flips,
    "missing_key": _missing_key,
    "truncated_video": _truncated_video,
    "short_video": _short_video,
    "shot_cut": _shot_cut,
    "depth_off_by_one": _depth_off_by_one,
    "no_calibration": _no_calibration,
    "too_short": _leave,
    "static": _leave,
    "no_files": _no_files,
    "not_listed": _leave,  # `dataset` leaves it out of task_info
}


def _freeze(trajectory: Trajectory) -> Trajectory:
    """Every row equals the first: nothing moves, nothing is commanded, no attempt ends."""
    frozen = {}
    for field in fields(trajectory):
        if isinstance(value := getattr(trajectory, field.name), np.ndarray):
            frozen[field.name] = np.repeat(value[:1], len(value), axis=0)
    segments = tuple(replace(segment, success=None) for segment in trajectory.segments)
    return replace(trajectory, segments=segments, **frozen)


def _proprio(root: Path, episode: Episode) -> h5py.File:
    folder = root / agibot.proprio_folder(episode.task.id, episode.id)
    return h5py.File(folder / "proprio_stats.h5", "r+")


def _get(file: h5py.File, name: str) -> np.ndarray:
    return np.asarray(file[name])


def _put(file: h5py.File, name: str, array: np.ndarray) -> None:
    del file[name]
    file.create_dataset(name, data=array, track_times=False)


def _decode(root: Path, episode: Episode) -> list[np.ndarray]:
    with av.open(str(root / agibot.video_path(episode.task.id, episode.id))) as video:
        return [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]


def _encode(root: Path, episode: Episode, frames: list[np.ndarray]) -> None:
    camera, path = episode.scene.camera, root / agibot.video_path(episode.task.id, episode.id)
    rate = episode.trajectory.rate_hz
    agibot.write_video(path, frames, size=(camera.width, camera.height), rate_hz=rate)
