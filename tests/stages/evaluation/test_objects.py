"""Objects in the evaluation: a prediction is scored by the objects that it keeps and moves."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_stores import T
from small_world import World, make_world, write_square_truth

from model.world.cache import FrameTokens
from stages.evaluation import predict
from stages.evaluation.controls import OTHER_CLIP
from stages.evaluation.horizon import by_frame
from stages.evaluation.objects import MethodSightings, object_numbers, scores_at
from stages.evaluation.scores import FREE, MODEL, TEACHER
from stages.objects.sightings import Sighting
from storage.stores.results import Result


def sighting(frame: int, *, moved: bool | None, present: bool, error: float = 0.04) -> Sighting:
    """moved: None is a little."""
    way = {True: 0.3, False: 0.0, None: 0.05}[moved]
    return Sighting(
        frame=frame, object=0, area=0.01, moved_m=way, named=present, present=present,
        squared_error=error, colour_error=1.0, delta_e=2.0,
    )  # fmt: skip


def test_regions_are_by_motion_and_permanence_by_frame():
    seen = [
        sighting(1, moved=False, present=True),
        sighting(2, moved=False, present=True),
        sighting(2, moved=True, present=False),
        sighting(3, moved=True, present=True),
    ]
    found = dict(object_numbers(seen, n_frames=4))
    assert found["objects", "present_half"] == 0.5 and found["objects", "present_end"] == 1
    assert found["moved objects", "present_half"] == 0
    assert found["objects at rest", "present_half"] == 1
    assert ("objects at rest", "present_end") not in found  # none was there
    assert found["objects", "psnr"] == pytest.approx(20)


def test_what_has_moved_by_less_than_its_width_is_neither_moved_nor_at_rest():
    found = dict(object_numbers([sighting(3, moved=None, present=True)], n_frames=4))
    assert {region for region, _ in found} == {"objects"}


def test_permanence_pools_the_objects_of_all_clips():
    def watched(*seen: Sighting) -> list[MethodSightings]:
        return [MethodSightings(protocols=(FREE,), method=MODEL, seen=seen)]

    clips = [
        watched(*[sighting(1, moved=False, present=True)] * 3),
        watched(sighting(1, moved=True, present=False), sighting(2, moved=True, present=True)),
    ]
    at = scores_at(clips, FREE, MODEL, 1)
    found = {region: (scores.n, scores.present) for region, scores in at.items()}
    assert found == {
        "objects": (4, 0.75),
        "moved objects": (1, 0),
        "objects at rest": (3, 1),
    }
    assert scores_at(clips, TEACHER, MODEL, 1) == {}


def test_psnr_over_the_horizon_has_gaps_where_nothing_is_seen():
    seen = [sighting(1, moved=False, present=True), sighting(3, moved=False, present=True)]
    found = by_frame(seen, "objects", "psnr", 4)
    assert np.isnan(found[[0, 2]]).all() and found[[1, 3]] == pytest.approx(20)


# The stage


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The small world, with exact ground truth of its square beside the episodes."""
    world = make_world(tmp_path_factory.mktemp("objects"))
    write_square_truth(world)
    return world


def perfect(model, true, actions, controls, *rest) -> predict.PredictedTokens:
    return predict.PredictedTokens(
        by_protocol={FREE: true, TEACHER: true}, controls={OTHER_CLIP: [true]}
    )


@pytest.fixture(scope="module")
def evaluated(world: World) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "predict_tokens", perfect)
        return world.evaluate(root=str(world.root))


def test_a_perfect_model_has_the_tokenizers_objects(evaluated: Result):
    numbers = evaluated.numbers
    assert numbers["psnr_free_objects"] == numbers["tokenizer_psnr_objects"]
    assert "named_free" not in numbers  # each object is alone in its frame
    text = evaluated.file("metrics.md").read_text()
    assert "**Permanence**" in text and "after 4 s" in text and "after 7.5 s" in text
    assert "## Free-running, objects, against the camera frames" in text


def test_every_sighting_is_in_the_table(evaluated: Result):
    with evaluated.file("tables/objects.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    ours = [row for row in rows if (row["protocol"], row["method"]) == (FREE, MODEL)]
    assert {int(row["frame"]) for row in ours} == set(range(1, T))
    assert {row["method"] for row in rows} >= {MODEL, "copy of frame 0", "tokenizer's ceiling"}
    assert Image.open(evaluated.file("objects.png")).width > 800


def test_a_model_that_copies_is_as_bad_as_the_copy_of_its_decoded_frame(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    def copies(model, true, actions, controls, *rest) -> predict.PredictedTokens:
        rgb, depth = (x[:, :1].expand_as(x) for x in (true.rgb, true.depth))
        copied = FrameTokens(rgb, depth)
        return predict.PredictedTokens(
            by_protocol={FREE: copied, TEACHER: copied}, controls={OTHER_CLIP: [copied]}
        )

    monkeypatch.setattr(predict, "predict_tokens", copies)
    numbers = world.evaluate(root=str(world.root), seed=1).numbers
    assert numbers["psnr_free_objects"] < numbers["psnr_copy_objects"]
    assert numbers["beats_copy_objects"] == 0


def test_without_ground_truth_the_page_says_that_objects_were_not_measured(
    world: World, tmp_path: Path
):
    result = world.evaluate(root=str(tmp_path), seed=2)
    assert "objects.png" not in result.files
    assert not [name for name in result.numbers if "objects" in name]
    assert "No masks of objects" in result.file("metrics.md").read_text()
