"""Clips, depth pictures and ground truth made by code, for the tests of the labels."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from simulation.ground_truth import GroundTruth, write_ground_truth
from simulation.scene import Camera
from stages.base import ClipInputs

T = 16


def textured(height: int, width: int, seed: int = 0) -> np.ndarray:
    """RGB with strong detail from 3 to 10 px, so that flow can be measured everywhere and no two
    places look alike.
    """
    rng = np.random.default_rng(seed)
    grey = sum(_noise(rng, (height, width), sigma) for sigma in (1.5, 3.0, 5.0))
    tint = _noise(rng, (height, width, 3), 8.0)
    return np.clip(128 + 35 * grey[..., None] + 10 * tint, 0, 255).astype(np.uint8)


def _noise(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> np.ndarray:
    layer = cv2.GaussianBlur(rng.standard_normal(shape), (0, 0), sigma)
    return layer / layer.std()


def still_clip(side: int = 96, seed: int = 0) -> np.ndarray:
    return np.broadcast_to(textured(side, side, seed), (T, side, side, 3)).copy()


def panned_clip(step: tuple[int, int], side: int = 96, seed: int = 0) -> np.ndarray:
    """A window that slides over a larger picture, so that everything in it moves by `step` (x, y)
    px a frame.
    """
    dx, dy = step
    margin = T * max(abs(dx), abs(dy)) + 1
    big = textured(side + 2 * margin, side + 2 * margin, seed)
    at = [(margin - t * dy, margin - t * dx) for t in range(T)]
    return np.stack([big[y : y + side, x : x + side] for y, x in at])


def turned_clip(
    pan: float, tilt: float = 0.004, side: int = 128, noise: float = 2.0, seed: int = 0
) -> np.ndarray:
    """What a camera sees that turns by `pan` and nods by `tilt` rad a frame before a still scene,
    with noise.

    Turning moves pixels as a homography does, whatever their distance. What moves out of
    the picture does not return.
    """
    rng = np.random.default_rng(seed)
    big = textured(400, 400, seed)
    to_rays, to_pixels = (
        np.array([[100, 0, c], [0, 100, c], [0, 0, 1.0]]) for c in (199.5, (side - 1) / 2)
    )
    frames = []
    for t in range(T):
        about_y, _ = cv2.Rodrigues(np.array([0, -pan * t, 0]))
        about_x, _ = cv2.Rodrigues(np.array([tilt * t, 0, 0]))
        turned = to_pixels @ about_x @ about_y @ np.linalg.inv(to_rays)
        frames.append(cv2.warpPerspective(big, turned, (side, side)))
    return np.clip(frames + noise * rng.standard_normal((T, side, side, 3)), 0, 255).astype(
        np.uint8
    )


def square_clip(side: int = 128, box: int = 36, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A textured square that slides right over a textured still background: (rgb, its left edge in
    each frame).
    """
    background, square = textured(side, side, seed), textured(box, box, seed + 1)
    left = np.round(np.linspace(8, side - box - 8, T)).astype(int)
    frames = []
    for x in left:
        frame = background.copy()
        frame[46 : 46 + box, x : x + box] = square
        frames.append(frame)
    return np.stack(frames), left


def one_clip(**arrays: np.ndarray) -> ClipInputs:
    return ClipInputs(row=0, clip_id="clip000", arrays=arrays)


def write_depth(folder: Path, pictures: dict[int, np.ndarray]) -> None:
    """16-bit millimetres as AGIBOT names them."""
    folder.mkdir(parents=True, exist_ok=True)
    for frame, millimetres in pictures.items():
        assert cv2.imwrite(str(folder / f"head_depth_{frame:06d}.png"), millimetres)


def box_truth(
    n_frames: int = 40,
    width: int = 64,
    height: int = 48,
    step_m: float = 0.01,
    turn: float = 0.0,
    travel_m: float = 0.0,
) -> GroundTruth:
    """A plate (geom 1, 1 m away, 0.24 m wide) that moves right over a wall (geom 0, 2 m away), seen
    from the front.

    turn: rad a frame about the optical axis; the plate is a disc then, so that what is seen of it
    stays the same. travel_m: of the camera, to the right in each frame.
    """
    camera = Camera(
        width=width, height=height, fx=40.0, fy=40.0, cx=(width - 1) / 2, cy=(height - 1) / 2,
        position_m=np.zeros(3), rotation=np.eye(3),
    )  # fmt: skip
    x, y = np.meshgrid(
        (np.arange(width) - camera.cx) / camera.fx, (np.arange(height) - camera.cy) / camera.fy
    )
    position, axes = np.zeros((n_frames, 2, 3)), np.tile(np.eye(3), (n_frames, 2, 1, 1))
    depth, geom = (
        np.full((n_frames, height, width), 2.0),
        np.zeros((n_frames, height, width), np.uint8),
    )
    position[:, 0, 2], position[:, 1, 2] = 2.0, 1.0
    for t in range(n_frames):
        position[t, 1, 0] = -0.3 + step_m * t if not turn else 0.0
        centre = position[t, 1, 0] - travel_m * t  # as the camera sees it
        c, s = np.cos(turn * t), np.sin(turn * t)
        axes[t, 1] = [[c, -s, 0], [s, c, 0], [0, 0, 1]]
        on = np.hypot(x, y) < 0.3 if turn else (abs(x - centre) < 0.12) & (abs(y) < 0.12)
        depth[t][on], geom[t][on] = 1.0, 1
    cameras = tuple(
        replace(camera, position_m=np.array([travel_m * t, 0, 0])) for t in range(n_frames)
    )
    return GroundTruth(
        depth_m=depth.astype(np.float16), geom=geom, geom_position_m=position, geom_axes=axes,
        geom_body=("world", "plate"), cameras=cameras, labels={},
    )  # fmt: skip


def write_box_sample(root: Path) -> Path:
    """A simulated data set with nothing but the exact truth of one episode, 1 of task 7: the box.

    Returns the root.
    """
    (root / "sample.json").write_text(json.dumps({"digest": "d" * 8}))
    write_ground_truth(root / "ground_truth" / "7" / "1", box_truth())
    return root
