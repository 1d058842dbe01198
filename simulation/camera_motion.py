"""A head that sways: the camera's pose in each frame of an episode.

Smooth sums of sines, with periods of several seconds and any phase at the start. The camera
travels as well as turns, so near things shift against far ones. The robot's own states say nothing
of it, as if the whole robot swayed; only the camera's calibration does.
"""

from dataclasses import replace

import cv2
import numpy as np
from jaxtyping import Float

from simulation.scene import Camera

# How far a camera goes at camera_motion=1, in the base frame (forward, left, up)
TRAVEL_M = (0.03, 0.04, 0.015)
TURN_DEG = (4.0, 2.5, 1.5)  # pan about the vertical, tilt and roll about the camera's own axes
PERIODS_S = (3.0, 12.0)
N_SINES = 3


def moving_cameras(
    camera: Camera, times_s: Float[np.ndarray, " t"], motion: float, rng: np.random.Generator
) -> tuple[Camera, ...]:
    """The camera at each time, around the pose of `camera`; motion: times the limits above."""
    if motion == 0:
        return (camera,) * len(times_s)
    travel = sways(times_s, rng) * TRAVEL_M * motion
    turn = np.radians(sways(times_s, rng) * TURN_DEG * motion)
    return tuple(
        replace(
            camera,
            position_m=camera.position_m + shift,
            rotation=_about(2, pan) @ camera.rotation @ _about(0, tilt) @ _about(2, roll),
        )
        for shift, (pan, tilt, roll) in zip(travel, turn, strict=True)
    )


def sways(times_s: Float[np.ndarray, " t"], rng: np.random.Generator) -> Float[np.ndarray, "t 3"]:
    """Three independent curves that stay in [-1, 1], each a sum of sines."""
    periods = rng.uniform(*PERIODS_S, (N_SINES, 3))
    phases = rng.uniform(0, 2 * np.pi, (N_SINES, 3))
    shares = rng.dirichlet(np.ones(N_SINES), 3).T
    waves = np.sin(2 * np.pi * times_s[:, None, None] / periods + phases)
    return (waves * shares).sum(axis=1)


def _about(axis: int, angle: float) -> Float[np.ndarray, "3 3"]:
    """The rotation by `angle` (rad) about a coordinate axis."""
    return cv2.Rodrigues(np.eye(3)[axis] * angle)[0]
