"""Inference imports no training: workers that only make data start light."""

import subprocess
import sys

import pytest
from repository import ROOT

TRAINING = ("matplotlib", "tensorboardX", "model.training.loop", "stages.training")


@pytest.mark.parametrize(
    "stage",
    [
        "stages.clips.clip",
        "stages.depth.sensor",
        "stages.depth.video_depth_anything",
        "stages.keypoints.dense_flow",
        "stages.keypoints.lucas_kanade",
        "stages.keypoints.spatial_tracker",
        "stages.tokenizer.tokenize",
        "stages.tokenizer.decode",
        "stages.evaluation.predict",
    ],
)
def test_a_stage_of_inference_imports_no_training(stage):
    code = f"import sys, {stage}; print(*({set(TRAINING)!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
