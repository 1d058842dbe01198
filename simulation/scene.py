# MuJoCo's functions are compiled and have no stubs.
# pyright: reportAttributeAccessIssue=false
"""The table-top scene: a seeded draw of light, table, tray, objects and camera, as MuJoCo model.

The world frame is AGIBOT's base frame: x forward, y left, z up, metres. Everything is built of
primitives, so no mesh or texture file is needed and ray casting is exact. `Scene` is what the
policies and the renderer need.
"""

from colorsys import hsv_to_rgb
from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Float

from simulation.arm import SIDES, actuator_mjcf, arm_mjcf

TABLE_TOP_M = 0.30
# x and y where both arms work well and the camera sees best
WORKSPACE_M = ((0.56, 0.84), (-0.31, 0.31))
TRAY_HALF_M = 0.095
CAMERA_M = (0.40, 0.0, 0.88)
CAMERA_PITCH_DEG = 61.0  # below the horizon; AGIBOT's episodes: 44-65

# Hue, saturation, value
COLOURS = {
    "red": (0.0, 0.85, 0.80), "orange": (0.07, 0.9, 0.95), "yellow": (0.145, 0.9, 0.95),
    "green": (0.36, 0.8, 0.60), "cyan": (0.5, 0.75, 0.75), "blue": (0.61, 0.85, 0.75),
    "purple": (0.77, 0.6, 0.65), "pink": (0.93, 0.5, 0.95),
}  # fmt: skip
TABLES = (
    (0.09, 0.06, 0.80), (0.08, 0.25, 0.62), (0.07, 0.42, 0.45), (0.58, 0.10, 0.42),
    (0.12, 0.12, 0.84),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """One object on the table.

    radius_m: half of what the fingers span. height_m: half of the height. symmetry: a turn by this
    angle (rad) about the vertical gives the same grasp; 0 is round.
    """

    name: str  # of its MuJoCo body
    words: str  # for the action text: "red box"
    kind: str
    radius_m: float
    height_m: float
    symmetry: float


@dataclass(frozen=True, kw_only=True)
class Light:
    position_m: tuple[float, float, float]
    strength: float
    ambient: float
    white: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Head camera: a pinhole with OpenCV axes (x right, y down, z forward).

    (0, 0) is the centre of the top-left pixel.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    position_m: Float[np.ndarray, " 3"]  # in the base frame
    rotation: Float[np.ndarray, "3 3"]  # columns: camera axes in the base frame


@dataclass(frozen=True, kw_only=True)
class Scene:
    model: mujoco.MjModel
    objects: tuple[SceneObject, ...]
    tray_xy_m: Float[np.ndarray, " 2"]
    tray_words: str
    light: Light
    camera: Camera
    texture_seed: int


def draw_scene(rng: np.random.Generator, *, width: int, height: int) -> Scene:
    """A new scene; everything random is from `rng`."""
    hues = rng.permutation(list(COLOURS))
    tray_xy = np.array([rng.uniform(0.66, 0.80), rng.uniform(-0.10, 0.10)])
    n_objects = int(rng.integers(3, 6))
    spots = _draw_spots(rng, n_objects, tray_xy)
    drawn = [_draw_object(rng, i, str(hues[i]), spots[i]) for i in range(n_objects)]
    objects, bodies = zip(*drawn, strict=True)
    tray_colour = str(hues[n_objects])
    xml = _SCENE.format(
        top=TABLE_TOP_M - 0.02,
        floor=_rgba(_hsv(rng, (rng.uniform(0, 1), 0.12, rng.uniform(0.3, 0.6)), 0.02)),
        wall=_rgba(_hsv(rng, (rng.uniform(0, 1), 0.10, rng.uniform(0.6, 0.85)), 0.02)),
        table=_rgba(_hsv(rng, TABLES[rng.integers(len(TABLES))], 0.03)),
        static=_tray(tray_xy, _rgba(_hsv(rng, _muted(COLOURS[tray_colour]), 0.02)))
        + _draw_distractors(rng),
        arms="".join(
            arm_mjcf(side, shell)
            for shell in [_rgba(_hsv(rng, (0.6, 0.02, 0.88), 0.03))]
            for side in SIDES
        ),
        objects="".join(bodies),
        actuators="".join(actuator_mjcf(side) for side in SIDES),
    )
    return Scene(
        model=mujoco.MjModel.from_xml_string(xml),
        objects=objects,
        tray_xy_m=tray_xy,
        tray_words=f"{tray_colour} tray",
        light=_draw_light(rng),
        camera=_draw_camera(rng, width, height),
        texture_seed=int(rng.integers(2**31)),
    )


def _draw_spots(
    rng: np.random.Generator, n: int, tray_xy: Float[np.ndarray, " 2"]
) -> Float[np.ndarray, "n 2"]:
    """Places on the table, away from each other and from the tray."""
    (x0, x1), (y0, y1) = WORKSPACE_M
    spots: list[np.ndarray] = []
    while len(spots) < n:
        spot = rng.uniform((x0, y0), (x1, y1))
        if len(spots) < 2:  # one object at least for each hand
            spot[1] = abs(spot[1]) * (-1) ** len(spots)
        near_tray = np.abs(spot - tray_xy).max() < TRAY_HALF_M + 0.065
        if not near_tray and all(np.linalg.norm(spot - other) > 0.135 for other in spots):
            spots.append(spot)
    return np.array(spots)


def _draw_object(
    rng: np.random.Generator, i: int, colour: str, spot: Float[np.ndarray, " 2"]
) -> tuple[SceneObject, str]:
    # Kind, size and colours.
    kinds, odds = ["box", "carton", "can", "bottle", "ball"], [0.3, 0.2, 0.25, 0.13, 0.12]
    kind = str(rng.choice(kinds, p=odds))
    r = rng.uniform(0.028, 0.037)
    main, second = _rgba(_hsv(rng, COLOURS[colour], 0.02)), _rgba(rng.uniform(0.05, 0.95, 3))
    solid, paint = f'class="object" rgba="{main}"', f'class="paint" rgba="{second}"'
    symmetry, height = 0.0, r

    # Shape, with a stripe in a second colour for the tracker.
    if kind == "box":
        symmetry, height = np.pi / 2, rng.uniform(0.025, 0.04)
        geoms = f'<geom type="box" size="{r} {r} {height}" {solid}/>'
        geoms += f'<geom type="box" size="{r + 4e-4} {r * 0.3} {height + 4e-4}" {paint}/>'
    elif kind == "carton":
        symmetry, height = np.pi, rng.uniform(0.035, 0.055)
        x, y = r * 0.8, r * 1.35
        geoms = f'<geom type="box" size="{x} {y} {height}" {solid}/>'
        geoms += f'<geom type="box" size="{x + 4e-4} {y + 4e-4} {height * 0.3}" {paint}/>'
    elif kind == "can":
        height = rng.uniform(0.035, 0.055)
        geoms = f'<geom type="cylinder" size="{r} {height}" {solid}/>'
        geoms += f'<geom type="cylinder" size="{r + 4e-4} {height * 0.35}" {paint}/>'
        geoms += f'<geom type="cylinder" size="{r * 0.8} .0005" pos="0 0 {height}" {paint}/>'
    elif kind == "bottle":
        height = rng.uniform(0.04, 0.05)
        geoms = f'<geom type="cylinder" size="{r} {height}" {solid}/>'
        geoms += f'<geom type="cylinder" size="{r * 0.45} .015" pos="0 0 {height + 0.015}" '
        geoms += f'{paint} mass="0.01"/>'
    else:
        geoms = f'<geom type="sphere" size="{r}" {solid}/>'
        geoms += f'<geom type="cylinder" size="{r + 6e-4} {r * 0.15}" {paint}/>'

    # Place: a carton's long side is along the arm.
    if kind == "carton":
        yaw = rng.uniform(-0.5, 0.5) + (np.radians(115) * np.sign(spot[1]) + np.pi / 2)
    else:
        yaw = rng.uniform(-np.pi, np.pi)
    place = f"{spot[0]} {spot[1]} {TABLE_TOP_M + height + 0.001}"
    body = f'<body name="object{i}" pos="{place}" euler="0 0 {yaw}"><freejoint/>{geoms}</body>'
    return SceneObject(
        name=f"object{i}",
        words=f"{colour} {kind}",
        kind=kind,
        radius_m=r * 0.8 if kind == "carton" else r,
        height_m=height,
        symmetry=symmetry,
    ), body


def _tray(xy: Float[np.ndarray, " 2"], colour: str) -> str:
    half, wall, high = TRAY_HALF_M, 0.004, 0.014
    paint = f'class="fixed" rgba="{colour}"'
    base = f'<geom type="box" size="{half} {half} .003" pos="0 0 .003" {paint}/>'
    sides = "".join(
        f'<geom type="box" size="{half if dx == 0 else wall} {half if dy == 0 else wall} {high}" '
        f'pos="{dx * half} {dy * half} {high}" {paint}/>'
        for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1))
    )
    return f'<body name="tray" pos="{xy[0]} {xy[1]} {TABLE_TOP_M}">{base}{sides}</body>'


def _draw_distractors(rng: np.random.Generator) -> str:
    """Objects at the far end of the table, out of reach, that only vary the pictures."""
    out, y = "", -0.62
    while (y := y + rng.uniform(0.12, 0.45)) < 0.65:
        high, r = rng.uniform(0.02, 0.13), rng.uniform(0.025, 0.06)
        hsv = (rng.uniform(0, 1), rng.uniform(0.1, 0.6), rng.uniform(0.25, 0.9))
        paint = f'class="fixed" rgba="{_rgba(_hsv(rng, hsv, 0.02))}"'
        shape = f'type="box" size="{r} {r * rng.uniform(0.6, 1.6)} {high}"'
        if rng.uniform() < 0.4:
            shape = f'type="cylinder" size="{r} {high}"'
        x, yaw = rng.uniform(1.04, 1.14), rng.uniform(-0.6, 0.6)
        out += f'<geom {shape} pos="{x} {y} {TABLE_TOP_M + high}" euler="0 0 {yaw}" {paint}/>'
    return out


def _draw_light(rng: np.random.Generator) -> Light:
    x, side, y, z = (
        rng.uniform(0.4, 1.3), rng.choice([-1, 1]), rng.uniform(0.3, 1.1), rng.uniform(2.0, 2.6)
    )  # fmt: skip
    warmth = rng.normal(0, 0.04)
    return Light(
        position_m=(float(x), float(side * y), float(z)),
        strength=float(rng.uniform(0.62, 0.85)),
        ambient=float(rng.uniform(0.34, 0.46)),
        white=(float(1 + warmth), 1.0, float(1 - warmth)),
    )


def _draw_camera(rng: np.random.Generator, width: int, height: int) -> Camera:
    """AGIBOT's head camera: fx 322, fy 429 at 640x480 (16:9, squeezed), with jitter per episode."""
    jitter = rng.normal(0, (0.7, 0.5, 0.3))
    pitch, yaw, roll = np.radians(np.array([CAMERA_PITCH_DEG, 0, 0]) + jitter)
    forward = np.array([np.cos(pitch) * np.cos(yaw), np.cos(pitch) * np.sin(yaw), -np.sin(pitch)])
    right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    down = np.cross(forward, right)
    c, s = np.cos(roll), np.sin(roll)
    right, down = c * right + s * down, c * down - s * right
    sx, sy = width / 640, height / 480
    return Camera(
        width=width,
        height=height,
        fx=float(rng.normal(322, 0.4) * sx),
        fy=float(rng.normal(429, 0.5) * sy),
        cx=float((320 + rng.normal(0, 1)) * sx - 0.5),
        cy=float((240 + rng.normal(0, 1)) * sy - 0.5),
        position_m=np.array(CAMERA_M) + rng.normal(0, 0.006, 3),
        rotation=np.stack([right, down, forward], axis=1),
    )


def _hsv(
    rng: np.random.Generator, hsv: tuple[float, float, float], spread: float
) -> Float[np.ndarray, " 3"]:
    h, s, v = np.array(hsv) + rng.normal(0, spread, 3) * (0.5, 1, 1)
    return np.array(hsv_to_rgb(h % 1, float(np.clip(s, 0, 1)), float(np.clip(v, 0.05, 0.97))))


def _muted(hsv: tuple[float, float, float]) -> tuple[float, float, float]:
    return hsv[0], hsv[1] * 0.55, hsv[2] * 0.75


def _rgba(rgb: Float[np.ndarray, " 3"]) -> str:
    return " ".join(f"{v:.3f}" for v in rgb) + " 1"


# Geom group 0 is still, group 1 moves (the renderer casts rays against one of them). Contacts:
# objects touch everything; the hand touches objects only (policies keep it off the table); links
# touch nothing.
_SCENE = """
<mujoco>
<compiler angle="radian"/>
<option integrator="implicitfast" cone="elliptic" impratio="5"/>
<default>
 <joint armature=".1" damping="1" range="-2.9 2.9"/>
 <geom group="1"/>
 <default class="link"><geom contype="0" conaffinity="0" density="300"/></default>
 <default class="hand">
  <geom contype="2" conaffinity="0" density="300" friction=".6 .01 .001"/></default>
 <default class="pad">
  <geom contype="2" conaffinity="0" density="500" friction="2 .05 .002" condim="4"/></default>
 <default class="object">
  <geom contype="1" conaffinity="3" density="350" friction="1 .02 .0015" condim="6"/></default>
 <default class="paint"><geom contype="0" conaffinity="0" mass="0"/></default>
 <default class="fixed">
  <geom contype="1" conaffinity="1" group="0" friction="1 .01 .001"/></default>
</default>
<worldbody>
 <geom name="floor" type="plane" size="6 6 .1" pos="0 0 -.45" class="fixed" rgba="{floor}"/>
 <geom name="wall" type="box" size=".02 5 2" pos="2.6 0 1.5" class="fixed" rgba="{wall}"/>
 <geom name="table" type="box" size=".42 .85 .02" pos=".76 0 {top}" class="fixed" rgba="{table}"/>
 {static}{arms}{objects}
</worldbody>
<actuator>{actuators}</actuator>
</mujoco>
"""
