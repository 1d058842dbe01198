# pyright: reportAttributeAccessIssue=false
# pyright: reportAttributeAccessIssue=false
"""Exact ground truth of a simulated episode, kept beside AGIBOT's files (`<root>/ground_truth/<task>/<episode>/`).

Depth and geom id of every pixel, and the world pose of every geom, in every frame. Only evaluation may read it.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
from jaxtyping import Bool, Float, Float16, Int, UInt8

from stages.simulation.episode import Trajectory
from stages.simulation.scene import Camera, Scene

NOTHING = 255  # geom id of a pixel that sees no geom
DEPTH_TOLERANCE = 0.01  # of the depth: more than float16 rounding and the slope within a pixel, less than any thing


@dataclass(frozen=True, kw_only=True)
class GroundTruth:
    depth_m: Float16[np.ndarray, "t h w"]  # along the optical axis
    geom: UInt8[np.ndarray, "t h w"]  # geom ids; NOTHING where there is none
    geom_position_m: Float[np.ndarray, "t g 3"]  # in the base frame
    geom_axes: Float[np.ndarray, "t g 3 3"]
    geom_body: tuple[str, ...]  # name of the nearest named body that each geom belongs to ("world": stands still)
    camera: Camera
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
            {"hand": s.side, "skill": s.skill, "object": s.object_name, "start_s": s.start_s, "success": s.success}
            for s in trajectory.segments
        ],
    }


def write_ground_truth(folder: Path, truth: GroundTruth) -> None:
    """`truth.npz` and `labels.json`; images as differences to the frame before, which compress far better."""
    folder.mkdir(parents=True, exist_ok=True)
    camera = truth.camera
    np.savez_compressed(
        folder / "truth.npz",
        depth_steps=_steps(truth.depth_m.view(np.uint16)),
        geom_steps=_steps(truth.geom),
        geom_position_m=truth.geom_position_m,
        geom_axes=truth.geom_axes.astype(np.float32),
        intrinsics=np.array([camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy]),
        camera_position_m=camera.position_m,
        camera_rotation=camera.rotation,
    )
    (folder / "labels.json").write_text(json.dumps({**truth.labels, "geom_body": truth.geom_body}, indent=1))


def read_ground_truth(folder: Path) -> GroundTruth:
    """What `write_ground_truth` wrote. Raises FileNotFoundError where the sample was made without ground truth."""
    if not (folder / "truth.npz").is_file():
        raise FileNotFoundError(
            f"no ground truth in {folder}: only simulated episodes have it, and only if made with ground_truth=True"
        )
    labels = json.loads((folder / "labels.json").read_text())
    with np.load(folder / "truth.npz") as z:
        width, height, fx, fy, cx, cy = z["intrinsics"].tolist()
        camera = Camera(
            width=int(width), height=int(height), fx=fx, fy=fy, cx=cx, cy=cy,
            position_m=z["camera_position_m"], rotation=z["camera_rotation"],
        )  # fmt: skip
        return GroundTruth(
            depth_m=np.cumsum(z["depth_steps"], axis=0, dtype=np.uint16).view(np.float16),
            geom=np.cumsum(z["geom_steps"], axis=0, dtype=np.uint8),
            geom_position_m=z["geom_position_m"],
            geom_axes=z["geom_axes"].astype(np.float64),
            geom_body=tuple(labels.pop("geom_body")),
            camera=camera,
            labels=labels,
        )


def tracks_from(
    truth: GroundTruth, frame_indices: Int[np.ndarray, " t"], query_xy: Float[np.ndarray, "p 2"]
) -> tuple[Float[np.ndarray, "t p 2"], Bool[np.ndarray, "t p"]]:
    """Where the surface points seen at `query_xy` in the first of the frames are in each of them, and whether seen.

    Pixels are those of the episode's own video: (x, y), (0, 0) the centre of the top-left one. Each point moves with the
    geom under it. It is visible where it lies inside the picture and not more than `DEPTH_TOLERANCE` behind the depth
    map. Raises ValueError for a query outside the picture.
    """
    camera, first = truth.camera, int(frame_indices[0])
    edge = np.array([camera.width, camera.height]) - 0.5
    outside = np.flatnonzero(((query_xy < -0.5) | (query_xy >= edge)).any(axis=1))
    if len(outside):
        raise ValueError(
            f"query {query_xy[outside[0]].tolist()} is outside the {camera.width}x{camera.height} picture: "
            "queries are pixels (x, y) of the episode's own video"
        )
    geom = _nearest(truth.geom[first], query_xy)
    points = unproject(camera, query_xy, _depth_at(truth, first, query_xy))
    still = geom == NOTHING  # a point that is nowhere stays where it is
    g = np.where(still, 0, geom)
    local = np.einsum("pji,pj->pi", truth.geom_axes[first, g], points - truth.geom_position_m[first, g])
    moved = truth.geom_position_m[frame_indices][:, g]
    moved = moved + np.einsum("tpij,pj->tpi", truth.geom_axes[frame_indices][:, g], local)
    world = np.where(still[:, None], points, moved)
    tracks, depth = project(camera, world)
    return tracks, _visible(truth, frame_indices, tracks, depth)


def unproject(
    camera: Camera, xy: Float[np.ndarray, "p 2"], depth_m: Float[np.ndarray, " p"]
) -> Float[np.ndarray, "p 3"]:
    """Points in the base frame of pixels with depth along the optical axis."""
    local = np.stack([(xy[:, 0] - camera.cx) / camera.fx, (xy[:, 1] - camera.cy) / camera.fy, np.ones(len(xy))], axis=1)
    return camera.position_m + (local * depth_m[:, None]) @ camera.rotation.T


def project(
    camera: Camera, points: Float[np.ndarray, "*batch 3"]
) -> tuple[Float[np.ndarray, "*batch 2"], Float[np.ndarray, "*batch"]]:
    """Pixels and depths of points in the base frame. A point behind the camera has a negative depth and a far pixel."""
    local = (points - camera.position_m) @ camera.rotation
    z = np.where(np.abs(local[..., 2]) < 1e-6, 1e-6, local[..., 2])
    x = local[..., 0] / z * camera.fx + camera.cx
    y = local[..., 1] / z * camera.fy + camera.cy
    return np.stack([x, y], axis=-1), local[..., 2]


def _visible(
    truth: GroundTruth,
    frame_indices: Int[np.ndarray, " t"],
    tracks: Float[np.ndarray, "t p 2"],
    depth_m: Float[np.ndarray, "t p"],
) -> Bool[np.ndarray, "t p"]:
    """Nothing is clearly nearer at all four pixels around the point (one of them alone may belong to another thing)."""
    size = np.array([truth.camera.width, truth.camera.height])
    inside = ((tracks > -0.5) & (tracks < size - 0.5)).all(axis=-1) & (depth_m > 0)
    corner = np.floor(np.where(inside[..., None], tracks, 0)).astype(int)
    seen = np.zeros(depth_m.shape)
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        x, y = np.moveaxis(np.clip(corner + (dx, dy), 0, size - 1), -1, 0)
        seen = np.maximum(seen, truth.depth_m[np.asarray(frame_indices)[:, None], y, x])
    return inside & (depth_m <= seen * (1 + DEPTH_TOLERANCE))


def _depth_at(truth: GroundTruth, frame: int, xy: Float[np.ndarray, "p 2"]) -> Float[np.ndarray, " p"]:
    """Depth at pixels: between four pixels of one geom, inverse depth is interpolated (exact on planes); elsewhere the
    nearest pixel's depth is taken."""
    size = np.array([truth.camera.width, truth.camera.height])
    corner = np.floor(xy).astype(int)
    part = xy - corner
    nearest = _nearest(truth.geom[frame], xy)
    total, one_geom = np.zeros(len(xy)), np.ones(len(xy), bool)
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        x, y = np.clip(corner + (dx, dy), 0, size - 1).T
        weight = np.where(dx, part[:, 0], 1 - part[:, 0]) * np.where(dy, part[:, 1], 1 - part[:, 1])
        total += weight / truth.depth_m[frame, y, x].astype(np.float64)
        one_geom &= truth.geom[frame, y, x] == nearest
    return np.where(one_geom, 1 / total, _nearest(truth.depth_m[frame], xy).astype(np.float64))


def _nearest(image: np.ndarray, xy: Float[np.ndarray, "p 2"]) -> np.ndarray:
    x, y = np.floor(xy + 0.5).astype(int).T
    return image[y, x]


def _steps(images: np.ndarray) -> np.ndarray:
    """First image, then differences modulo the integer type's range (undone by a cumulative sum)."""
    return np.concatenate([images[:1], images[1:] - images[:-1]])
