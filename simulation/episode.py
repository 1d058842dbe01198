# MuJoCo's functions are compiled and have no stubs.
# pyright: reportAttributeAccessIssue=false
"""Simulates an episode: a scene and two hands' policies -> states and commands of every frame.

Commands change at a control rate of at least 30 Hz, a multiple of the video rate; in between, the
joint targets are interpolated linearly. Pictures are rendered later, from `qpos`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import mujoco
import numpy as np
from jaxtyping import Float

from simulation.arm import (
    FINGER_TRAVEL_M,
    FLANGE_TO_TIP_M,
    SIDES,
    ArmIk,
    hand_rotation,
    home_joints,
)
from simulation.policies import Task, start_policy
from simulation.scene import Scene
from simulation.skills import Command, Segment

CONTROL_HZ = 30.0
PHYSICS_S = 0.002  # longest physics step


class UnstableError(RuntimeError):
    """The physics of an episode diverged."""


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """One episode at the video rate: row k is at time k / rate_hz; arms are left, right.

    The flanges' poses are those of one physics step (2 ms or less) before `qpos`, as MuJoCo has
    them after a step.
    """

    rate_hz: float
    qpos: Float[np.ndarray, "t q"]  # of the MuJoCo model
    joints: Float[np.ndarray, "t 14"]  # rad
    flange_position: Float[np.ndarray, "t 2 3"]  # m, base frame
    flange_axes: Float[np.ndarray, "t 2 3 3"]  # columns: axes of the flange in the base frame
    closed: Float[np.ndarray, "t 2"]  # fingers, 0 open .. 1 closed
    torque: Float[np.ndarray, "t 14"]  # Nm, of the arm joints' drives
    joints_command: Float[np.ndarray, "t 14"]
    flange_position_command: Float[np.ndarray, "t 2 3"]
    flange_axes_command: Float[np.ndarray, "t 2 3 3"]
    closed_command: Float[np.ndarray, "t 2"]
    segments: tuple[Segment, ...]


@dataclass
class SimulatedWorld:
    """The running simulation as policies see it."""

    scene: Scene
    data: mujoco.MjData
    tick_s: float
    time_s: float = 0.0
    segments: list[Segment] = field(default_factory=list)

    def position(self, name: str) -> Float[np.ndarray, " 3"]:
        return self.data.body(name).xpos.copy()

    def yaw(self, name: str) -> float:
        r = self.data.body(name).xmat.reshape(3, 3)
        return float(np.arctan2(r[1, 0], r[0, 0]))


class _ArmDrive:
    """Sends one hand's commands to the joint servos of its arm."""

    def __init__(self, scene: Scene, data: mujoco.MjData, side: str):
        self.data, self.ik = data, ArmIk(scene.model, side)
        self.motors = np.array([scene.model.actuator(f"{side}_{i}").id for i in range(7)])
        self.fingers = np.array([scene.model.actuator(f"{side}_finger{i}").id for i in range(2)])
        fingers = [scene.model.joint(f"{side}_finger{i}") for i in range(2)]
        self.finger_qpos = np.array([finger.qposadr[0] for finger in fingers])
        self.q = home_joints(side)
        self.command: Command | None = None

    def teleport(self, command: Command) -> None:
        """Sets the arm to the pose, for the start of the episode."""
        for _ in range(60):
            self.aim(command)
        self.data.qpos[self.ik.qpos] = self.q
        self.data.qpos[self.finger_qpos] = self.finger_target
        self.data.ctrl[self.motors], self.data.ctrl[self.fingers] = self.q, self.finger_target

    def aim(self, command: Command) -> None:
        self.command = command
        self.axes = hand_rotation(self.ik.side, command.azimuth, command.tilt)
        self.q = self.ik.solve(self.q, command.xyz, self.axes)

    @property
    def finger_target(self) -> float:
        assert self.command is not None
        return (1 - self.command.closed) * FINGER_TRAVEL_M

    def state(self) -> dict[str, np.ndarray | float]:
        assert self.command is not None
        axes = self.data.site_xmat[self.ik.flange].reshape(3, 3)
        return {
            "joints": self.data.qpos[self.ik.qpos],
            "flange_position": self.data.site_xpos[self.ik.flange],
            "flange_axes": axes,
            "closed": 1 - self.data.qpos[self.finger_qpos].mean() / FINGER_TRAVEL_M,
            "torque": self.data.actuator_force[self.motors],
            "joints_command": self.q,
            "flange_position_command": self.command.xyz - FLANGE_TO_TIP_M * self.axes[:, 2],
            "flange_axes_command": self.axes,
            "closed_command": self.command.closed,
        }


def simulate(
    scene: Scene, task: Task, rng: np.random.Generator, *, rate_hz: float, n_frames: int
) -> Trajectory:
    """Lets both hands follow `task` for n_frames / rate_hz seconds.

    Raises UnstableError if MuJoCo warns, as it does before it resets a diverged simulation.
    """
    with _collect_warnings() as warnings:
        trajectory = _simulate(scene, task, rng, rate_hz=rate_hz, n_frames=n_frames)
    if warnings:
        raise UnstableError(
            f"task {task.id}: {len(warnings)} warnings by MuJoCo, the first: {warnings[0]}"
        )
    return trajectory


@contextmanager
def _collect_warnings() -> Iterator[list[str]]:
    """Collects MuJoCo's warnings, which otherwise go to stdout and to a file."""
    before, warnings = mujoco.get_mju_user_warning(), []
    mujoco.set_mju_user_warning(warnings.append)
    try:
        yield warnings
    finally:
        mujoco.set_mju_user_warning(before)


def _simulate(
    scene: Scene, task: Task, rng: np.random.Generator, *, rate_hz: float, n_frames: int
) -> Trajectory:
    # Whole numbers of control ticks a frame, and of physics steps a tick.
    model, data = scene.model, mujoco.MjData(scene.model)
    ticks_per_frame = int(np.ceil(CONTROL_HZ / rate_hz))
    tick_s = 1 / (rate_hz * ticks_per_frame)
    n_steps = int(np.ceil(tick_s / PHYSICS_S))
    model.opt.timestep = tick_s / n_steps

    # Both hands start at their first command; the objects come to rest.
    world = SimulatedWorld(scene=scene, data=data, tick_s=tick_s)
    mujoco.mj_forward(model, data)
    streams = start_policy(task, world, rng)
    drives = {side: _ArmDrive(scene, data, side) for side in SIDES}
    for side in SIDES:
        drives[side].teleport(next(streams[side]))
    _settle(model, data)

    # A frame is recorded at the tick's new commands, before the physics follows them.
    frames: list[dict[str, np.ndarray]] = []
    for tick in range(n_frames * ticks_per_frame):
        for side in SIDES:
            drives[side].aim(next(streams[side]))
        if tick % ticks_per_frame == 0:
            frames.append(_record(data, drives))
        _advance(model, data, drives, n_steps)
        world.time_s = (tick + 1) * tick_s
    stacked = {name: np.stack([f[name] for f in frames]) for name in frames[0]}
    segments = tuple(s for s in world.segments if s.start_s < n_frames / rate_hz)
    return Trajectory(rate_hz=rate_hz, segments=segments, **stacked)


def _settle(model: mujoco.MjModel, data: mujoco.MjData) -> None:
    """Lets the objects come to rest on the table before the first frame."""
    for _ in range(150):
        mujoco.mj_step(model, data)
    data.qvel[:] = 0
    mujoco.mj_forward(model, data)


def _record(data: mujoco.MjData, drives: dict[str, _ArmDrive]) -> dict[str, np.ndarray]:
    left, right = (drives[side].state() for side in SIDES)
    both = {name: np.stack([left[name], right[name]]).astype(np.float64) for name in left}
    for name in ("joints", "torque", "joints_command"):
        both[name] = both[name].reshape(14)
    return both | {"qpos": data.qpos.copy()}


def _advance(
    model: mujoco.MjModel, data: mujoco.MjData, drives: dict[str, _ArmDrive], n_steps: int
) -> None:
    """One control tick of physics, with joint targets interpolated to the newest command."""
    start = data.ctrl.copy()
    goal = start.copy()
    for drive in drives.values():
        goal[drive.motors], goal[drive.fingers] = drive.q, drive.finger_target
    for i in range(n_steps):
        data.ctrl[:] = start + (goal - start) * ((i + 1) / n_steps)
        mujoco.mj_step(model, data)
