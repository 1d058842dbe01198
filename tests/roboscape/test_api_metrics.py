"""The evaluation's numbers for one video, and no guess about what a float means."""

import numpy as np
import pytest
import torch
from lpips_golden import linear_weights, trunk_weights
from small_stores import opened, square_clips, write_clips, write_index
from small_workspace import UNTRACKED
from small_world import SPLITS, World
from tiny_i3d import write_script

import roboscape as rs
from model.metrics import MAX_PSNR
from model.world.config import SamplingConfig
from stages.evaluation.controls import ControlForms
from stages.evaluation.predict import load_networks, predicted_videos
from stages.evaluation.scores import (
    CAMERA,
    COPY,
    DECODED,
    DETAIL,
    FRAME,
    FREE,
    MODEL,
    MOVING,
    PSEUDO_DEPTH,
    Cell,
    score_clip,
)
from storage.stores.results import open_result


@pytest.fixture(scope="module")
def video(model) -> rs.Video:
    return model.rollout(1)


def noisy(frames: np.ndarray, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 12, frames.shape)
    return np.clip(frames + noise, 0, 255).round().astype(np.uint8)


@pytest.mark.parametrize(("against", "reference"), [("camera", CAMERA), ("decoded", DECODED)])
def test_a_video_has_the_scores_of_the_evaluation(video, clips, world: World, against, reference):
    rows = opened(world.rows)
    results = {role: open_result(ref) for role, ref in world.results.items()}
    networks = load_networks(rows, results, torch.device("cpu"))
    at = (np.array([1]), None, SamplingConfig(), 0, 0)
    (made,) = predicted_videos(networks, rows, *at, forms=ControlForms())
    expected = score_clip(made, None).scores
    scores = rs.metrics.compare(video, clips[1], against=against)
    cells = {}
    for suffix, method in (("", MODEL), ("_copy", COPY)):
        for metric in ("psnr", "ssim"):
            cells[f"{metric}{suffix}"] = Cell(FREE, reference, FRAME, method, metric)
            cells[f"{metric}_moving{suffix}"] = Cell(FREE, reference, MOVING, method, metric)
        cells[f"psnr_detail{suffix}"] = Cell(FREE, reference, DETAIL, method, "psnr")
        cells[f"psnr_chroma{suffix}"] = Cell(FREE, reference, FRAME, method, "psnr_chroma")
        for metric in ("abs_rel", "delta1", "delta2"):
            for name in (metric, f"{metric}_aligned"):
                cells[f"{name}{suffix}"] = Cell(FREE, PSEUDO_DEPTH, FRAME, method, name)
    assert dict(scores) == pytest.approx(
        {name: expected[cell] for name, cell in cells.items()}, abs=1e-6
    )
    assert scores.n_frames == 15 and list(scores.missing) == ["lpips"]


def test_arrays_are_scored_whole_and_a_given_start_is_not(clips):
    true = clips[1].rgb
    predicted = noisy(true)
    scores = rs.metrics.compare(predicted, clips[1])
    error = (predicted.astype(float) - true) / 255
    expected = [10 * np.log10(1 / np.square(frame).mean()) for frame in error]
    assert scores["psnr"] == pytest.approx(np.mean(expected), abs=1e-4) and scores.n_frames == 16
    np.testing.assert_allclose(rs.metrics.frame_psnr(predicted, clips[1]), expected, atol=1e-4)
    predicted[:3] = 0
    assert rs.metrics.compare(predicted, true, n_given=3)["psnr"] == pytest.approx(
        np.mean(expected[3:]), abs=1e-4
    )
    assert dict(rs.metrics.compare(predicted, true)) == dict(
        rs.metrics.compare(predicted, clips[1])
    )
    assert "psnr" in scores and "abs_rel" not in scores


def test_a_float_video_is_never_taken_for_another(clips):
    """The same pixels in each way of writing them have the same score; without a range, none."""
    true, predicted = clips[1].rgb, noisy(clips[1].rgb)
    expected = dict(rs.metrics.compare(predicted, true))
    for low, high in ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)):
        as_float = (low + predicted / 255 * (high - low)).astype(np.float32)
        found = rs.metrics.compare(as_float, true, value_range=(low, high))
        assert dict(found) == pytest.approx(expected, abs=1e-4)
        with pytest.raises(
            ValueError, match=r"say what black and white are, such as value_range=\(0, 1\)"
        ):
            rs.metrics.compare(as_float, true)
        with pytest.raises(ValueError, match="say what black and white are"):
            rs.metrics.frame_psnr(true, as_float)
    unit = predicted / 255
    both = rs.metrics.compare(unit, true / 255, value_range=(0, 1))
    assert dict(both) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("value_range", [(-1, 1), (0, 255)])
def test_a_video_in_0_1_is_refused_as_one_of_a_wider_range(clips, value_range):
    """It would have 6 or 48 dB too much."""
    true, predicted = clips[1].rgb, noisy(clips[1].rgb) / 255
    why = r"all of them in \[0, 1\]: that is a video with value_range=\(0, 1\)"
    for pair in ((predicted, true), (true, predicted)):
        for metric in (rs.metrics.compare, rs.metrics.frame_psnr):
            with pytest.raises(ValueError, match=why):
                metric(*pair, value_range=value_range)
    bright = np.maximum(true, 128)
    assert rs.metrics.compare(bright, bright)["psnr"] == MAX_PSNR, "uint8 has a range of its own"


@pytest.mark.parametrize(
    ("change", "value_range", "message"),
    [
        (lambda rgb: rgb / 255 * 2 - 1, (0, 1), r"values in \[-.*outside value_range=\(0, 1\)"),
        (lambda rgb: rgb.astype(np.float32), (0, 1), "are outside"),
        (lambda rgb: np.where(rgb > 200, np.nan, rgb), (0, 255), "NaN or infinite"),
        (lambda rgb: rgb / 255, (1, 0), "are outside"),
        (lambda rgb: rgb.astype(int), None, "int64: expected uint8, or float and a value_range"),
        (lambda rgb: rgb[..., 0], None, r"\(16, 32, 32\): expected \(frames, height, width, 3\)"),
        (lambda rgb: rgb.transpose(0, 3, 1, 2), None, r"expected \(frames, height, width, 3\)"),
        (lambda rgb: rgb[:, ::2], None, r"frames of \(16, 32\) px, the target of \(32, 32\) px"),
        (lambda rgb: rgb[:0], None, "expected"),
    ],
)  # fmt: skip
def test_odd_frames_are_refused(clips, change, value_range, message):
    with pytest.raises(ValueError, match=message):
        rs.metrics.compare(change(clips[1].rgb), clips[1], value_range=value_range)


def test_other_mistakes_are_explained(video, clips):
    with pytest.raises(
        ValueError, match=r"the video is of clip clip001, not of clip002.*clip\.rgb"
    ):
        rs.metrics.compare(video, clips[2])
    with pytest.raises(ValueError, match="against='decoded' needs a Video"):
        rs.metrics.compare(clips[1].rgb, clips[1], against="decoded")
    with pytest.raises(ValueError, match="expected 'camera' or 'decoded'"):
        rs.metrics.compare(video, clips[1], against="nonsense")
    for given in (16, -1):
        with pytest.raises(
            ValueError, match=f"n_given={given}: nothing is left to score of 16 frames"
        ):
            rs.metrics.compare(video, clips[1], n_given=given)


def test_equal_frames_have_the_best_scores(clips):
    scores = rs.metrics.compare(clips[1].rgb, clips[1])
    assert scores["psnr"] == MAX_PSNR and scores["ssim"] == pytest.approx(1)
    still = np.broadcast_to(clips[1].rgb[:1], clips[1].rgb.shape)
    assert "nothing moves" in rs.metrics.compare(still, still).missing["psnr_moving"]


def test_a_longer_video_is_scored_as_far_as_the_clip_goes(model, clips):
    scores = rs.metrics.compare(model.rollout(1, n_frames=18), clips[1])
    assert scores.n_frames == 15
    assert dict(scores) == pytest.approx(dict(rs.metrics.compare(model.rollout(1), clips[1])))
    assert rs.metrics.compare(model.rollout(1, n_frames=4), clips[1]).n_frames == 3


def test_depth_that_cannot_be_scored_says_why(video, clips, world, tmp_path):
    index, arrays = write_index(tmp_path, SPLITS), square_clips(len(SPLITS))
    clip = write_clips(index, "clip", arrays["clip"])
    scores = rs.metrics.compare(video, rs.open(tmp_path).clips()[1])
    assert "no complete store 'depth'" in scores.missing["abs_rel"] and "psnr" in scores
    arrays["depth"]["inverse_depth"] += np.float16(1)
    other = write_clips(index, "depth", arrays["depth"], inputs={"clip": clip.uri})
    scores = rs.metrics.compare(video, rs.open(tmp_path).clips()[1])
    why = f"the model's depth is that of {world.rows['depth']}, the clip's {other}"
    assert why in scores.missing["abs_rel"]


def test_lpips_is_measured_where_its_weights_are(clips, tmp_path):
    torch.save(trunk_weights(), tmp_path / "trunk.pth")
    torch.save(linear_weights(), tmp_path / "linear.pth")
    files = (tmp_path / "trunk.pth", tmp_path / "linear.pth")
    scores = rs.metrics.compare(noisy(clips[1].rgb), clips[1], lpips=files)
    assert scores["lpips"] > 0 and scores["lpips_copy"] > 0 and not scores.missing
    assert rs.metrics.compare(clips[1].rgb, clips[1], lpips=files)["lpips"] == 0
    with pytest.raises(FileNotFoundError, match="LPIPS needs torchvision's AlexNet"):
        rs.metrics.compare(clips[1].rgb, clips[1], lpips=(tmp_path / "gone.pth", files[1]))


def test_the_text_is_a_table_beside_copying(video, clips):
    lines = repr(rs.metrics.compare(video, clips[1])).splitlines()
    assert lines[0] == "15 predicted frames against the true frames of clip clip001"
    assert lines[1].split() == ["predicted", "copied"]
    names = [line.split()[0] for line in lines[2:]]
    pictures = ["psnr", "psnr_moving", "psnr_detail", "psnr_chroma", "ssim", "ssim_moving"]
    assert names[:6] == pictures and names[-1] == "lpips"
    assert lines[2].endswith("dB") and len(lines[6].split()) == 3
    assert clips[UNTRACKED].clip_id not in repr(lines)


def test_flicker_is_that_of_what_is_still(clips):
    still = np.repeat(clips[1].rgb[:1], 8, axis=0)
    assert rs.metrics.flicker(still, clips[1].rgb[:8]) == 0
    shaken = still.copy()
    shaken[2::2] += 3  # three levels up, three levels down
    assert rs.metrics.flicker(shaken, still) == pytest.approx(3, rel=1e-4)
    assert rs.metrics.flicker(shaken / 255, still / 255, value_range=(0, 1)) == pytest.approx(
        3, rel=1e-4
    )
    assert rs.metrics.flicker(shaken, clips[1]) == pytest.approx(3, abs=0.1)
    with pytest.raises(ValueError, match=r"2 frames in common: flicker needs 3"):
        rs.metrics.flicker(shaken[:2], still)
    later = np.concatenate([still, 255 - still])  # all of it moves, after the video has ended
    assert rs.metrics.flicker(shaken, later) == pytest.approx(3, rel=1e-4)
    with pytest.raises(TypeError, match="against"):
        rs.metrics.flicker(shaken, still, against="decoded")
    moves = still.copy()
    moves[1:] = 255 - moves[1:]
    with pytest.raises(ValueError, match=r"all of the true video moves"):
        rs.metrics.flicker(shaken, moves)


def test_fvd_is_the_distance_of_two_sets(clips, video, tmp_path, monkeypatch):
    weights = write_script(tmp_path / "i3d.pt")
    true = [clips[i].rgb for i in (1, 2, 5)]
    assert rs.metrics.fvd(true, true, weights) == pytest.approx(0, abs=1e-4)
    by_level = [
        rs.metrics.fvd(
            [np.clip(x.astype(int) + by, 0, 255).astype(np.uint8) for x in true], true, weights
        )
        for by in (2, 8, 32)
    ]
    assert by_level == sorted(by_level) and by_level[0] > 0
    units = [x / 255 for x in true]
    noisy_units = [noisy(x) / 255 for x in true]
    found = rs.metrics.fvd(noisy_units, units, weights, value_range=(0, 1))
    assert found == pytest.approx(rs.metrics.fvd([noisy(x) for x in true], true, weights), rel=1e-3)
    assert rs.metrics.fvd([video, video], [clips[1], clips[2]], weights) > 0
    with monkeypatch.context() as gone:  # the network is kept: the file is read once
        gone.setattr(torch.jit, "load", None)
        assert rs.metrics.fvd(true, true, weights) == pytest.approx(0, abs=1e-4)
    with pytest.raises(ValueError, match=r"1 videos and 3 targets"):
        rs.metrics.fvd(true[:1], true, weights)
    with pytest.raises(ValueError, match=r"video 1 with values .* say what black and white are"):
        rs.metrics.fvd([true[0], units[0]], true, weights)
    with pytest.raises(ValueError, match=r"videos of 9 frames"):
        rs.metrics.fvd([x[:10] for x in true], true, weights)
