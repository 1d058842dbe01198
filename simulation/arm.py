# MuJoCo's functions are compiled and have no stubs.
# pyright: reportAttributeAccessIssue=false
"""The dual-arm robot: MJCF of a 7-joint arm with a two-finger gripper, and inverse kinematics.

An arm is a chain of primitives: spherical shoulder (joints 0-2), elbow (3), spherical wrist (4-6),
flange, gripper. All frames follow AGIBOT-World: base frame x forward, y left, z up; flange z runs
along the hand, and the point between the fingertips is `FLANGE_TO_TIP_M` further along it. The
right arm mirrors the left one.
"""

from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Float

SIDES = ("left", "right")  # AGIBOT's order of arms in every array
N_JOINTS = 7
FLANGE_TO_TIP_M = 0.23
FINGER_TRAVEL_M = 0.052  # of one finger, from closed (0) to open
SHOULDER_M = (0.14, 0.24, 0.60)  # of the left arm, in the base frame
# Of the left arm: elbow out, so that the table stays in view
HOME_RAD = (-1.05, 1.45, 1.08, 1.59, 1.34, 1.55, -1.00)
MIRROR = np.array([-1.0, 1, -1, 1, -1, 1, -1])  # left to right joint angles
STIFFNESS = (1800, 1800, 1400, 1400, 700, 700, 450)  # Nm/rad of the position servos

_LINK = 'class="link" rgba="{shell}"'
_DARK = 'class="link" rgba=".16 .16 .18 1"'
_HAND = 'class="hand" rgba=".11 .11 .12 1"'


def arm_mjcf(side: str, shell: str) -> str:
    """MJCF of one arm, links along +z from shoulder to fingertips; shell: RGBA of its covers."""
    x, y, z = SHOULDER_M
    s = side_sign(side)
    link = _LINK.format(shell=shell)
    fingers = "".join(_finger_mjcf(side, i, (1, -1)[i]) for i in range(2))
    return f"""
<body name="{side}_shoulder" pos="{x} {s * y} {z}" quat="0 1 0 0" gravcomp="1">
 <geom type="cylinder" size=".062 .05" {_DARK}/>
 <body gravcomp="1"><joint name="{side}_0" axis="0 0 1"/><geom type="sphere" size=".066" {link}/>
 <body gravcomp="1"><joint name="{side}_1" axis="0 1 0"/>
  <geom type="capsule" fromto="0 0 .02 0 0 .20" size=".052" {link}/>
 <body gravcomp="1" pos="0 0 .20"><joint name="{side}_2" axis="0 0 1"/>
  <geom type="cylinder" fromto="0 0 .015 0 0 .035" size=".054" {_DARK}/>
  <geom type="capsule" fromto="0 0 .04 0 0 .16" size=".047" {link}/>
 <body name="{side}_elbow" gravcomp="1" pos="0 0 .18"><joint name="{side}_3" axis="0 1 0"/>
  <geom type="sphere" size=".056" {_DARK}/>
  <geom type="capsule" fromto="0 0 .04 0 0 .22" size=".044" {link}/>
 <body gravcomp="1" pos="0 0 .22"><joint name="{side}_4" axis="0 0 1"/>
  <geom type="cylinder" fromto="0 0 .02 0 0 .035" size=".046" {_DARK}/>
  <geom type="capsule" fromto="0 0 .04 0 0 .13" size=".039" {link}/>
 <body gravcomp="1" pos="0 0 .14"><joint name="{side}_5" axis="0 1 0"/>
  <geom type="sphere" size=".045" {_DARK}/>
 <body name="{side}_hand" gravcomp="1"><joint name="{side}_6" axis="0 0 1"/>
  <geom type="cylinder" fromto="0 0 .03 0 0 .075" size=".038" {link}/>
  <site name="{side}_flange" pos="0 0 .08"/>
  <geom type="cylinder" fromto="0 0 .078 0 0 .10" size=".042" {_HAND}/>
  <geom type="box" size=".052 .030 .034" pos="0 0 .135" {_HAND}/>
  <geom type="box" size=".066 .024 .012" pos="0 0 .178" {_HAND}/>{fingers}
 </body></body></body></body></body></body></body></body>"""


def _finger_mjcf(side: str, i: int, direction: int) -> str:
    x = 0.009 * direction  # inner faces meet at joint position 0
    return f"""
  <body name="{side}_finger{i}" gravcomp="1" pos="0 0 .19">
   <joint name="{side}_finger{i}" type="slide" axis="{direction} 0 0" range="0 {FINGER_TRAVEL_M}"
    armature=".05" damping="4"/>
   <geom type="box" size=".008 .013 .028" pos="{x * 1.3} 0 .028" {_HAND}/>
   <geom type="box" size=".009 .015 .038" pos="{x} 0 .092" class="pad" rgba=".30 .30 .33 1"/>
  </body>"""


def actuator_mjcf(side: str) -> str:
    joints = [(f"{side}_{i}", stiffness, 150) for i, stiffness in enumerate(STIFFNESS)]
    fingers = [(f"{side}_finger{i}", 1500, 35) for i in range(2)]
    return "".join(
        f'<position name="{name}" joint="{name}" kp="{kp}" dampratio="1" '
        f'forcerange="-{force} {force}"/>'
        for name, kp, force in joints + fingers
    )


def side_sign(side: str) -> int:
    return 1 if side == "left" else -1


def home_joints(side: str) -> Float[np.ndarray, " 7"]:
    return np.array(HOME_RAD) * (1 if side == "left" else MIRROR)


def hand_rotation(side: str, azimuth: float, tilt: float) -> Float[np.ndarray, "3 3"]:
    """Flange axes (columns) of a hand that reaches down from `azimuth`, `tilt` off the vertical.

    Both in radians; azimuth 0 is x, pi/2 is left. The fingers close along flange x, which is
    horizontal.
    """
    z = np.array([-np.cos(azimuth) * np.sin(tilt), -np.sin(azimuth) * np.sin(tilt), -np.cos(tilt)])
    x = side_sign(side) * np.array([-np.sin(azimuth), np.cos(azimuth), 0.0])
    return np.stack([x, np.cross(z, x), z], axis=1)


@dataclass(frozen=True, kw_only=True)
class IkConfig:
    n_steps: int = 6  # per call; calls follow a smooth path, so each starts near its solution
    damping: float = 0.02
    posture_gain: float = 0.1  # pull of the free seventh joint direction towards the home posture
    rotation_weight_m: float = 0.5  # one radian counts as this position error
    max_step_rad: float = 0.2


class ArmIk:
    """Damped least squares towards a fingertip pose; the redundant joint direction goes home."""

    def __init__(self, model: mujoco.MjModel, side: str, config: IkConfig | None = None):
        self.model, self.side, self.config = model, side, config or IkConfig()
        self.data = mujoco.MjData(model)
        joints = [model.joint(f"{side}_{i}") for i in range(N_JOINTS)]
        self.qpos = np.array([j.qposadr[0] for j in joints])
        self.dof = np.array([j.dofadr[0] for j in joints])
        self.low, self.high = np.array([j.range for j in joints]).T
        self.flange = model.site(f"{side}_flange").id
        self.home = home_joints(side)

    def tip_pose(
        self, q: Float[np.ndarray, " 7"]
    ) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, "3 3"]]:
        """Point between the fingertips (m) and flange axes at joint angles q, in the base frame."""
        self.data.qpos[self.qpos] = q
        mujoco.mj_kinematics(self.model, self.data)
        axes = self.data.site_xmat[self.flange].reshape(3, 3).copy()
        return self.data.site_xpos[self.flange] + FLANGE_TO_TIP_M * axes[:, 2], axes

    def solve(
        self,
        q: Float[np.ndarray, " 7"],
        position: Float[np.ndarray, " 3"],
        axes: Float[np.ndarray, "3 3"],
    ) -> Float[np.ndarray, " 7"]:
        """Joint angles near q whose tip pose is as near to the wanted one as the arm can get."""
        c = self.config
        jac = np.zeros((6, self.model.nv))
        weight = np.diag([1.0, 1, 1] + [c.rotation_weight_m] * 3)
        for _ in range(c.n_steps):
            tip, now = self.tip_pose(q)
            error = np.concatenate([position - tip, _rotation_vector(axes @ now.T)])
            mujoco.mj_comPos(self.model, self.data)
            body = self.model.site_bodyid[self.flange]
            mujoco.mj_jac(self.model, self.data, jac[:3], jac[3:], tip, body)
            j = weight @ jac[:, self.dof]
            pinv = j.T @ np.linalg.inv(j @ j.T + c.damping**2 * np.eye(6))
            free = np.eye(N_JOINTS) - pinv @ j  # projects on what does not move the tip
            step = pinv @ (weight @ error) + c.posture_gain * free @ (self.home - q)
            q = np.clip(q + np.clip(step, -c.max_step_rad, c.max_step_rad), self.low, self.high)
        return q


def _rotation_vector(r: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, " 3"]:
    quat, out = np.zeros(4), np.zeros(3)
    mujoco.mju_mat2Quat(quat, np.ascontiguousarray(r).ravel())
    mujoco.mju_quat2Vel(out, quat, 1.0)
    return out
