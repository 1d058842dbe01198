"""Scripted policies: what both hands do in one episode.

A policy is a generator of commands, like the skills of which it is a sequence.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from simulation.arm import SIDES
from simulation.scene import WORKSPACE_M, SceneObject
from simulation.skills import (
    Command,
    Hand,
    Motion,
    Segment,
    World,
    explore,
    hold,
    objects_in_reach,
    pick,
    place,
    push,
    reach,
)


def tidy_up(hand: Hand, delay_s: float) -> Iterator[Command]:
    """Puts this hand's objects into the tray one by one, then takes them out again."""
    now = yield from hold(hand, hand.rest(), delay_s)
    while objects := objects_in_reach(hand):
        for i, obj in enumerate(objects):
            inward = np.array([0.035 * (-1) ** i, hand.sign * 0.04])
            now = yield from pick(hand, now, obj)
            spot = hand.world.scene.tray_xy_m + inward
            now = yield from place(hand, now, obj, spot, _into_tray(hand))
            now = yield from _pause(hand, now)
        now = yield from _put_on_table(hand, now, objects)
    yield from rest_forever(hand, now)


def rearrange(hand: Hand, delay_s: float) -> Iterator[Command]:
    """Picks objects up and puts them down elsewhere on this hand's side of the table."""
    now = yield from hold(hand, hand.rest(), delay_s)
    while objects := objects_in_reach(hand):
        now = yield from _put_on_table(hand, now, objects)
    yield from rest_forever(hand, now)


def push_around(hand: Hand, delay_s: float) -> Iterator[Command]:
    """Pushes this hand's objects one by one."""
    now = yield from hold(hand, hand.rest(), delay_s)
    while objects := objects_in_reach(hand):
        for obj in objects:
            now = yield from push(hand, now, obj)
            now = yield from _pause(hand, now)
    yield from rest_forever(hand, now)


def explore_freely(hand: Hand, delay_s: float) -> Iterator[Command]:
    """Random actions to the end, with pauses between some of them."""
    now = yield from hold(hand, hand.rest(), delay_s / 3)
    text = "Move both hands freely over the table."
    segment = Segment(hand.side, "Explore", text, hand.world.time_s)
    if hand.side == "left":
        hand.world.segments.append(segment)
    while True:
        now = yield from explore(hand, now)
        now = yield from _pause(hand, now)


def rest_forever(hand: Hand, now: Command) -> Iterator[Command]:
    now = yield from reach(hand, now, hand.rest())
    while True:
        yield now


def _put_on_table(hand: Hand, now: Command, objects: Sequence[SceneObject]) -> Motion:
    """One by one, each at a free place on this hand's side."""
    for obj in objects:
        now = yield from pick(hand, now, obj)
        now = yield from place(hand, now, obj, _free_spot(hand, obj), "on the table")
        now = yield from _pause(hand, now)
    return now


def _pause(hand: Hand, now: Command) -> Motion:
    """Sometimes the operator does nothing for a while."""
    seconds = hand.rng.uniform(0.4, 1.6) if hand.rng.uniform() < 0.25 else 0.0
    return (yield from hold(hand, now, seconds))


def _free_spot(hand: Hand, obj: SceneObject) -> Float[np.ndarray, " 2"]:
    """A place on this side away from the other objects and the tray: the best of 30 draws."""
    (x0, x1), (_, y1) = WORKSPACE_M
    draws = hand.rng.uniform((x0, 0.04), (x1, y1), (30, 2)) * (1, hand.sign)
    taken = [
        hand.world.position(o.name)[:2] for o in hand.world.scene.objects if o.name != obj.name
    ]
    others = np.array([*taken, hand.world.scene.tray_xy_m])
    return draws[np.linalg.norm(draws[:, None] - others, axis=2).min(axis=1).argmax()]


def _into_tray(hand: Hand) -> str:
    return f"into the {hand.world.scene.tray_words}"


@dataclass(frozen=True, kw_only=True)
class Task:
    id: int
    name: str
    policy: Callable[[Hand, float], Iterator[Command]]


TASKS = (
    Task(id=901, name="Put the objects on the table into the tray", policy=tidy_up),
    Task(id=902, name="Rearrange the objects on the table", policy=rearrange),
    Task(id=903, name="Push the objects on the table", policy=push_around),
)
RANDOM_TASK = Task(id=904, name="Move both hands freely over the table", policy=explore_freely)


def start_policy(
    task: Task, world: World, rng: np.random.Generator
) -> dict[str, Iterator[Command]]:
    """The two hands' command streams.

    Each hand handles the objects on its own side, in random order. The second hand starts 2-3 s
    later, so that they do not collide over the tray.
    """
    first = rng.integers(2)
    streams = {}
    for i, side in enumerate(SIDES):
        hand = Hand(side=side, rng=np.random.default_rng(rng.integers(2**63)), world=world)
        delay = rng.uniform(0.1, 0.8) if i == first else rng.uniform(2.0, 3.0)
        streams[side] = task.policy(hand, float(delay))
    return streams
