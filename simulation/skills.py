"""Skills of one hand: pick, place, push, and random exploring.

A hand is driven by generators that yield one `Command` per control tick and look at the world only
through `World`. Each skill notes its segment (AGIBOT's `action_config`) when it begins and, for the
ground truth, whether it worked when it ends.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from simulation.arm import side_sign
from simulation.scene import TABLE_TOP_M, TRAY_HALF_M, WORKSPACE_M, Scene, SceneObject

SPEED_M_S = 0.30  # mean over a reach; its peak is 1.9 times as high (minimum jerk)
LOWEST_TIP_M = TABLE_TOP_M + 0.028
CARRY_M = TABLE_TOP_M + 0.20
NOMINAL_AZIMUTH_RAD = np.radians(115)  # the left hand comes from the left and a little from behind
ROOM_M, LONGEST_WAIT_S = 0.17, 2.5  # hands keep this far apart
REST_XYZ_M = (0.60, 0.33, TABLE_TOP_M + 0.19)  # left


@dataclass(frozen=True, kw_only=True)
class Command:
    """Where a hand is told to be: fingertip point (m, base frame), hand direction (rad), fingers 0
    open .. 1 closed.
    """

    xyz: Float[np.ndarray, " 3"]
    azimuth: float
    tilt: float
    closed: float


@dataclass
class Segment:
    """A stretch of an episode with one skill; `success` is known once it has ended (None: cut
    short, or no goal).
    """

    side: str
    skill: str
    text: str
    start_s: float
    object_name: str | None = None
    success: bool | None = None


@runtime_checkable
class World(Protocol):
    """What a policy may know."""

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
        """The waiting pose beside the work."""
        xyz = np.array(REST_XYZ_M) * (1, self.sign, 1) + self.rng.normal(0, 0.015, 3)
        return Command(
            xyz=xyz, azimuth=self.sign * NOMINAL_AZIMUTH_RAD, tilt=np.radians(34), closed=0.0
        )

    def pose(
        self, xyz: Float[np.ndarray, " 3"], azimuth: float, closed: float, tilt_deg: float = 34.0
    ) -> Command:
        xyz = np.array([xyz[0], xyz[1], max(xyz[2], LOWEST_TIP_M)])
        return Command(xyz=xyz, azimuth=azimuth, tilt=np.radians(tilt_deg), closed=closed)


def reach(hand: Hand, start: Command, goal: Command, speed: float = SPEED_M_S) -> Motion:
    """A straight minimum-jerk move; short ones still take 0.3 s."""
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
    """Hold still while the other hand works at `xy`, but not for ever."""
    other = f"{'right' if hand.side == 'left' else 'left'}_finger0"
    for _ in range(round(LONGEST_WAIT_S / hand.world.tick_s)):
        if np.linalg.norm(hand.world.position(other)[:2] - xy) > ROOM_M:
            break
        yield now
    return now


def pick(hand: Hand, now: Command, thing: SceneObject) -> Motion:
    """Reach over the thing, go down, close, lift. Some tries are a little off, and fail as real
    ones do.
    """
    world, rng = hand.world, hand.rng
    segment = Segment(
        hand.side,
        "Pick",
        f"Pick up the {thing.words} with the {hand.side} hand.",
        world.time_s,
        thing.name,
    )
    world.segments.append(segment)
    slip = rng.normal(0, 0.035, 2) if rng.uniform() < 0.12 else rng.normal(0, 0.003, 2)
    open_wide = rng.uniform(0.0, 0.15)
    now = yield from wait_for_room(hand, now, world.position(thing.name)[:2])
    for _ in range(2):  # look again from above, since the other hand may have moved it
        at = world.position(thing.name) + np.array([*slip, 0])
        azimuth = _grasp_azimuth(hand, thing)
        above = hand.pose(_lift(at, 0.13), azimuth, open_wide)
        if np.linalg.norm(above.xyz - now.xyz) > 0.02:
            now = yield from reach(hand, now, above)
    before = world.position(thing.name)[2]
    grip_z = max(at[2], at[2] + thing.height_m - 0.05)
    down = hand.pose(np.array([at[0], at[1], grip_z]), azimuth, open_wide)
    now = yield from reach(hand, now, down, speed=0.2)
    now = yield from reach(hand, now, replace(now, closed=1.0))
    now = yield from reach(
        hand, now, replace(now, xyz=np.array([*now.xyz[:2], max(CARRY_M, grip_z + 0.1)]))
    )
    segment.success = bool(world.position(thing.name)[2] > before + 0.05)
    return now


def place(
    hand: Hand, now: Command, thing: SceneObject, xy: Float[np.ndarray, " 2"], where: str
) -> Motion:
    """Carry what is held to `xy` on the table or tray, put it down, let go, and leave upwards."""
    world = hand.world
    text = f"Place the held {thing.words} {where} with the {hand.side} hand."
    segment = Segment(hand.side, "Place", text, world.time_s, thing.name)
    world.segments.append(segment)
    azimuth = float(hand.sign * np.clip(hand.sign * now.azimuth, np.radians(85), np.radians(140)))
    over = Command(xyz=np.array([*xy, CARRY_M]), azimuth=azimuth, tilt=now.tilt, closed=now.closed)
    now = yield from wait_for_room(hand, now, xy)
    now = yield from reach(hand, now, over)
    hanging = np.clip(
        now.xyz[2] - world.position(thing.name)[2], -0.03, 0.05
    )  # tip above the middle of the thing
    floor = TABLE_TOP_M + (0.008 if "tray" in where else 0.002)
    low = hand.pose(
        np.array([*xy, floor + thing.height_m + hanging + 0.004]),
        azimuth,
        1.0,
        np.degrees(now.tilt),
    )
    now = yield from reach(hand, now, low, speed=0.2)
    now = yield from reach(hand, now, replace(now, closed=0.1))
    now = yield from reach(hand, now, replace(now, xyz=np.array([*now.xyz[:2], CARRY_M])))
    at = world.position(thing.name)
    reach_m = TRAY_HALF_M if "tray" in where else 0.05
    segment.success = bool(np.abs(at[:2] - xy).max() < reach_m and at[2] < TABLE_TOP_M + 0.10)
    return now


def push(hand: Hand, now: Command, thing: SceneObject) -> Motion:
    """Close the fingers, go down behind the thing and shove it 8-16 cm away from the hand."""
    world, rng = hand.world, hand.rng
    segment = Segment(
        hand.side,
        "Push",
        f"Push the {thing.words} with the {hand.side} hand.",
        world.time_s,
        thing.name,
    )
    world.segments.append(segment)
    now = yield from wait_for_room(hand, now, world.position(thing.name)[:2])
    before = world.position(thing.name)
    azimuth = hand.sign * (NOMINAL_AZIMUTH_RAD + rng.normal(0, 0.25))
    heading = azimuth + np.pi + rng.normal(0, 0.3)
    along = np.array([np.cos(heading), np.sin(heading), 0.0])
    low = np.array([*before[:2], LOWEST_TIP_M + 0.01])
    back = low - along * (thing.radius_m * 1.3 + 0.055)
    now = yield from reach(hand, now, hand.pose(_lift(back, 0.1), azimuth, 1.0, 28.0))
    now = yield from reach(hand, now, hand.pose(back, azimuth, 1.0, 28.0), speed=0.2)
    length = rng.uniform(0.08, 0.16)
    now = yield from reach(
        hand,
        now,
        hand.pose(low + along * (length - thing.radius_m), azimuth, 1.0, 28.0),
        speed=0.16,
    )
    now = yield from reach(hand, now, hand.pose(_lift(now.xyz, 0.12), azimuth, 1.0, 34.0))
    moved = world.position(thing.name) - before
    segment.success = bool(moved[:2] @ along[:2] > 0.5 * length)
    return now


def explore(hand: Hand, now: Command) -> Motion:
    """One random action: a smooth reach anywhere on this hand's side, or low through a thing;
    fingers at random.
    """
    world, rng = hand.world, hand.rng
    (x0, x1), (_, y1) = WORKSPACE_M
    goal = np.array(
        [
            rng.uniform(x0 - 0.02, x1),
            hand.sign * rng.uniform(0.03, y1 + 0.05),
            rng.uniform(0.0, 0.26),
        ]
    )
    goal[2] += TABLE_TOP_M
    mine = things_in_reach(hand)
    if mine and rng.uniform() < 0.45:
        thing = mine[rng.integers(len(mine))]
        goal = world.position(thing.name) + rng.normal(0, (0.02, 0.02, 0.015))
        goal[1] = hand.sign * max(hand.sign * goal[1], 0.03)
    azimuth = hand.sign * (NOMINAL_AZIMUTH_RAD + rng.normal(0, 0.3))
    closed = now.closed if rng.uniform() < 0.5 else float(rng.choice([0.0, 1.0, rng.uniform()]))
    target = hand.pose(goal, azimuth, closed, float(rng.uniform(16, 44)))
    return (yield from reach(hand, now, target, speed=rng.uniform(0.12, 0.35)))


def _lift(xyz: Float[np.ndarray, " 3"], by_m: float) -> Float[np.ndarray, " 3"]:
    return xyz + np.array([0, 0, by_m])


def _grasp_azimuth(hand: Hand, thing: SceneObject) -> float:
    """The hand direction nearest the comfortable one that lets the fingers close square on the
    thing.
    """
    nominal = hand.sign * NOMINAL_AZIMUTH_RAD
    if not thing.symmetry:
        return nominal
    # Fingers close across `azimuth`; a thing's narrow side is its x axis, which has to lie along
    # the closing direction.
    off = hand.world.yaw(thing.name) - np.pi / 2 - nominal
    off = (off + thing.symmetry / 2) % thing.symmetry - thing.symmetry / 2
    return float(nominal + np.clip(off, -0.8, 0.8))


def things_in_reach(hand: Hand) -> list[SceneObject]:
    """The things on this hand's side that it can get at, in random order."""
    (x0, x1), (_, y1) = WORKSPACE_M
    low, high = (x0 - 0.05, 0.0, TABLE_TOP_M), (x1 + 0.04, y1 + 0.06, TABLE_TOP_M + 0.2)
    positions = {
        o.name: hand.world.position(o.name) * (1, hand.sign, 1) for o in hand.world.scene.objects
    }
    mine = [
        o
        for o in hand.world.scene.objects
        if np.all((positions[o.name] >= low) & (positions[o.name] <= high))
    ]
    return [mine[i] for i in hand.rng.permutation(len(mine))]
