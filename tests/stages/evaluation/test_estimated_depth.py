"""Depth estimated from pictures: the annotator on each video against itself on the camera's."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from brightness_depth import UNKNOWN_BELOW, Brightness
from small_world import World, add_world_model, make_world

from stages.depth.sensor import SensorDepth
from stages.depth.stage import DepthAnnotator
from stages.depth.truth import TrueDepth
from stages.evaluation.estimated_depth import ALIGNED, FOUND, EstimatedDepth
from stages.evaluation.scores import (
    CAMERA,
    CEILING,
    COPY,
    ESTIMATED_DEPTH,
    FRAME,
    FREE,
    LINEAR,
    MODEL,
    PREVIOUS,
    PSEUDO_DEPTH,
    TEACHER,
    ClipVideos,
    candidates,
)
from stages.evaluation.stage import Evaluate
from stages.tokenizer.images import images_to_rgb
from storage.stores.key import parameters


def scored_by(annotator: DepthAnnotator, clip: ClipVideos):
    estimate = EstimatedDepth(annotator, torch.device("cpu"))
    return estimate(clip.clip_id, clip.camera, candidates(clip, CAMERA))


def videos(side: int = 16) -> ClipVideos:
    noise = torch.Generator().manual_seed(0)
    camera = torch.rand(5, 3, side, side, generator=noise) * 1.6 - 0.9
    camera[:, :, 2:5, 2:5] = -1  # not known
    camera[:, :, 7, 7] = 1  # not finite
    worse = (camera + 0.1).clamp(-1, 0.9)
    return ClipVideos(
        clip_id="clip", camera=camera, decoded=camera * 0.95, depth=None,
        predicted={FREE: worse, TEACHER: camera},
    )  # fmt: skip


def estimated(clip: ClipVideos) -> dict[tuple[str, str, str], float]:
    scores = scored_by(Brightness(), clip)
    assert {(cell.reference, cell.region) for cell in scores} <= {(ESTIMATED_DEPTH, FRAME)}
    return {(cell.protocol, cell.method, cell.metric): value for cell, value in scores.items()}


def test_abs_rel_is_what_a_plain_loop_finds():
    clip = videos()
    found, errors = estimated(clip), []
    ours, true = (images_to_rgb(v).mean(axis=3) for v in (clip.predicted[FREE], clip.camera))
    for t in range(1, 5):
        for y in range(16):
            for x in range(16):
                if UNKNOWN_BELOW <= true[t, y, x] <= 250 and ours[t, y, x] >= UNKNOWN_BELOW:
                    near, far = 0.2 + ours[t, y, x] / 64, 0.2 + true[t, y, x] / 64
                    errors.append(abs(1 / near - 1 / far) * far)
    assert found[FREE, MODEL, "abs_rel"] == pytest.approx(np.mean(errors), rel=1e-4)


def test_the_same_pictures_have_the_same_depth_and_other_pictures_another():
    found = estimated(videos())
    assert found[TEACHER, MODEL, "abs_rel"] == 0 and found[TEACHER, MODEL, "delta1"] == 1
    assert 0 < found[FREE, MODEL, "abs_rel"] < found[FREE, COPY, "abs_rel"]
    assert found[FREE, CEILING, "abs_rel"] > 0
    methods = {(protocol, method) for protocol, method, _ in found}
    both = {(protocol, m) for protocol in (FREE, TEACHER) for m in (MODEL, COPY, CEILING)}
    assert methods == both | {(TEACHER, PREVIOUS), (TEACHER, LINEAR)}
    assert {"abs_rel_aligned", "delta2"} <= {metric for _, _, metric in found}


def test_more_noise_is_worse():
    clip = videos()
    noise = torch.randn(clip.camera.shape, generator=torch.Generator().manual_seed(1))
    errors = []
    for level in (0.0, 0.05, 0.1, 0.2, 0.4):
        shaken = (clip.camera + level * noise).clamp(-0.97, 0.9)
        shaken = torch.where(clip.camera.abs() == 1, clip.camera, shaken)
        errors.append(estimated(replace(clip, predicted={FREE: shaken, TEACHER: clip.camera})))
    by_level = [found[FREE, MODEL, "abs_rel"] for found in errors]
    assert by_level == sorted(by_level) and by_level[1] > by_level[0]


def test_a_clip_with_a_rejected_video_is_scored_for_no_method_of_the_protocol():
    clip = videos()
    black = torch.full_like(clip.camera, -1)
    found = estimated(replace(clip, predicted={FREE: black, TEACHER: clip.camera}))
    free = {(method, metric): value for (p, method, metric), value in found.items() if p == FREE}
    assert free == {(MODEL, FOUND): 0, (COPY, FOUND): 1, (CEILING, FOUND): 1}
    assert found[TEACHER, MODEL, FOUND] == 1 and (TEACHER, COPY, "abs_rel") in found


def test_a_clip_whose_true_frames_have_no_depth_has_no_scores():
    clip = videos()
    black = torch.full_like(clip.camera, -1)
    assert estimated(replace(clip, camera=black)) == {}
    flat = torch.full_like(clip.camera, 0.1)
    assert estimated(replace(clip, camera=flat)) == {}, "one depth is no depth"
    dark = torch.full_like(clip.camera, -1 + 2 / 255)
    assert estimated(replace(clip, camera=dark)) == {}, "known nowhere"
    unknown = dark.clone()
    unknown[0] = clip.camera[0]
    assert estimated(replace(clip, camera=unknown)) == {}, "known in the given frame alone"


@dataclass(frozen=True, kw_only=True)
class RelativeBrightness(Brightness):
    units: ClassVar = "relative"


def test_an_annotator_without_units_has_aligned_scores_only():
    scores = scored_by(RelativeBrightness(), videos())
    assert {cell.metric for cell in scores} == {FOUND, *ALIGNED}
    by_metres = scored_by(Brightness(), videos())
    assert scores.items() <= by_metres.items()


def test_an_annotator_at_another_rate_takes_the_clips_own_frames():
    plain = scored_by(Brightness(), videos())
    fast = scored_by(Brightness(annotation_rate_hz=10.0), videos())
    assert plain and fast == plain


def test_annotators_that_read_what_is_recorded_are_refused():
    with pytest.raises(ValueError, match=r"depth_annotator=sensor reads .* vda-tiny"):
        Evaluate(depth_annotator=SensorDepth(root=""))
    with pytest.raises(ValueError, match=r"depth_annotator=truth reads discover/task"):
        Evaluate(depth_annotator=TrueDepth(root="", sample="0"))


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return make_world(tmp_path_factory.mktemp("estimated"))


def test_a_model_without_a_depth_branch_is_scored_in_a_table_of_its_own(world, monkeypatch):
    monkeypatch.setattr(Evaluate, "draw", lambda *arguments: None)
    rgb_only = add_world_model(world.root, world.results, depth_branch=False)
    without = replace(world, results={**world.results, "world_model": rgb_only})
    result = without.evaluate(n_clips=2, seed=1, depth_annotator=Brightness())
    assert result.numbers["abs_rel_estimated"] > 0 and "abs_rel" not in result.numbers
    text = result.file("metrics.md").read_text()
    heading = "## Free-running, against the estimated depth (of the camera frames, by brightness)"
    section = text.split(heading)[1].split("## ")[0]
    assert "AbsRel ↓" in section and PSEUDO_DEPTH not in section and "PSNR" not in section


def test_predicted_and_estimated_depth_are_never_in_one_table(world, monkeypatch):
    monkeypatch.setattr(Evaluate, "draw", lambda *arguments: None)
    result = world.evaluate(n_clips=2, depth_annotator=Brightness())
    numbers = result.numbers
    assert numbers["abs_rel"] != numbers["abs_rel_estimated"]
    headings = [x for x in result.file("metrics.md").read_text().splitlines() if "depth (" in x]
    assert sum(ESTIMATED_DEPTH in x for x in headings) == 2  # one for each protocol
    assert sum(PSEUDO_DEPTH in x for x in headings) == 2
    text = result.file("metrics.md").read_text()
    assert "of 2 of 2 clips, and rejects the free-running prediction of 0 of them" in text
    plain = world.evaluate(n_clips=2).file("metrics.md").read_text()
    assert "`evaluation.depth_annotator=vda-tiny` does so" in plain and ESTIMATED_DEPTH not in plain
    assert parameters(Evaluate(depth_annotator=None)) == parameters(Evaluate())
