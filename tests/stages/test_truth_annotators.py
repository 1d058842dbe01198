"""The annotators `truth`: exact labels, only of simulated episodes, and said so everywhere."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from label_clips import box_truth, write_box_sample

from stages.annotator import EXACT
from stages.base import ClipInputs, Rejected
from stages.clip_format import ClipFormat
from stages.depth.stage import PseudoDepth
from stages.depth.truth import TrueDepth
from stages.exact_labels import true_depth, true_tracks
from stages.keypoints.stage import Keypoints, grid_queries
from stages.keypoints.truth import TrueTracking
from stages.label_noise import SPOILED, DepthNoise, TrackNoise
from stages.label_quality.labels import AnnotatorInfo
from storage.stores.key import parameters

SIDE, T, SMALL = 32, 16, ClipFormat(size=32)
FRAMES = np.arange(T) * 2


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_box_sample(tmp_path)


def clip(episode: int = 1) -> ClipInputs:
    rng = np.random.default_rng(0)
    arrays = {
        "rgb": rng.integers(0, 255, (T, SIDE, SIDE, 3)).astype(np.uint8),
        "inverse_depth": np.ones((T, SIDE, SIDE), np.float16),
        "valid": np.ones((T, SIDE, SIDE), bool),
        "task": np.array(7),
        "episode": np.array(episode),
        "frame_index": FRAMES,
    }
    return ClipInputs(row=0, clip_id="a", arrays=arrays)


def stages(root: Path) -> tuple[PseudoDepth, Keypoints]:
    depth = PseudoDepth(annotator=TrueDepth.of(str(root), SMALL), clip_format=SMALL)
    return depth, Keypoints(annotator=TrueTracking.of(str(root)), grid=8, clip_format=SMALL)


def test_they_equal_the_exact_labels(root: Path):
    depth, keypoints = stages(root)
    (made,), (tracked,) = (stage.start("cpu", {})([clip()]) for stage in (depth, keypoints))
    assert isinstance(made, dict) and isinstance(tracked, dict)
    for stage, arrays in ((depth, made), (keypoints, tracked)):
        for spec in stage.outputs:
            spec.check(arrays[spec.name], "a")
    exact, known = true_depth(box_truth(), FRAMES, (SIDE, SIDE))
    np.testing.assert_array_equal(made["valid"], known)
    np.testing.assert_allclose(1 / made["inverse_depth"][known], exact[known], rtol=1e-3)
    points = true_tracks(box_truth(), FRAMES, grid_queries(8, (SIDE, SIDE)), (SIDE, SIDE))
    assert points.known.all() and not points.visible.all()
    np.testing.assert_array_equal(tracked["tracks"], points.tracks)
    np.testing.assert_array_equal(tracked["visible"], points.visible)


def test_clips_without_truth_are_rejected_and_other_data_sets_refused(root: Path):
    for stage in stages(root):
        (made,) = stage.start("cpu", {})([clip(episode=2)])
        assert isinstance(made, Rejected) and made.reason == "no_truth" and "/7/2" in made.detail
    (root / "sample.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no sample.json, so these are not simulated"):
        TrueDepth.of(str(root), SMALL)
    with pytest.raises(FileNotFoundError, match=r"no sample.json, so these are not simulated"):
        TrueTracking.of(str(root))


def test_a_sample_without_ground_truth_is_refused_before_anything_runs(tmp_path: Path):
    (tmp_path / "sample.json").write_text(json.dumps({"digest": "d" * 8}))
    with pytest.raises(FileNotFoundError, match=r"without exact labels.*ground_truth=True"):
        TrueTracking.of(str(tmp_path))


def test_another_sample_is_another_key_and_another_place_is_not(root: Path):
    before = [parameters(stage) for stage in stages(root)]
    assert all("root" not in str(one) for one in before)
    (root / "sample.json").write_text(json.dumps({"digest": "other"}))
    assert all(old != parameters(new) for old, new in zip(before, stages(root), strict=True))


def test_what_is_made_with_them_says_so(root: Path):
    for stage in stages(root):
        assert "no pseudo labels" in stage.attributes[EXACT]
        assert "stand_in_for" not in stage.attributes
    info = AnnotatorInfo("truth", "px", "", stages(root)[0].attributes[EXACT])
    assert info.caveat == ", exact ground truth of simulated episodes, no pseudo labels"


def test_they_can_be_spoiled_on_purpose(root: Path):
    depth, keypoints = stages(root)
    spoiled = (
        replace(depth, spoil=DepthNoise(noise=0.2)),
        replace(keypoints, spoil=TrackNoise(noise=4.0)),
    )
    for stage, worse, name in zip(
        (depth, keypoints), spoiled, ("inverse_depth", "tracks"), strict=True
    ):
        (exact,), (found,) = (each.start("cpu", {})([clip()]) for each in (stage, worse))
        assert isinstance(exact, dict) and isinstance(found, dict)
        for spec in worse.outputs:
            spec.check(found[spec.name], "a")
        assert not np.array_equal(exact[name], found[name])
        assert SPOILED in worse.attributes and SPOILED not in stage.attributes
