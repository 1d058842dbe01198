"""Exact labels of simulated clips in a store: right, repeatable, and a reason where none exist."""

import json
from pathlib import Path

import numpy as np
import pytest
from label_clips import write_box_sample
from small_stores import write_clips, write_index

from stages.annotator_training.truth import Truth, random_points
from stages.base import ClipInputs, Rejected
from stages.clip_format import ClipFormat
from storage.stores.rows import open_rows

SIDE, T = 32, 16
FRAMES = np.arange(T) * 2


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_box_sample(tmp_path)


def clip(episode: int = 1, clip_id: str = "a") -> ClipInputs:
    arrays = {"task": np.array(7), "episode": np.array(episode), "frame_index": FRAMES}
    return ClipInputs(row=0, clip_id=clip_id, arrays=arrays)


def test_a_clips_labels_are_those_of_the_moving_plate(root: Path):
    stage = Truth.of(root, clip_format=ClipFormat(size=SIDE), points=400)
    (made,) = stage.start("cpu", {})([clip()])
    assert not isinstance(made, Rejected)
    for spec in stage.outputs:
        spec.check(made[spec.name], "a")
    assert (
        set(np.unique(made["depth_m"])) == {1.0, 2.0}
        and made["known"].all()
        and made["depth_known"].all()
    )
    on_plate = made["track_depth_m"][0] < 1.5
    moved = made["tracks"][-1] - made["tracks"][0]
    np.testing.assert_allclose(moved[on_plate], [[6, 0]] * on_plate.sum(), atol=1e-3)
    np.testing.assert_allclose(moved[~on_plate], 0, atol=1e-4)
    assert on_plate.any() and not made["visible"][:, ~on_plate].all(), (
        "the plate hides some of the wall"
    )
    np.testing.assert_allclose(made["track_depth_m"][:, on_plate], 1, atol=1e-3)


def test_points_differ_between_clips_and_not_between_calls():
    first = random_points(500, SIDE, "a")
    np.testing.assert_array_equal(first, random_points(500, SIDE, "a"))
    assert not np.array_equal(first, random_points(500, SIDE, "b"))
    assert first.min() >= 0 and first.max() <= SIDE - 1
    counts = np.histogram2d(*first.T, bins=2, range=[[0, SIDE - 1]] * 2)[0]
    assert counts.min() > 85, f"places are uneven over the picture's quarters: {counts}"


def test_an_episode_without_truth_is_rejected_and_other_data_sets_are_refused(
    root: Path, tmp_path: Path
):
    (made,) = Truth.of(root, clip_format=ClipFormat(size=SIDE)).start("cpu", {})([clip(episode=2)])
    assert isinstance(made, Rejected) and made.reason == "no_truth" and "/7/2" in made.detail
    (root / "sample.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no sample.json.*roboscape sample"):
        Truth.of(root)


def test_another_sample_is_another_key_and_another_place_is_not(root: Path):
    from storage.stores.key import parameters

    one = Truth.of(root)
    (root / "sample.json").write_text(json.dumps({"digest": "other"}))
    assert parameters(one) != parameters(Truth.of(root))
    assert "root" not in parameters(one)


def test_the_preview_is_a_picture(root: Path, tmp_path: Path):
    stage = Truth.of(root, clip_format=ClipFormat(size=SIDE), points=64)
    (made,) = stage.start("cpu", {})([clip()])
    assert not isinstance(made, Rejected)
    index = write_index(tmp_path / "stores", ["train"])
    rows = open_rows(
        write_clips(index, "truth", {name: array[None] for name, array in made.items()})
    )
    picture = stage.preview(rows, {}, [0])
    assert picture.shape[2] == 3 and picture.std() > 10
