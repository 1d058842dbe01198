"""Training of a tracker: exact resume after a kill, and its file in the stage `keypoints`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_stores import SIDE, P, T, square_clips, write_clips, write_index
from small_trainings import SPLITS, Stores, log_of, train_stage

from model.spatial_tracker.config import SpatialTrackerConfig
from model.spatial_tracker.model import SpatialTracker
from model.spatial_tracker.predictor import Tracks
from model.training.loop import TrainConfig
from stages.annotator_training.spatial_tracker import TrainSpatialTracker, mirrored, pick_points
from stages.annotator_training.train import ANNOTATOR_FILE
from stages.base import ClipInputs, Rejected
from stages.keypoints import spatial_tracker
from stages.keypoints.spatial_tracker import SpatialTracking, backward_error, tracker_depth
from stages.keypoints.stage import Keypoints
from stages.training.run import RunConfig
from storage.weights.ref import WeightsRef

TINIEST = SpatialTrackerConfig(
    window=8, iterations=2, working_height=32, working_width=32, encoder_widths=(8, 8, 8, 8),
    latent=8, motion=12, correlation_levels=2, correlation_radius=1, hidden=16, heads=2, blocks=1,
    support_layers=2, support_heads=2, support_tokens=4,
)  # fmt: skip


def truth_of(arrays: dict[str, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """What the stage `truth` would make of these clips: the first tracks move with the square."""
    depth = 1 / arrays["depth"]["inverse_depth"].astype(np.float32)
    tracks = arrays["keypoints"]["tracks"]
    n = len(tracks)
    at = np.round(tracks).astype(int).clip(0, SIDE - 1)
    along = depth[np.arange(n)[:, None, None], np.arange(T)[:, None], at[..., 1], at[..., 0]]
    return {
        "depth_m": depth.astype(np.float16),
        "depth_known": np.ones(depth.shape, bool),
        "tracks": tracks,
        "track_depth_m": along.astype(np.float32),
        "visible": np.ones((n, T, P), bool),
        "known": np.ones((n, P), bool),
    }


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    root = tmp_path_factory.mktemp("stores")
    index, arrays = write_index(root, SPLITS), square_clips(len(SPLITS))
    clip = write_clips(index, "clip", arrays["clip"])
    return {"discover": index, "clip": clip, "truth": write_clips(index, "truth", truth_of(arrays))}


def stage(steps: int = 3, **changes: Any) -> TrainSpatialTracker:
    base = TrainSpatialTracker(
        model=TINIEST, training=TrainConfig(steps=steps, warmup_steps=2, learning_rate=3e-3),
        clips_per_batch=2, points=12, n_val_clips=2, val_points=16, watch=RunConfig(save_every=2),
        device="cpu",
    )  # fmt: skip
    return replace(base, **changes)


@pytest.fixture(scope="module")
def trained(stores: Stores, tmp_path_factory: pytest.TempPathFactory) -> Path:
    result = train_stage(tmp_path_factory.mktemp("trained"), stage(steps=70), stores)
    log = log_of(result)
    assert np.mean([row["position"] for row in log[-10:]]) < 0.75 * np.mean(
        [row["position"] for row in log[1:11]]
    )
    scores = {
        "val/average Jaccard",
        "val/average Jaccard moving",
        "val/if still",
        "val/if still moving",
    }
    assert scores <= log[-1].keys() and log[-1]["val/if still moving"] < log[-1]["val/if still"]
    assert {ANNOTATOR_FILE, "held_out.png", "losses.csv", "losses.png", "training.md"} <= set(
        result.files
    )
    return result.file(ANNOTATOR_FILE)


def test_a_killed_training_resumes_exactly(stores: Stores, tmp_path: Path):
    whole = train_stage(tmp_path / "whole", stage(), stores)
    killed = train_stage(tmp_path / "killed", stage(), stores, kills=(1,))
    assert log_of(killed) == log_of(whole)
    assert killed.file(ANNOTATOR_FILE).read_bytes() == whole.file(ANNOTATOR_FILE).read_bytes()


def keypoints_stage(file: Path, **changes: Any) -> Keypoints:
    weights = WeightsRef.of(file, name="spatracker-tiny.safetensors", licence="Apache-2.0")
    annotator = SpatialTracking(
        weights=weights, model=TINIEST, depth_units="1/m", backward_points=4, clips_per_call=2
    )
    return Keypoints(annotator=replace(annotator, **changes), grid=4)  # type: ignore[arg-type]


def clips(n: int = 3) -> list[ClipInputs]:
    arrays = square_clips(n, seed=5)
    return [
        ClipInputs(
            row=i,
            clip_id=f"c{i}",
            arrays={
                "rgb": arrays["clip"]["rgb"][i],
                **{k: arrays["depth"][k][i] for k in ("inverse_depth", "valid")},
            },
        )
        for i in range(n)
    ]  # fmt: skip


def test_its_file_tracks_clips_in_the_stage_keypoints(trained: Path):
    keypoints = keypoints_stage(trained)
    together = keypoints.start("cpu", {})(clips())
    for made in together:
        assert not isinstance(made, Rejected)
        for spec in keypoints.outputs:
            spec.check(made[spec.name], "c")
        measured = np.isfinite(made["fb_error"]).any(axis=0)
        assert (
            1 <= measured.sum() <= 4
            and (made["visibility"] >= 0).all()
            and (made["visibility"] <= 1).all()
        )
        np.testing.assert_array_equal(made["visible"][1:], made["visibility"][1:] > 0.9)
    (alone,) = keypoints.start("cpu", {})(clips()[1:2])
    np.testing.assert_allclose(alone["tracks"], together[1]["tracks"], atol=1e-3)  # type: ignore
    about = keypoints.attributes
    assert (
        about["annotator"] == "spatracker-tiny"
        and about["depth_given"] == "metres"
        and "GFLOP" in about["expected_cost"]
    )


def test_the_way_back_is_that_of_the_reversed_clip(trained: Path):
    """It starts where the way there ended, and is measured only where the point is seen."""
    one = clips(1)[0]
    made = keypoints_stage(trained, backward_points=16).start("cpu", {})([one])[0]
    assert not isinstance(made, Rejected)
    error, seen = made["fb_error"], made["visible"]
    counted = np.isfinite(error)
    assert counted.any() and not counted[~seen].any()
    last = T - 1 - seen[::-1].argmax(axis=0)
    ends = error[last, np.arange(16)]
    # The way back starts where the way there ended
    np.testing.assert_allclose(ends[np.isfinite(ends)], 0, atol=1e-4)


def test_the_backward_error_is_given_for_each_frame_on_the_way(monkeypatch: pytest.MonkeyPatch):
    """A tracker that drifts by 0.3 px a frame has that error everywhere, however long the way."""
    n, drift = 6, 0.3
    there = np.zeros((n, 2, 2), np.float32)
    seen = np.ones((n, 2), bool)
    seen[4:, 1] = False
    sure = seen[None].astype(np.float32)
    found = Tracks(
        tracks=there[None], visible=seen[None], visibility=sure, depth=there[None, ..., 0]
    )
    last = np.array([n - 1, 3])

    def drifting(network, frames, depth, queries, **how) -> Tracks:
        assert queries[:, 0].tolist() == (n - 1 - last).tolist(), (
            "each starts where it was last seen"
        )
        steps = np.arange(n)[:, None] - (n - 1 - last)  # of the reversed clip
        tracks = np.stack([np.maximum(steps, 0) * drift, np.zeros(steps.shape)], axis=-1)
        return replace(found, tracks=tracks[None].astype(np.float32))

    monkeypatch.setattr(spatial_tracker, "track_points", drifting)
    frames, depth = np.zeros((n, 8, 8, 3), np.uint8), np.ones((n, 8, 8), np.float32)
    error = backward_error(SpatialTracker(TINIEST), frames, depth, there, seen, {})
    np.testing.assert_allclose(error[:5, 0], drift, rtol=1e-5)
    np.testing.assert_allclose(error[:3, 1], drift, rtol=1e-5)
    assert error[5, 0] == error[3, 1] == 0 and np.isnan(error[4:, 1]).all()


def test_depth_is_given_as_the_tracker_wants_it():
    inverse = np.array([[[4.0, 0.5], [0.01, 0.0]]], np.float16)
    valid = np.array([[[True, True], [True, False]]])
    arrays = {"inverse_depth": inverse, "valid": valid}
    np.testing.assert_allclose(
        tracker_depth(arrays, "1/m", 0.05)[0], [[0.25, 2], [99.98, 0]], rtol=1e-3
    )
    np.testing.assert_allclose(
        tracker_depth(arrays, "relative", 0.05)[0], [[1, 8], [20, 0]], rtol=1e-3
    )
    with pytest.raises(Rejected, match="no_depth"):
        tracker_depth({"inverse_depth": inverse, "valid": np.zeros_like(valid)}, "1/m", 0.05)


def test_a_clip_without_any_depth_is_rejected_alone(trained: Path):
    some = clips(2)
    some[0].arrays["valid"] = np.zeros_like(some[0].arrays["valid"])
    made = keypoints_stage(trained, backward_points=0).start("cpu", {})(some)
    assert (
        isinstance(made[0], Rejected)
        and made[0].reason == "no_depth"
        and not isinstance(made[1], Rejected)
    )
    assert np.isnan(made[1]["fb_error"]).all()


def test_half_of_the_points_move_where_that_many_do():
    draws = np.random.default_rng(0).uniform(size=50)
    moves = np.arange(50) < 20
    picked = pick_points(moves, draws, 20)
    assert len(set(picked.tolist())) == 20 and moves[picked].sum() >= 10
    assert {0, 1, 2} <= set(pick_points(np.arange(50) < 3, draws, 20).tolist())
    assert len(pick_points(moves, draws, 99)) == 50


def test_a_mirror_shows_every_point_where_its_pixel_went():
    arrays = square_clips(2)
    truth = {"rgb": arrays["clip"]["rgb"], **truth_of(arrays)}
    made = mirrored(truth, np.array([True, False]))
    for name, array in truth.items():
        np.testing.assert_array_equal(made[name][1], array[1])
    np.testing.assert_array_equal(made["rgb"][0], truth["rgb"][0][:, :, ::-1])
    x, y = truth["tracks"][0, 3, 7]
    np.testing.assert_allclose(made["tracks"][0, 3, 7], [SIDE - 1 - x, y])
