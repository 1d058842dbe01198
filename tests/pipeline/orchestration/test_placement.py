"""Devices and resources: one rule for both backends, and hints that `--set` accepts."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from machinery import Machinery
from toys import Frames

from model.spatial_tracker.config import tiny as tiny_tracker
from model.training.loop import TrainConfig
from model.video_depth.config import tiny as tiny_depth
from pipeline.experiments.overrides import Overrides
from pipeline.orchestration.placement import device_of_stage, resource_hint, scarce_resources
from stages.annotator_training.video_depth import TrainVideoDepth
from stages.base import ClipFunction, Resources
from stages.clips.clip import Clip
from stages.depth.stage import PseudoDepth
from stages.depth.video_depth_anything import VideoDepthAnything
from stages.keypoints.lucas_kanade import LucasKanade
from stages.keypoints.spatial_tracker import SpatialTracking
from stages.keypoints.stage import Keypoints
from stages.tokenizer.tokenize import Tokens
from storage.stores.results import Result
from storage.weights.ref import WeightsRef

WEIGHTS = WeightsRef(name="x", sha256="0" * 64)
DEVICES: list[str] = []


@dataclass(frozen=True, kw_only=True)
class OnGpu(Frames):
    """Frames that request half a GPU; records the device of each start."""

    resources: ClassVar[Resources] = Resources(cpus=0.5, gpus=0.5, clips_per_shard=4)

    def start(self, device: str, results: Mapping[str, Result]) -> ClipFunction:
        DEVICES.append(device)
        return super().start(device, results)


@dataclass(frozen=True, kw_only=True)
class Some:
    """Stages under their names, as an experiment has them."""

    clip: Clip
    depth: PseudoDepth
    keypoints: Keypoints
    rgb_tokens: Tokens
    annotator: TrainVideoDepth


def some(**changes: Any) -> Some:
    depth = VideoDepthAnything(weights=WEIGHTS, model=tiny_depth(), clips_per_call=2)
    tracks = SpatialTracking(weights=WEIGHTS, model=tiny_tracker(), depth_units="relative")
    made = Some(
        clip=Clip(root=""),
        depth=PseudoDepth(annotator=depth),
        keypoints=Keypoints(annotator=tracks),
        rgb_tokens=Tokens(source="rgb", grid=(8, 8)),
        annotator=TrainVideoDepth(model=tiny_depth(), training=TrainConfig(steps=1)),
    )
    return replace(made, **changes)


@pytest.mark.parametrize(
    ("gpus", "there", "device"), [(0.0, False, "cpu"), (0.0, True, "cpu"), (0.5, True, "cuda")]
)
def test_only_stages_that_request_a_gpu_use_one(
    monkeypatch: pytest.MonkeyPatch, gpus: float, there: bool, device: str
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    stage = Tokens(source="rgb", grid=(8, 8), resources=Resources(gpus=gpus))
    assert device_of_stage(stage) == device


def test_the_serial_backend_uses_the_gpu_that_its_stage_requests(
    machinery: Machinery, monkeypatch: pytest.MonkeyPatch
):
    DEVICES.clear()
    index = {"discover": machinery.index()}
    with pytest.raises(
        RuntimeError, match=r"stage 'clip' asks for gpus=0\.5, but torch finds no CUDA device here"
    ):
        machinery.run(OnGpu(), index)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    machinery.run(OnGpu(), index)
    assert DEVICES == ["cuda"]


@pytest.mark.parametrize(
    ("name", "scarce", "hint"),
    [
        ("depth", ["GPU"], "depth.annotator.gpus=0"),
        ("depth", ["memory"], "depth.annotator.clips_per_call=1"),
        (
            "keypoints",
            ["GPU", "CPU"],
            "keypoints.annotator.gpus=0 --set keypoints.annotator.cpus=...",
        ),
        ("keypoints", ["memory"], ""),
        ("rgb_tokens", ["GPU"], "rgb_tokens.resources.gpus=0"),
        ("rgb_tokens", ["memory"], "rgb_tokens.resources.memory_gb=..."),
        ("annotator", ["GPU"], "annotator.resources.gpus=0"),
        ("clip", ["memory"], ""),
    ],
)
def test_hints_name_settings_that_can_be_set(name: str, scarce: list[str], hint: str):
    e = some()
    said = resource_hint(getattr(e, name), scarce)
    assert said == (f"To ask for less: --set {hint}" if hint else "")
    for setting in said.split("--set ")[1:]:
        path, _, value = setting.strip().partition("=")
        Overrides(Path("none")).changed(e, {path: 1 if value == "..." else int(value)})


def test_an_annotator_that_has_no_such_setting_gets_no_hint():
    assert resource_hint(Keypoints(annotator=LucasKanade()), ["GPU", "memory"]) == ""


def test_only_resources_that_no_node_has_are_scarce():
    needed = Resources(cpus=2.0, gpus=1.0, memory_gb=4.0)
    assert scarce_resources(needed, [{"CPU": 4, "memory": 8e9}, {"CPU": 1, "memory": 8e9}]) == [
        "GPU"
    ]
    assert scarce_resources(needed, []) == ["CPU", "GPU", "memory"]
    apart = [{"CPU": 4, "memory": 8e9}, {"GPU": 1, "CPU": 1, "memory": 1e9}]
    assert scarce_resources(needed, apart) == ["CPU", "GPU", "memory"]
