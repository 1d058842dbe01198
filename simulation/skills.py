"""Skills of one hand: pick, place, push, and random exploring.

Skills are generators that yield one `Command` per control tick and see the world only through
`World`. Each records its segment (AGIBOT's `action_config`) when it starts and, for the ground
truth, its success when it ends.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from simulation.arm import side_sign
from simulation.scene import TABLE_TOP_M, TRAY_HALF_M, WORKSPACE_M, Scene, SceneObject

SPEED_M_S = 0.30  # mean over a reach; the peak is 1.9 times as high (minimum jerk)
LOWEST_TIP_M = TABLE_TOP_M + 0.028
CARRY_M = TABLE_TOP_M + 0.20
NOMINAL_AZIMUTH_RAD = np.radians(115)  # the left hand comes from the left and a little from behind
ROOM_M, LONGEST_WAIT_S = 0.17, 2.5  # hands keep this far apart
REST_XYZ_M = (0.60, 0.33, TABLE_TOP_M + 0.19)  # left


@dataclass(frozen=True, kw_only=True)
class Command:
    """A hand's target: fingertip point in m (base frame), angles in rad, fingers 0 .. 1 closed."""

    xyz: Float[np.ndarray, " 3"]
    azimuth: float
    tilt: float
    closed: float


@dataclass
class Segment:
    """A part of an episode with one skill; success: None if it was cut short or has no goal."""

    side: str
    skill: str
    text: str
    start_s: float
    object_name: str | None = None
    success: bool | None = None


@runtime_checkable
class World(Protocol):
    """What a policy may see."""

    scene: Scene
    time_s: float
    tick_s: float
    segments: list[Segment]

    def position(self, name: str) -> Float[np.ndarray, " 3"]: ...
    def yaw(self, name: str) -> float: ...


Motion = Generator[Command, None, Command]  # yields a command per tick, returns the last one


@dataclass(frozen=True, kw_only=True)
class Hand:
    side: str
    rng: np.random.Generator
    world: World

    @property
    def sign(self) -> int:
        return side_sign(self.side)

    def rest(self) -> Command:
        """A waiting pose beside the workspace."""
        xyz = np.array(REST_XYZ_M) * (1, self.sign, 1) + self.rng.normal(0, 0.015, 3)
        azimuth = self.sign * NOMINAL_AZIMUTH_RAD
        return Command(xyz=xyz, azimuth=azimuth, tilt=np.radians(34), closed=0.0)

    def pose(
        self, xyz: Float[np.ndarray, " 3"], azimuth: float, closed: float, tilt_deg: float = 34.0
    ) -> Command:
        xyz = np.array([xyz[0], xyz[1], max(xyz[2], LOWEST_TIP_M)])
        return Command(xyz=xyz, azimuth=azimuth, tilt=np.radians(tilt_deg), closed=closed)


def reach(hand: Hand, start: Command, goal: Command, speed: float = SPEED_M_S) -> Motion:
    """A straight minimum-jerk move, of 0.3 s at least."""
    length = np.linalg.norm(goal.xyz - start.xyz) + 0.1 * abs(goal.azimuth - start.azimuth)
    n = max(int(np.ceil(max(length / speed, 0.3) / hand.world.tick_s)), 1)
    for s in (np.arange(n) + 1) / n:
        a = s**3 * (10 - 15 * s + 6 * s**2)
        yield Command(
            xyz=start.xyz + a * (goal.xyz - start.xyz),
            azimuth=start.azimuth + a * (goal.azimuth - start.azimuth),
            tilt=start.tilt + a * (goal.tilt - start.tilt),
            closed=start.closed + a * (goal.closed - start.closed),
        )
    return goal


def hold(hand: Hand, command: Command, seconds: float) -> Motion:
    for _ in range(round(seconds / hand.world.tick_s)):
        yield command
    return command


def wait_for_room(hand: Hand, now: Command, xy: Float[np.ndarray, " 2"]) -> Motion:
    """Waits while the other hand is at `xy`, for up to `LONGEST_WAIT_S`."""
    other = f"{'right' if hand.side == 'left' else 'left'}_finger0"
    for _ in range(round(LONGEST_WAIT_S / hand.world.tick_s)):
        if np.linalg.norm(hand.world.position(other)[:2] - xy) > ROOM_M:
            break
        yield now
    return now


def pick(hand: Hand, now: Command, obj: SceneObject) -> Motion:
    """Reaches over the object, goes down, closes, lifts. Some attempts are off and fail."""
    world, rng = hand.world, hand.rng
    text = f"Pick up the {obj.words} with the {hand.side} hand."
    segment = Segment(hand.side, "Pick", text, world.time_s, obj.name)
    world.segments.append(segment)
    slip = rng.normal(0, 0.035, 2) if rng.uniform() < 0.12 else rng.normal(0, 0.003, 2)
    open_wide = rng.uniform(0.0, 0.15)
    now = yield from wait_for_room(hand, now, world.position(obj.name)[:2])

    # Reach over it, and look again from above, since the other hand may have moved it.
    at, azimuth = np.zeros(3), 0.0
    for _ in range(2):
        at = world.position(obj.name) + np.array([*slip, 0])
        azimuth = _grasp_azimuth(hand, obj)
        above = hand.pose(_lift(at, 0.13), azimuth, open_wide)
        if np.linalg.norm(above.xyz - now.xyz) > 0.02:
            now = yield from reach(hand, now, above)

    # Go down, close, lift.
    before = world.position(obj.name)[2]
    grip_z = max(at[2], at[2] + obj.height_m - 0.05)
    down = hand.pose(np.array([at[0], at[1], grip_z]), azimuth, open_wide)
    now = yield from reach(hand, now, down, speed=0.2)
    now = yield from reach(hand, now, replace(now, closed=1.0))
    lifted = np.array([*now.xyz[:2], max(CARRY_M, grip_z + 0.1)])
    now = yield from reach(hand, now, replace(now, xyz=lifted))
    segment.success = bool(world.position(obj.name)[2] > before + 0.05)
    return now


def place(
    hand: Hand, now: Command, obj: SceneObject, xy: Float[np.ndarray, " 2"], where: str
) -> Motion:
    """Carries the held object to `xy` on table or tray, puts it down, and leaves upwards."""
    world = hand.world
    text = f"Place the held {obj.words} {where} with the {hand.side} hand."
    segment = Segment(hand.side, "Place", text, world.time_s, obj.name)
    world.segments.append(segment)
    azimuth = float(hand.sign * np.clip(hand.sign * now.azimuth, np.radians(85), np.radians(140)))
    over = Command(xyz=np.array([*xy, CARRY_M]), azimuth=azimuth, tilt=now.tilt, closed=now.closed)
    now = yield from wait_for_room(hand, now, xy)
    now = yield from reach(hand, now, over)

    # Lower it (`hanging`: fingertips above its middle) and let go.
    hanging = np.clip(now.xyz[2] - world.position(obj.name)[2], -0.03, 0.05)
    floor = TABLE_TOP_M + (0.008 if "tray" in where else 0.002)
    tip = np.array([*xy, floor + obj.height_m + hanging + 0.004])
    low = hand.pose(tip, azimuth, 1.0, np.degrees(now.tilt))
    now = yield from reach(hand, now, low, speed=0.2)
    now = yield from reach(hand, now, replace(now, closed=0.1))
    now = yield from reach(hand, now, replace(now, xyz=np.array([*now.xyz[:2], CARRY_M])))
    at = world.position(obj.name)
    reach_m = TRAY_HALF_M if "tray" in where else 0.05
    segment.success = bool(np.abs(at[:2] - xy).max() < reach_m and at[2] < TABLE_TOP_M + 0.10)
    return now


def push(hand: Hand, now: Command, obj: SceneObject) -> Motion:
    """Closes the fingers, goes down behind the object and pushes it 8-16 cm away."""
    world, rng = hand.world, hand.rng
    text = f"Push the {obj.words} with the {hand.side} hand."
    segment = Segment(hand.side, "Push", text, world.time_s, obj.name)
    world.segments.append(segment)
    now = yield from wait_for_room(hand, now, world.position(obj.name)[:2])

    # Go down behind it.
    before = world.position(obj.name)
    azimuth = hand.sign * (NOMINAL_AZIMUTH_RAD + rng.normal(0, 0.25))
    heading = azimuth + np.pi + rng.normal(0, 0.3)
    along = np.array([np.cos(heading), np.sin(heading), 0.0])
    low = np.array([*before[:2], LOWEST_TIP_M + 0.01])
    back = low - along * (obj.radius_m * 1.3 + 0.055)
    now = yield from reach(hand, now, hand.pose(_lift(back, 0.1), azimuth, 1.0, 28.0))
    now = yield from reach(hand, now, hand.pose(back, azimuth, 1.0, 28.0), speed=0.2)

    # Push it, and lift the hand.
    length = rng.uniform(0.08, 0.16)
    end = hand.pose(low + along * (length - obj.radius_m), azimuth, 1.0, 28.0)
    now = yield from reach(hand, now, end, speed=0.16)
    now = yield from reach(hand, now, hand.pose(_lift(now.xyz, 0.12), azimuth, 1.0, 34.0))
    moved = world.position(obj.name) - before
    segment.success = bool(moved[:2] @ along[:2] > 0.5 * length)
    return now


def explore(hand: Hand, now: Command) -> Motion:
    """A random action: a reach anywhere on this hand's side, or through one of its objects."""
    world, rng = hand.world, hand.rng
    (x0, x1), (_, y1) = WORKSPACE_M
    low, high = (x0 - 0.02, 0.03, 0.0), (x1, y1 + 0.05, 0.26)
    goal = rng.uniform(low, high) * (1, hand.sign, 1)
    goal[2] += TABLE_TOP_M
    mine = objects_in_reach(hand)
    if mine and rng.uniform() < 0.45:
        obj = mine[rng.integers(len(mine))]
        goal = world.position(obj.name) + rng.normal(0, (0.02, 0.02, 0.015))
        goal[1] = hand.sign * max(hand.sign * goal[1], 0.03)
    azimuth = hand.sign * (NOMINAL_AZIMUTH_RAD + rng.normal(0, 0.3))
    closed = now.closed if rng.uniform() < 0.5 else float(rng.choice([0.0, 1.0, rng.uniform()]))
    target = hand.pose(goal, azimuth, closed, float(rng.uniform(16, 44)))
    return (yield from reach(hand, now, target, speed=rng.uniform(0.12, 0.35)))


def _lift(xyz: Float[np.ndarray, " 3"], by_m: float) -> Float[np.ndarray, " 3"]:
    return xyz + np.array([0, 0, by_m])


def _grasp_azimuth(hand: Hand, obj: SceneObject) -> float:
    """The hand direction, near the nominal one, in which the fingers grasp the object squarely."""
    nominal = hand.sign * NOMINAL_AZIMUTH_RAD
    if not obj.symmetry:
        return nominal
    # Fingers close across `azimuth`; an object's narrow side, its x axis, must be parallel to that.
    off = hand.world.yaw(obj.name) - np.pi / 2 - nominal
    off = (off + obj.symmetry / 2) % obj.symmetry - obj.symmetry / 2
    return float(nominal + np.clip(off, -0.8, 0.8))


def objects_in_reach(hand: Hand) -> list[SceneObject]:
    """The objects on this hand's side within its reach, in random order."""
    (x0, x1), (_, y1) = WORKSPACE_M
    low, high = (x0 - 0.05, 0.0, TABLE_TOP_M), (x1 + 0.04, y1 + 0.06, TABLE_TOP_M + 0.2)

    def reachable(name: str) -> bool:
        at = hand.world.position(name) * (1, hand.sign, 1)
        return bool(np.all((at >= low) & (at <= high)))

    mine = [o for o in hand.world.scene.objects if reachable(o.name)]
    return [mine[i] for i in hand.rng.permutation(len(mine))]
