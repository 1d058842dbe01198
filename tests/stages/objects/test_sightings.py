"""Laws of the object scores, on plain squares whose colours and places are known."""

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.objects.masks import NO_OBJECT, TrueObjects
from stages.objects.object_scores import ObjectScores, object_scores, smallest_held
from stages.objects.sightings import Sighting, sightings, without_objects

TABLE = (0.1, 0.0, -0.1)
COLOURS = ((0.8, -0.7, -0.7), (-0.7, -0.2, 0.8), (0.8, 0.7, -0.8))  # red, blue, yellow
SIDE, PX = 64, 8


def scene(places: list[list[tuple[int, int]]]) -> tuple[Tensor, TrueObjects]:
    """Frames and objects; for each frame the (row, column) of each square's corner."""
    masks = np.full((len(places), SIDE, SIDE), NO_OBJECT, np.uint8)
    frames = torch.tensor(TABLE).view(1, 3, 1, 1).repeat(len(places), 1, SIDE, SIDE)
    for t, corners in enumerate(places):
        for n, (row, column) in enumerate(corners):
            at = slice(row, row + PX), slice(column, column + PX)
            masks[t][at] = n
            frames[t][(slice(None), *at)] = torch.tensor(COLOURS[n]).view(3, 1, 1)
    moved_m = np.array(
        [[float(a != b) for a, b in zip(at, places[0], strict=True)] for at in places]
    )
    return frames, TrueObjects(masks=masks, moved_m=moved_m)


RESTING = [(8, 8), (8, 40), (40, 8)]
MOVING = [(40, 40), (8, 40), (40, 8)]  # the red square has moved


@pytest.fixture
def clip() -> tuple[Tensor, TrueObjects]:
    return scene([RESTING, MOVING])


def scores(seen: list[Sighting]) -> ObjectScores:
    found = object_scores(seen)
    assert found is not None
    return found


def test_the_true_video_shows_every_object(clip):
    camera, objects = clip
    seen = sightings(camera, camera, objects)
    assert [(s.frame, s.object) for s in seen] == [(t, n) for t in (0, 1) for n in (0, 1, 2)]
    found = scores(seen)
    assert (found.named, found.present, found.colour_error, found.psnr) == (1, 1, 0, 100)
    assert [s.area for s in seen] == [pytest.approx(PX**2 / SIDE**2)] * 6


def test_each_object_has_its_own_way_from_its_first_place(clip):
    camera, objects = clip
    ways = [s.moved_m for s in sightings(camera, camera, objects)]
    assert ways == [0, 0, 0, 1, 0, 0]


def test_erased_objects_are_neither_present_nor_right_in_colour(clip):
    camera, objects = clip
    found = scores(sightings(without_objects(camera, objects.masks), camera, objects))
    assert found.present == 0
    assert found.colour_error > 40 and found.delta_e > 20 and found.psnr < 12
    assert found.named <= 1 / 3  # all have the table's colour, so all are taken for one


def test_a_copy_of_the_first_frame_loses_exactly_the_object_that_moved(clip):
    camera, objects = clip
    seen = sightings(camera[:1].expand(2, -1, -1, -1), camera, objects, frames=[1])
    assert [(s.object, s.moved_m, s.present) for s in seen] == [
        (0, 1, False),
        (1, 0, True),
        (2, 0, True),
    ]


@pytest.mark.parametrize(("shift", "present"), [(0, True), (2, True), (3, True), (16, False)])
def test_an_object_may_be_a_little_beside_its_place(clip, shift, present):
    camera, objects = clip
    there = [(row, column + shift) for row, column in RESTING]
    moved, _ = scene([there, there])
    assert all(s.present == present for s in sightings(moved, camera, objects, frames=[0]))


def test_a_half_hidden_object_at_rest_has_not_moved(clip):
    camera, objects = clip
    objects.masks[1, 8:12, 40:48] = NO_OBJECT  # the blue one, which rests
    assert [s.moved_m for s in sightings(camera, camera, objects, frames=[1])] == [1, 0, 0]


def test_an_object_alone_in_a_frame_cannot_be_named_but_can_be_there(clip):
    camera, objects = clip
    objects.masks[objects.masks != 1] = NO_OBJECT
    erased = without_objects(camera, objects.masks)
    (alone,) = sightings(erased, camera, objects, frames=[0])
    assert (alone.object, alone.named, alone.present) == (1, None, False)
    assert scores([alone]).named is None and smallest_held([alone], 0.9) is None


def test_swapped_colours_are_named_wrongly(clip):
    camera, objects = clip
    swapped, _ = scene([[RESTING[1], RESTING[0], RESTING[2]]] * 2)
    named = {s.object: s.named for s in sightings(swapped, camera, objects, frames=[0])}
    assert named == {0: False, 1: False, 2: True}


def test_small_and_hidden_objects_are_not_judged():
    camera, objects = scene([RESTING])
    masks = objects.masks
    masks[0, 8:16, 8:16] = NO_OBJECT
    masks[0, 8:10, 8:10] = 0  # 4 px of 64 x 64, where 10 are needed
    assert [s.object for s in sightings(camera, camera, objects)] == [1, 2]
    masks[:] = NO_OBJECT
    assert sightings(camera, camera, objects) == []
    assert object_scores([]) is None and smallest_held([], 0.9) is None


def sighting(area: float, *, named: bool) -> Sighting:
    return Sighting(
        frame=0, object=0, area=area, moved_m=0.0, named=named, present=named,
        squared_error=0.1, colour_error=1.0, delta_e=1.0,
    )  # fmt: skip


def test_the_smallest_object_held_is_that_from_which_on_all_are():
    small = [sighting(0.001 + i * 1e-5, named=False) for i in range(40)]
    large = [sighting(0.01 + i * 1e-5, named=True) for i in range(40)]
    assert smallest_held(small + large, 0.9) == pytest.approx(0.01)
    assert smallest_held(large, 0.9) == pytest.approx(0.01)
    assert smallest_held(small, 0.9) is None
    # A large object that is lost spoils all smaller ones' good luck
    assert smallest_held([*large, *[sighting(0.1, named=False)] * 20], 0.9) is None
