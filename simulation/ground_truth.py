# MuJoCo's functions are compiled and have no stubs.
# pyright: reportAttributeAccessIssue=false
"""Exact ground truth of a simulated episode, in `<root>/ground_truth/<task>/<episode>/`.

Depth and geom id of every pixel, and the world pose of every geom, in every frame. Who may
read it says `stages.simulated_truth`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import mujoco
import numpy as np
from jaxtyping import Float, Float16, UInt8

from simulation.episode import Trajectory
from simulation.scene import Camera, Scene

NOTHING = 255  # geom id of a pixel that sees no geom
# Bodies that never move; "world" is floor, wall, table and what stands at its far end
BACKGROUND = ("world", "tray")


@dataclass(frozen=True, kw_only=True)
class GroundTruth:
    depth_m: Float16[np.ndarray, "t h w"]  # along the optical axis
    geom: UInt8[np.ndarray, "t h w"]  # geom ids; NOTHING where there is none
    geom_position_m: Float[np.ndarray, "t g 3"]  # in the base frame
    geom_axes: Float[np.ndarray, "t g 3 3"]
    geom_body: tuple[str, ...]  # each geom's nearest named body
    cameras: tuple[Camera, ...]  # of each frame
    labels: dict  # task, objects, and every skill attempt with its success


def geom_poses(
    scene: Scene, qpos: Float[np.ndarray, "t q"]
) -> tuple[Float[np.ndarray, "t g 3"], Float[np.ndarray, "t g 3 3"]]:
    """World pose of every geom in every frame."""
    data, places = mujoco.MjData(scene.model), []
    for q in qpos:
        data.qpos[:] = q
        mujoco.mj_kinematics(scene.model, data)
        places.append((data.geom_xpos.copy(), data.geom_xmat.reshape(-1, 3, 3).copy()))
    return np.stack([p for p, _ in places]), np.stack([r for _, r in places])


def geom_bodies(scene: Scene) -> tuple[str, ...]:
    model, names = scene.model, []
    for body in model.geom_bodyid:
        while body and not model.body(body).name:
            body = model.body_parentid[body]
        names.append(model.body(body).name)
    return tuple(names)


def label_truth(scene: Scene, task_id: int, trajectory: Trajectory) -> dict:
    return {
        "task_id": task_id,
        "objects": {o.name: {"kind": o.kind, "words": o.words} for o in scene.objects},
        "attempts": [
            {
                "hand": s.side,
                "skill": s.skill,
                "object": s.object_name,
                "start_s": s.start_s,
                "success": s.success,
            }
            for s in trajectory.segments
        ],
    }


def write_ground_truth(folder: Path, truth: GroundTruth) -> None:
    """Writes `truth.npz` and `labels.json`; images as frame differences, which compress better.

    Of a camera that never moves one pose is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    camera = truth.cameras[0]
    position = np.stack([c.position_m for c in truth.cameras])
    rotation = np.stack([c.rotation for c in truth.cameras])
    still = (position == position[0]).all() and (rotation == rotation[0]).all()
    np.savez_compressed(
        folder / "truth.npz",
        depth_steps=_steps(truth.depth_m.view(np.uint16)),
        geom_steps=_steps(truth.geom),
        geom_position_m=truth.geom_position_m,
        geom_axes=truth.geom_axes.astype(np.float32),
        intrinsics=np.array(
            [camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy]
        ),
        camera_position_m=position[0] if still else position,
        camera_rotation=rotation[0] if still else rotation,
    )
    labels = {**truth.labels, "geom_body": truth.geom_body}
    (folder / "labels.json").write_text(json.dumps(labels, indent=1))


def read_ground_truth(folder: Path) -> GroundTruth:
    """What `write_ground_truth` wrote. Raises FileNotFoundError if there is none."""
    if not (folder / "truth.npz").is_file():
        raise FileNotFoundError(
            f"no ground truth in {folder}: only simulated episodes have it, and only if made with "
            "ground_truth=True"
        )
    labels = json.loads((folder / "labels.json").read_text())
    with np.load(folder / "truth.npz") as z:
        return GroundTruth(
            depth_m=np.cumsum(z["depth_steps"], axis=0, dtype=np.uint16).view(np.float16),
            geom=np.cumsum(z["geom_steps"], axis=0, dtype=np.uint8),
            geom_position_m=z["geom_position_m"],
            geom_axes=z["geom_axes"].astype(np.float64),
            geom_body=tuple(labels.pop("geom_body")),
            cameras=_cameras(z, len(z["geom_position_m"])),
            labels=labels,
        )


def _cameras(z: Mapping[str, np.ndarray], n_frames: int) -> tuple[Camera, ...]:
    """One a frame, from the pose of each or from the only one."""
    width, height, fx, fy, cx, cy = z["intrinsics"].tolist()
    position = np.broadcast_to(z["camera_position_m"], (n_frames, 3))
    rotation = np.broadcast_to(z["camera_rotation"], (n_frames, 3, 3))
    return tuple(
        Camera(
            width=int(width), height=int(height), fx=fx, fy=fy, cx=cx, cy=cy,
            position_m=p, rotation=r,
        )
        for p, r in zip(position, rotation, strict=True)
    )  # fmt: skip


def truth_beside(root: Path, task: int, episode: int) -> GroundTruth | None:
    """The ground truth of an episode of the data set at `root`; None where there is none."""
    folder = root / "ground_truth" / str(task) / str(episode)
    try:
        written = (folder / "truth.npz").stat().st_mtime_ns
    except FileNotFoundError:
        return None
    return _read_cached(folder, written)


# Clips of one episode follow each other, and an episode's images are hundreds of MB
@lru_cache(maxsize=1)
def _read_cached(folder: Path, written: int) -> GroundTruth:
    """written: when, so that a sample that is made again is read again."""
    return read_ground_truth(folder)


def _steps(images: np.ndarray) -> np.ndarray:
    """First image, then differences modulo the type's range; a cumulative sum restores them."""
    return np.concatenate([images[:1], images[1:] - images[:-1]])
