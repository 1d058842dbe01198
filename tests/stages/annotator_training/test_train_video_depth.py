"""Training of a depth annotator: exact resume after a kill, and its file in the stage `depth`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vda_small
from small_stores import SIDE, T, square_clips, write_clips, write_index
from small_trainings import SPLITS, Stores, log_of, train_stage

from model.training.loop import TrainConfig
from stages.annotator_training.train import ANNOTATOR_FILE
from stages.annotator_training.video_depth import TrainVideoDepth, varied
from stages.base import ClipInputs, Rejected
from stages.clip_format import ClipFormat
from stages.depth.stage import PseudoDepth
from stages.depth.video_depth_anything import VideoDepthAnything
from stages.training.run import RunConfig
from storage.weights.ref import WeightsRef

TINIEST = replace(vda_small.TINIEST, metric=True)
INPUT = 42  # px: 3 x 3 patches


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    root = tmp_path_factory.mktemp("stores")
    index, arrays = write_index(root, SPLITS), square_clips(len(SPLITS))
    depth = 1 / arrays["depth"]["inverse_depth"].astype(np.float32)
    truth = {"depth_m": depth.astype(np.float16), "depth_known": np.ones(depth.shape, bool)}
    clip = write_clips(index, "clip", arrays["clip"])
    return {"discover": index, "clip": clip, "truth": write_clips(index, "truth", truth)}


def stage(steps: int = 4, **changes: Any) -> TrainVideoDepth:
    base = TrainVideoDepth(
        model=TINIEST, training=TrainConfig(steps=steps, warmup_steps=2, learning_rate=3e-3),
        input_size=INPUT, clips_per_batch=2, frames_per_clip=4, n_val_clips=2,
        watch=RunConfig(save_every=2), device="cpu",
    )  # fmt: skip
    return replace(base, **changes)


@pytest.fixture(scope="module")
def trained(stores: Stores, tmp_path_factory: pytest.TempPathFactory) -> Path:
    result = train_stage(tmp_path_factory.mktemp("trained"), stage(steps=40), stores)
    log = log_of(result)
    assert np.mean([row["total"] for row in log[-5:]]) < 0.75 * np.mean(
        [row["total"] for row in log[1:6]]
    )
    assert (
        log[-1]["val/AbsRel"] < log[0]["val/AbsRel"]
        and log[-1]["val/delta1"] > log[0]["val/delta1"] + 0.15
    )
    assert log[-1]["val/delta1 in metres"] > log[0]["val/delta1 in metres"] + 0.25
    assert {ANNOTATOR_FILE, "held_out.png", "losses.csv", "losses.png", "training.md"} <= set(
        result.files
    )
    return result.file(ANNOTATOR_FILE)


def test_a_killed_training_resumes_exactly(stores: Stores, tmp_path: Path):
    whole = train_stage(tmp_path / "whole", stage(), stores)
    killed = train_stage(tmp_path / "killed", stage(), stores, kills=(1, 3))
    assert log_of(killed) == log_of(whole)
    assert killed.file(ANNOTATOR_FILE).read_bytes() == whole.file(ANNOTATOR_FILE).read_bytes()


def test_its_file_annotates_clips_in_the_stage_depth(trained: Path):
    weights = WeightsRef.of(trained, name="vda-tiny.safetensors", licence="Apache-2.0")
    annotator = VideoDepthAnything(
        weights=weights,
        model=TINIEST,
        input_size=INPUT,
        windows="direct",
        clip_format=ClipFormat(size=SIDE),
        clips_per_call=2,
    )
    depth = PseudoDepth(annotator=annotator, clip_format=ClipFormat(size=SIDE))
    rgb = square_clips(3, seed=5)["clip"]["rgb"]
    made = depth.start("cpu", {})(
        [ClipInputs(row=i, clip_id=f"c{i}", arrays={"rgb": rgb[i]}) for i in range(3)]
    )
    for one in made:
        assert not isinstance(one, Rejected)
        for spec in depth.outputs:
            spec.check(one[spec.name], "c")
    assert (
        depth.attributes["annotator"] == "vda-tiny" and depth.attributes["licence"] == "Apache-2.0"
    )
    assert (
        "direct windows, 42x42 px" in depth.attributes["made_by"]
        and "GFLOP" in depth.attributes["expected_cost"]
    )


def test_a_network_of_another_layout_is_refused(trained: Path):
    weights = WeightsRef.of(trained, name="vda-tiny.safetensors")
    other = replace(TINIEST, width=64)
    with pytest.raises(
        ValueError, match=r"holds a network of .*\(width=32.*the stage asks for .*width=64"
    ):
        VideoDepthAnything(weights=weights, model=other, clip_format=ClipFormat(size=SIDE)).start(
            "cpu"
        )
    with pytest.raises(ValueError, match="holds a network of"):
        stage(model=other, start_from=weights).build()


def test_a_relative_network_is_trained_and_scored_without_a_unit(stores: Stores, tmp_path: Path):
    log = log_of(
        train_stage(tmp_path, stage(steps=2, model=replace(TINIEST, metric=False)), stores)
    )
    assert {"val/AbsRel", "val/delta1"} <= log[-1].keys() and "val/AbsRel in metres" not in log[-1]
    assert np.isfinite(log[-1]["total"])


def test_clips_are_varied_as_their_draws_say():
    rng = np.random.default_rng(0)
    arrays = {
        "rgb": rng.integers(0, 255, (2, T, 4, 6, 3)).astype(np.uint8),
        "depth_m": rng.uniform(1, 2, (2, T, 4, 6)),
    }  # fmt: skip
    made = varied(arrays, 5, np.array([[0.0, 0.999], [0.9, 0.1], [0.5, 1.0]]))
    np.testing.assert_array_equal(made["depth_m"][0], arrays["depth_m"][0, :5])
    np.testing.assert_array_equal(made["depth_m"][1], arrays["depth_m"][1, -5:, :, ::-1])
    np.testing.assert_array_equal(made["rgb"][0], arrays["rgb"][0, :5])
    bright = np.clip(np.rint(arrays["rgb"][1, -5:, :, ::-1].astype(np.float32) * 1.25), 0, 255)
    np.testing.assert_array_equal(made["rgb"][1], bright)
    np.testing.assert_array_equal(
        varied(arrays, 99, np.zeros((3, 2)))["depth_m"].shape, arrays["depth_m"].shape
    )
